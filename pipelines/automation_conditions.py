"""When Dagster should do by itself what is missing or changed: the conditions, not the sensors that evaluate them."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from pipelines import names

OPENS = "0 2 * * *"
CLOSES = "0 6 * * *"


def missing_or_changed(key_prefix: Sequence[str] = ()) -> dg.AutomationCondition[dg.AssetKey]:
    """Nightly, each partition at most once: what was never made, or whose upstream has been made again since.

    Between OPENS and CLOSES a partition is asked for when it is missing or an upstream partition was updated after it was last
    asked for or made, no upstream is missing or in progress, and it is not in progress itself. A run that fails is not asked
    for again before the next night.
    """
    condition = dg.AutomationCondition
    # manifest_index is followed by a sensor that knows which chunks changed; a dependency on it would ask for all of them.
    # profile may never have been reported (its sensor can be switched off), which must not hold anything back.
    index, profile = (dg.AssetKey([*key_prefix, name]) for name in (names.MANIFEST_INDEX, names.PROFILE))
    not_waited_for = dg.AssetSelection.assets(index, profile)
    tonight = condition.cron_tick_passed(OPENS).since(
        condition.newly_requested()
        | condition.newly_updated()
        | condition.initial_evaluation()
        | condition.cron_tick_passed(CLOSES)
    )
    changed = condition.any_deps_updated().ignore(dg.AssetSelection.assets(index)).since_last_handled()
    ready = ~condition.any_deps_missing().ignore(not_waited_for) & ~condition.any_deps_in_progress().ignore(not_waited_for)
    return ((condition.missing() | changed) & tonight & ready & ~condition.in_progress()).with_label(
        "missing or changed, at night"
    )
