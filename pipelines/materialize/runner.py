"""Brings one manifest up to date in this process: which runs it takes, one after the other. Printing is in report.py.

Neighbouring chunks share their runs, as in a backfill: a run loads its model once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG, PARTITION_NAME_TAG

from depth_core import completeness, terminal
from depth_core.completeness import Reason
from depth_core.errors import DepthlineError
from depth_core.inference import checkpoints
from depth_core.inference.checkpoints import Checkpoint
from depth_core.ingest import manifest
from depth_core.output import records
from depth_core.profiles import Profile
from depth_core.terminal import Meter, NoMeter
from pipelines import names, progress_reports, ranges
from pipelines.assets import depth_maps
from pipelines.assets.manifest_index import index_config
from pipelines.definitions import build_defs
from pipelines.jobs.chunks import depth_maps_for_chunk, index_manifest, ingest_chunk
from pipelines.materialize.dead_runs import sign_of_life
from pipelines.materialize.report import Report
from pipelines.partitions import CHUNK, MANIFEST, pair
from pipelines.resources import DepthlineResource

# A chunk is worked on because something about it changed, perhaps a missing file of a depth map.
VERIFY = depth_maps.run_config(verify=True)
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class RunFailedError(DepthlineError):
    """A run of the pipeline failed; the message has its first error."""


def materialize(
    uri: str,
    profile: str,
    depthline: DepthlineResource,
    instance: dg.DagsterInstance,
    on_step: Callable[[str], None] = lambda step: None,
    meter: Meter | None = None,
) -> Report:
    """Brings every chunk of a manifest up to date under one profile, and reports what was done.

    `on_step` is called with each step, `meter` with the rows that a step has done. Chunks that are complete and unchanged are
    left alone; of the others, up to DEPTH_PARTITIONS_PER_RUN neighbours are fetched in one run and made in the next. Raises
    RunFailedError with the reason of the run that failed, once the other chunks of that run are done, ConfigurationError for an
    unknown profile, ModelUnavailableError when its weights cannot be had, KeyboardInterrupt when interrupted: the current run is
    then marked as failed, what it made is kept, and the next one goes on.
    """
    started = time.monotonic()
    wanted = depthline.profile(profile)
    # Weights that cannot be had are an error before every image is fetched, not after.
    checkpoint = checkpoints.resolve(wanted.parameters.spec, depthline.settings(), wanted.checkpoint)
    with sign_of_life(instance) as tags:
        work = _Work(wanted, checkpoint, depthline, instance, build_defs(depthline), tags, on_step, meter or NoMeter())
        rows = work.index(uri)
        known = {chunk: place for place, chunk in enumerate(instance.get_dynamic_partitions(CHUNK))}
        report = Report(uri, sorted(rows, key=known.__getitem__))
        numbers = {chunk: number for number, chunk in enumerate(report.chunks, 1)}
        due = work.due(report)
        for chunks in ranges.contiguous(due, known, depthline.settings().partitions_per_run):
            place = _place(numbers[chunks[0]], numbers[chunks[-1]], len(numbers))
            work.make({chunk: rows[chunk] for chunk in chunks}, place, {due[chunk] for chunk in chunks}, report)
    report.records = records.read(depthline.store(), manifest=manifest.slug(uri), profile=profile)
    report.seconds = time.monotonic() - started
    return report


@dataclass
class _Work:
    """What the steps of one materialization share."""

    profile: Profile
    checkpoint: Checkpoint
    depthline: DepthlineResource
    instance: dg.DagsterInstance
    defs: dg.Definitions
    tags: dict[str, str]  # of every run
    on_step: Callable[[str], None]
    meter: Meter

    def index(self, uri: str) -> dict[str, int]:
        """Reads the manifest; returns how many rows each of its chunks has."""
        slug, store = manifest.slug(uri), self.depthline.store()
        known = self.instance.has_dynamic_partition(MANIFEST, slug)
        self.instance.add_dynamic_partitions(MANIFEST, [slug])
        self.on_step(f"reading {uri}")
        try:
            with index_config(uri) as config:
                self.run(index_manifest.name, {PARTITION_NAME_TAG: slug}, config)
        except RunFailedError:
            if not known and manifest.read_index(store, slug) is None:  # never read: a name mistyped, perhaps
                self.instance.delete_dynamic_partition(MANIFEST, slug)
            raise
        index = manifest.read_index(store, slug)
        return {} if index is None else index.rows_by_chunk()

    def due(self, report: Report) -> dict[str, Reason | None]:
        """The chunks that must be worked on, each with the reason, if the store knows one; the others are left alone."""
        due: dict[str, Reason | None] = {}
        for chunk in report.chunks:
            found = completeness.check(
                chunk,
                self.profile,
                checkpoint=self.checkpoint,
                store=self.depthline.store(),
                settings=self.depthline.settings(),
            )
            earlier = _whole_run(self.instance, chunk, self.profile.name) if found.is_complete else None
            if earlier is None or earlier != (found.run_id or earlier):
                due[chunk] = found.reason
                continue
            report.left_alone.append(chunk)
            report.add_checks(_checks_of(earlier, pair(chunk, self.profile.name), self.instance))
        return due

    def make(self, rows: dict[str, int], place: str, reasons: set[Reason | None], report: Report) -> None:
        """Brings neighbouring chunks up to date, in two runs. `rows`: how many each has; `place`: which they are, for people."""
        first, last = next(iter(rows)), next(reversed(rows))
        why = "; ".join(sorted(reason for reason in reasons if reason not in (None, Reason.NO_ROWS)))
        self.on_step(f"{place}: fetching images{f' ({why})' if why else ''}")
        with _on_meter(self.meter, f"{place}: fetching", rows):
            fetched = self.execute(ingest_chunk.name, ranges.tags(first, last))
        for chunks in _neighbours_with_sources(self.instance, fetched.run_id, list(rows)):
            self.on_step(f"{place}: making depth maps, records and gallery")
            with _on_meter(self.meter, f"{place}: depth maps", {chunk: rows[chunk] for chunk in chunks}):
                ends = (pair(chunk, self.profile.name) for chunk in (chunks[0], chunks[-1]))
                report.add(self.run(depth_maps_for_chunk.name, ranges.tags(*ends), VERIFY))
        _raise_if_failed(fetched)

    def run(self, job: str, asked: dict[str, str], config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
        """Runs a job. `asked`: the tags that say for which partitions. Raises RunFailedError, or KeyboardInterrupt."""
        result = self.execute(job, asked, config)
        _raise_if_failed(result)
        return result

    def execute(self, job: str, asked: dict[str, str], config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
        """As `run`, but a run that failed is returned, too."""
        resolved = self.defs.resolve_job_def(job)
        try:
            result = resolved.execute_in_process(
                instance=self.instance, run_config=QUIET | (config or {}), tags=self.tags | asked, raise_on_error=False
            )
        except dg.DagsterExecutionInterruptedError:
            raise KeyboardInterrupt from None
        terminal.raise_if_interrupted()  # Dagster takes signals for itself while a job runs, and calls the run failed
        return result


def _raise_if_failed(result: dg.ExecuteInProcessResult) -> None:
    if not result.success:
        error = next((event.step_failure_data.error for event in result.all_events if event.is_step_failure), None)
        tags = result.dagster_run.tags
        asked = (PARTITION_NAME_TAG, ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG)
        which = " to ".join(dict.fromkeys(tags[name] for name in asked if name in tags))
        why = reason_of(error) if error else "see the run in the UI"
        raise RunFailedError(f"{result.dagster_run.job_name} failed for {which}: {why}")


def _neighbours_with_sources(instance: dg.DagsterInstance, run_id: str, chunks: list[str]) -> list[list[str]]:
    """Those of neighbouring chunks whose images a run has fetched, as the ranges that there are without the others."""
    # Not the events of its result: those have nothing that a step recorded before it failed.
    found = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    events = [record.asset_materialization for record in found]
    done = {str(each.partition) for each in events if each and each.asset_key == dg.AssetKey(names.SOURCE_IMAGES)}
    return ranges.contiguous(done, {chunk: place for place, chunk in enumerate(chunks)}, len(chunks))


def _place(first: int, last: int, count: int) -> str:
    return f"chunk {first:,} of {count:,}" if first == last else f"chunks {first:,} to {last:,} of {count:,}"


@contextmanager
def _on_meter(meter: Meter, label: str, rows: dict[str, int]) -> Iterator[None]:
    """Shows how far the ops in the block are, in rows: of each chunk the share of its images that is done, as rows may share one.

    `rows`: how many each chunk has.
    """
    done_rows: dict[str, int] = {}

    def at(chunk: str, done: int, total: int) -> None:
        done_rows[chunk] = round(rows[chunk] * done / total) if total else rows[chunk]
        meter.at(sum(done_rows.values()))

    meter.start(label, sum(rows.values()))
    with progress_reports.listen(at):
        yield


def _whole_run(instance: dg.DagsterInstance, chunk: str, profile: str) -> str | None:
    """The run that drew a chunk's gallery, if Dagster has a materialization of every asset of the chunk; else None."""

    def last_run(asset: str, partition: str) -> str | None:
        which = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[partition])
        return next((found.run_id for found in instance.fetch_materializations(which, limit=1).records), None)

    runs = [last_run(asset, chunk) for asset in names.OF_A_CHUNK]
    runs += [last_run(asset, pair(chunk, profile)) for asset in names.OF_A_PAIR]
    return None if None in runs else runs[-1]


def _checks_of(run_id: str, partition: str, instance: dg.DagsterInstance) -> Iterator[dg.AssetCheckEvaluation]:
    """The results of the asset checks of one partition in an earlier run."""
    for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records:
        event = record.event_log_entry.dagster_event
        if event is not None and str(event.asset_check_evaluation_data.partition) == str(partition):
            yield event.asset_check_evaluation_data


def reason_of(error: Any) -> str:
    """The message that says what is wrong: of the first of our own errors in the chain of causes, else of the last error."""
    ours = {DepthlineError.__name__, *(kind.__name__ for kind in DepthlineError.__subclasses__()), dg.Failure.__name__}
    while error.cause is not None and error.cls_name not in ours:
        error = error.cause
    return re.sub(rf"^[\w.]+\.{error.cls_name}: ", "", error.message.strip())
