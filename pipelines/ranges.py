"""Runs of several partitions: which ones a run has, how each is reported once, and which ranges ask for given ones.

What does not belong here: what is done with a partition.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG as END
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_START_TAG as START

from depth_core.display import shown_text
from depth_core.errors import DepthlineError
from depth_core.serving.leases import Lease, Leases

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext
Body = Callable[[str], Mapping[str, Any]]

# In an output's metadata: Dagster then records no materialization by itself. The events of the partitions are there already.
RECORDED = SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION

NAMED = 5  # partitions in the message of a failed run; its metadata has all


def keys_of(context: Context) -> list[str]:
    """The partitions that a run is asked for, one or a range of them.

    What the run's tags say of a range counts. Dagster itself takes a run of a job backfill that covers several pairs for a run of
    one pair, since such a run has the tags of the first pair of the backfill too, which its range need not even hold.
    """
    ends = (context.run.tags.get(START), context.run.tags.get(END))
    if ends == (None, None):
        return list(context.partition_keys)
    wanted = dg.PartitionKeyRange(*map(str, ends))
    op = context.op_execution_context
    pairs = op.assets_def.partitions_def
    assert pairs is not None, "only partitioned assets and checks ask"
    with dg.partition_loading_context(dynamic_partitions_store=op.instance):
        keys = list(pairs.get_partition_keys_in_range(wanted))
    if not keys:
        raise dg.Failure(f"from {ends[0]} to {ends[1]} there is no partition: the range is inverted", allow_retries=False)
    return keys


class Report:
    """What became of each partition of a run of one asset. Made by `reported`."""

    def __init__(self, context: dg.AssetExecutionContext, then: Mapping[str, Body]) -> None:
        self.keys = keys_of(context)
        self._context = context
        self._then = then
        self._done: dict[str, Mapping[str, Any]] = {}
        self._failed: dict[str, Exception] = {}

    def succeed(self, key: str, metadata: Mapping[str, Any]) -> None:
        self._done[key] = metadata

    def fail(self, key: str, error: Exception) -> None:
        self._failed[key] = error

    def __contains__(self, key: str) -> bool:
        return key in self._done or key in self._failed

    def run(self, key: str, body: Body) -> None:
        """Runs `body` for a partition: it succeeds with the metadata that this returns, or fails as it does."""
        try:
            self.succeed(key, body(key))
        except Exception as error:  # noqa: BLE001 - one partition must not cost the others
            self.fail(key, error)

    def write(self) -> None:
        """Records what is done as materializations, while the step is not going to succeed."""
        for key, metadata in self._done.items():
            self._log(key, metadata)

    def close(self) -> None:
        """Leaves what is done for Dagster to record when the step ends. Raises when a partition failed, or has no report."""
        for key in self.keys:
            if key not in self:
                self.fail(key, RuntimeError("the step ended without it"))
        if self._failed:
            count = len(self._failed) + len(self._done)
            self.write()
            self._go_on()
            raise failure(self._failed, count, self._context.log)
        if set(map(str, self._context.partition_keys)) != set(map(str, self._done)):  # it would record others than these
            self._context.add_output_metadata({RECORDED: True})
            self.write()
            return
        # Dagster takes the data of an asset with a code version for the same as long as that and the versions of its inputs are.
        # Images change at their addresses, though. So each run is a version of its own, as it is without a code version.
        self._context.set_data_version(self._context.asset_key, dg.DataVersion(self._context.run.run_id))
        for key, metadata in self._done.items():
            self._context.add_asset_metadata(metadata, partition_key=key)

    def _go_on(self) -> None:
        """Does what comes after this step for the partitions that are done: Dagster skips the steps after one that fails."""
        for key in self._done:
            for name, body in self._then.items():
                asset = dg.AssetKey([*self._context.asset_key.path[:-1], name])
                if not self._is_asked_for(asset):
                    continue
                try:
                    self._log(key, body(key), asset)
                except Exception as error:  # noqa: BLE001 - one partition must not cost the others
                    self._failed[key] = error
                    break

    def _is_asked_for(self, asset: dg.AssetKey) -> bool:
        """Whether the run materializes an asset, too."""
        steps = self._context.run.step_keys_to_execute
        return asset in self._context.job_def.asset_layer.executable_asset_keys and (
            steps is None or any(step.partition(".")[0].endswith(asset.path[-1]) for step in steps)
        )

    def _log(self, key: str, metadata: Mapping[str, Any], asset: dg.AssetKey | None = None) -> None:
        asset = asset or self._context.asset_key
        tags = version(self._context.run.run_id)
        self._context.log_event(dg.AssetMaterialization(asset, partition=key, metadata=metadata, tags=tags))


def version(run_id: str) -> dict[str, str]:
    """The tags of a materialization that is recorded by a step itself: Dagster gives such a one no data version."""
    return {DATA_VERSION_TAG: run_id}


@contextmanager
def reported(context: dg.AssetExecutionContext, then: Mapping[str, Body] | None = None) -> Iterator[Report]:
    """Reports each partition that the block has done once, with its own metadata, however the block ends.

    Raises at the end, with a list, when partitions failed. `then`: what makes the assets that come after this one, by their
    names, in their order; it is called for the partitions that are done when others failed, of assets that the run is asked for.
    When the block itself is ended, by a cancelled run for example, what it had done until then is recorded first. A process that
    is killed records nothing; the store knows what was done.
    """
    report = Report(context, then or {})
    try:
        yield report
    except BaseException:
        report.write()
        raise
    report.close()


def failure(failed: Mapping[str, Exception], count: int, log: dg.DagsterLogManager) -> Exception:
    """The error of a step of `count` partitions some of which failed: which and why; of a step of one partition its own."""
    if count == 1:
        return next(iter(failed.values()))
    by_reason: dict[str, list[str]] = {}
    for key, error in failed.items():
        if not isinstance(error, DepthlineError | dg.Failure):
            log.error(f"partition {key} failed:\n{shown_text(''.join(traceback.format_exception(error)))}")
        by_reason.setdefault(_reason(error), []).append(str(key))
    reasons = "; ".join(f"{_some(keys)}: {reason}" for reason, keys in by_reason.items())
    return dg.Failure(
        f"{len(failed):,} of {count:,} partitions failed{', the others are done' if len(failed) < count else ''}. {reasons}",
        metadata={"failed partitions": dg.MetadataValue.json(by_reason)},
        allow_retries=False,
    )


def _reason(error: Exception) -> str:
    if isinstance(error, dg.Failure):
        return str(error.description)
    return shown_text(str(error) if isinstance(error, DepthlineError) else f"{type(error).__name__}: {error}")


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - NAMED:,} more" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + more


def hold(leases: Leases, log: dg.DagsterLogManager, name: str) -> Lease | None:
    """A lease on what only one run at a time may work on; None, and a line in the run's log, while another run has it."""
    lease = leases.hold(name)
    if lease is None and (other := leases.news_of(name)):
        log.info(
            f"run {other} is at work on {name}: it is waited for, and what else there is goes first. If it was killed, that ends "
            f"{leases.seconds:g} s (DEPTH_LEASE_SECONDS) after its last sign of life"
        )
    return lease


def contiguous(keys: Iterable[str], known: Mapping[str, int], most: int) -> list[list[str]]:
    """Groups keys that follow each other among Dagster's, at most so many in a group, each key once.

    `known`: the place of each of Dagster's keys. A range from the first to the last of a group is that group and nothing else.
    Keys that Dagster does not know are left out: no run can be asked for them.
    """
    groups: list[list[str]] = []
    for key in sorted({key for key in keys if key in known}, key=known.__getitem__):
        if groups and len(groups[-1]) < most and known[key] == known[groups[-1][-1]] + 1:
            groups[-1].append(key)
        else:
            groups.append([key])
    return groups


def tags(first: str, last: str) -> dict[str, str]:
    """The tags by which a run request asks for all partitions from one to another."""
    return {START: str(first), END: str(last)}
