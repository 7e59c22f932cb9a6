"""`nightly_backfill`: asks for what the automation conditions of the assets call for."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from pipelines import names


def build(run_tags: Mapping[str, Any], target: dg.AssetSelection | None = None) -> dg.AutomationConditionSensorDefinition:
    """The sensor; `run_tags` are given to all runs that it asks for. `target`: other than all of bulk work."""
    return dg.AutomationConditionSensorDefinition(
        "nightly_backfill",
        target=target or dg.AssetSelection.groups(names.INGEST_GROUP, names.DEPTH_GROUP),
        run_tags=run_tags,
        # Switched off until somebody switches it on: it spends device time on every profile of profiles.toml.
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Asks, at night, for every partition that is missing or whose upstream has changed.",
    )
