"""Materializes one whole manifest in this process: index, ingest, depth maps, records, gallery.

For a first look, for scripts and for people without a daemon. The runs are ordinary Dagster runs in the instance at DAGSTER_HOME,
so the UI shows them. Large manifests belong into backfills, which run beside one another.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import typer
from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from depth_core import layout, terminal
from depth_core.contract import DepthParameters
from depth_core.display import shown_url
from depth_core.engine import chunk as chunk_engine
from depth_core.errors import DepthlineError, ManifestError
from depth_core.inference import checkpoints
from depth_core.ingest import manifest, sources
from depth_core.output import records
from depth_core.profiles import Profile
from depth_core.storage import Store
from depth_core.terminal import Meter, NoMeter, message, name
from pipelines import progress
from pipelines.assets.manifests import index_config
from pipelines.definitions import build_defs
from pipelines.partitions import MANIFEST, pair
from pipelines.resources import DepthlineResource

ALIVE_TAG = "depthline/alive"  # names the lock file that the process of a run holds for as long as it lives

# A chunk is worked on because something about it is not as it was: that may be a file of a depth map that is gone.
VERIFY = {"ops": {"depth_maps": {"ops": {"generate_depth_maps": {"config": {"verify": True}}}}}}
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass
class Report:
    """What a manifest's materialization came to."""

    uri: str
    chunks: list[str]
    left_alone: list[str] = field(default_factory=list)  # chunks that were complete and unchanged
    records: pd.DataFrame = field(default_factory=pd.DataFrame)  # of all chunks
    seconds: float = 0.0
    made: int = 0  # depth maps
    failed_now: int = 0  # images that were tried by the network's side
    seconds_of_making: float = 0.0  # without loading the model
    failed_checks: list[str] = field(default_factory=list)  # of all chunks

    def add(self, chunk: dg.ExecuteInProcessResult) -> None:
        """Counts what the run of one chunk says of itself."""
        for event in chunk.get_asset_materialization_events():
            if event.asset_key == dg.AssetKey("depth_maps"):
                facts: dict[str, Any] = {name: each.value for name, each in event.materialization.metadata.items()}
                self.made += facts["made now"]
                self.failed_now += facts["failed now"]
                if rate := facts["images per second"]:
                    self.seconds_of_making += (facts["made now"] + facts["failed now"]) / rate
        self.add_checks(chunk.get_asset_check_evaluations())

    def add_checks(self, checks: Iterable[dg.AssetCheckEvaluation]) -> None:
        self.failed_checks += [f"{check.check_name}: {check.description}" for check in checks if not check.passed]

    @property
    def depth_maps(self) -> int:
        """All that the manifest has now: rows of one image share one."""
        return int(self.records["folder"].nunique())

    @property
    def done_before(self) -> int:
        return max(0, self.depth_maps - self.made)

    @property
    def images_per_second(self) -> float:
        return (self.made + self.failed_now) / self.seconds_of_making if self.seconds_of_making else 0.0


class RunFailedError(DepthlineError):
    """A run of the pipeline failed; the message has its first error."""


def materialize(
    uri: str,
    profile: str,
    depthline: DepthlineResource,
    instance: dg.DagsterInstance,
    tell: Callable[[str], None] = lambda step: None,
    meter: Meter | None = None,
) -> Report:
    """Brings every chunk of a manifest up to date under one profile, and says what became of it.

    `tell` hears of each step, `meter` of the rows that a step has done. Chunks that are complete and unchanged are left alone.
    Raises RunFailedError with the reason of the run that failed, ConfigurationError for an unknown profile, ModelUnavailableError
    when its weights cannot be had, KeyboardInterrupt when it was told to end: the run under way has failed then, what it made
    counts, and the next one goes on.
    """
    started = time.monotonic()
    profile_now, store = depthline.profile(profile), depthline.store()
    # Weights that cannot be had are told now, and not when every image is fetched.
    checkpoints.resolve(profile_now.parameters.spec, depthline.settings(), profile_now.checkpoint)
    defs = build_defs(depthline)
    slug, meter = manifest.slug(uri), meter or NoMeter()
    with _sign_of_life(instance) as tags:

        def run(job: str, partition: str, config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
            return _run(defs.resolve_job_def(job), instance, partition, QUIET | (config or {}), tags)

        known = instance.has_dynamic_partition(MANIFEST, slug)
        instance.add_dynamic_partitions(MANIFEST, [slug])
        tell(f"reading {uri}")
        try:
            with index_config(uri) as config:
                run("index_manifest", slug, config)
        except RunFailedError:
            if not known and manifest.read_index(store, slug) is None:  # never read: a name mistyped, perhaps
                instance.delete_dynamic_partition(MANIFEST, slug)
            raise
        index = manifest.read_index(store, slug)
        rows = {} if index is None else index.rows_by_chunk()
        report = Report(uri, sorted(rows))
        for number, chunk in enumerate(report.chunks, 1):

            def step(
                what: str, label: str, where: str = f"chunk {number:,} of {len(report.chunks):,}", rows: int = rows[chunk]
            ) -> AbstractContextManager[None]:
                tell(f"{where}: {what}")
                return _on_meter(meter, f"{where}: {label}", rows)

            earlier = _complete_since(chunk, profile_now, depthline, instance)
            if earlier is not None:
                report.left_alone.append(chunk)
                report.add_checks(_checks_of(earlier, instance))
                continue
            with step("fetching images", "fetching"):
                run("ingest_chunk", chunk)
            with step("making depth maps, records and gallery", "depth maps"):
                report.add(run("depth_maps_for_chunk", pair(chunk, profile), VERIFY))
    report.records = records.read(store, manifest=slug, profile=profile)
    report.seconds = time.monotonic() - started
    return report


@contextmanager
def _on_meter(meter: Meter, label: str, rows: int) -> Iterator[None]:
    """Shows how far the ops in the block are, in rows: the share of the images that is done, as rows may share an image."""
    meter.start(label, rows)
    with progress.heard_by(lambda done, total: meter.at(round(rows * done / total) if total else rows)):
        yield


_OF_ITS_RUN = {"run_id", "created_at", "reused"}  # what a record says of the run that wrote it, and not of its row
_LASTING = pa.schema([column for column in records.SCHEMA if column.name not in _OF_ITS_RUN])


def _lasting(frame: pd.DataFrame) -> pa.Table:
    """Records without what is of their run, to be compared: parameters are the same whichever version wrote them."""
    same = (json.dumps(DepthParameters.identity_of(json.loads(asked)), sort_keys=True) for asked in frame["parameters"])
    return pa.Table.from_pandas(frame.assign(parameters=pd.Series(same, frame.index, dtype=object)), _LASTING)


def _complete_since(chunk: str, profile: Profile, depthline: DepthlineResource, instance: dg.DagsterInstance) -> str | None:
    """The run that completed a chunk under a profile, if another one would find nothing to do and change nothing; else None.

    Judged by what is in the store: the rows as the manifest has them, the images, the depth maps, and the table of records, which
    must be what all these come to now.
    """
    settings, store = depthline.settings(), depthline.store()
    try:
        rows, frame = manifest.read_rows(store, chunk), records.read_chunk(store, profile.name, chunk)
    except (ManifestError, FileNotFoundError):
        return None
    table, facts = sources.read_table(store, chunk), manifest.read_facts(store, layout.slug_of_chunk(chunk))
    if table is None or facts is None or not manifest.validate(manifest.read_chunk(store, chunk), settings).equals(rows):
        return None
    if not sources.is_up_to_date(table, rows.loc[rows["error_kind"].isna(), "image_url"], store):
        return None
    if not chunk_engine.is_up_to_date(
        [chunk_engine.Source(sha) for sha in table["sha256"].dropna()],
        profile=profile,
        chunk=chunk,
        checkpoint=checkpoints.resolve(profile.parameters.spec, settings, profile.checkpoint),
        store=store,
        settings=settings,
    ):
        return None
    due = records.build(
        rows,
        table,
        records.read_outcomes(store, profile.name, chunk).values(),
        manifest=facts["uri"],
        chunk=chunk,
        profile=profile.name,
        parameters=profile.parameters.as_api(),
        store=store,
    )
    if not _lasting(frame).equals(_lasting(due)):
        return None
    return _whole_run(chunk, profile.name, frame, store, instance)


def _whole_run(chunk: str, profile: str, frame: pd.DataFrame, store: Store, instance: dg.DagsterInstance) -> str | None:
    """The run that drew a chunk's gallery, if it wrote the records too and Dagster knows every asset of the chunk; else None."""

    def last_run(asset: str, partition: str) -> str | None:
        which = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[partition])
        return next((found.run_id for found in instance.fetch_materializations(which, limit=1).records), None)

    parts = [("image_manifest", chunk), ("source_images", chunk)]
    parts += [(asset, pair(chunk, profile)) for asset in ("depth_maps", "artwork_records", "depth_gallery")]
    runs = [last_run(*part) for part in parts]
    whole = (
        None not in runs
        and set(frame["run_id"]) <= {runs[-1]}
        and store.size(layout.gallery_page_key(profile, chunk)) is not None
    )
    return runs[-1] if whole else None


def _checks_of(run_id: str, instance: dg.DagsterInstance) -> Iterator[dg.AssetCheckEvaluation]:
    """What the asset checks of an earlier run have said."""
    for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records:
        event = record.event_log_entry.dagster_event
        if event is not None:
            yield event.asset_check_evaluation_data


def _run(
    job: dg.JobDefinition, instance: dg.DagsterInstance, partition: str, config: dict[str, Any], tags: dict[str, str]
) -> dg.ExecuteInProcessResult:
    try:
        result = job.execute_in_process(
            instance=instance, partition_key=partition, run_config=config, tags=tags, raise_on_error=False
        )
    except dg.DagsterExecutionInterruptedError:
        raise KeyboardInterrupt from None
    terminal.raise_if_interrupted()  # Dagster takes signals for itself while a job runs, and calls the run failed
    if not result.success:
        error = next((event.step_failure_data.error for event in result.all_events if event.is_step_failure), None)
        raise RunFailedError(f"{job.name} failed for {partition}: {_reason(error) if error else 'see the run in the UI'}")
    return result


def _reason(error: Any) -> str:
    """The error that says what is wrong: the first of our own in the chain of causes, else the last."""
    ours = {DepthlineError.__name__, *(kind.__name__ for kind in DepthlineError.__subclasses__()), dg.Failure.__name__}
    while error.cause is not None and error.cls_name not in ours:
        error = error.cause
    return re.sub(rf"^[\w.]+\.{error.cls_name}: ", "", error.message.strip())


@contextmanager
def _sign_of_life(instance: dg.DagsterInstance) -> Iterator[dict[str, str]]:
    """Tags for the runs of this process, by which later ones can tell that it has died; ends the runs of those that have.

    A run that was killed would stay "started" and keep its pool slot for ever: there may be no daemon here that notices.
    """
    folder = Path(instance.root_directory) / "alive"
    folder.mkdir(exist_ok=True)
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        name = run.tags.get(ALIVE_TAG)
        if name is None:
            continue
        with suppress(Timeout), FileLock(folder / name, timeout=0):
            instance.report_run_failed(run, "its process has died")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            (folder / name).unlink(missing_ok=True)
    mine = folder / uuid.uuid4().hex
    try:
        with FileLock(mine):
            yield {ALIVE_TAG: mine.name}
    finally:
        mine.unlink(missing_ok=True)


LISTED = 10  # failures, and chunks' galleries, that are printed


def show(report: Report, profile: str, depthline: DepthlineResource, console: Console) -> None:
    """Prints the short table and where everything lies."""
    store, frame = depthline.store(), report.records
    failed = frame[frame["status"] == records.FAILED]
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_row("rows", f"{len(frame):,} of {message(report.uri)} under profile {profile}")
    table.add_row("succeeded", f"[green]{int((frame['status'] == records.SUCCEEDED).sum()):,}[/green]")
    table.add_row("failed", f"[red]{len(failed):,}[/red]" if len(failed) else "0")
    listed = failed.head(LISTED).astype(object)
    for row in listed.where(listed.notna(), None).itertuples(index=False):
        called = row.row_id or row.image_url or f"line {row.line}"
        table.add_row("", f"[red]{row.error_kind}[/red] {name(shown_url(str(called)))}: {message(row.error_message)}")
    if len(failed) > LISTED:
        table.add_row("", f"and {len(failed) - LISTED:,} more; the table has them all")
    if report.made:
        table.add_row("made now", f"{report.made:,} depth maps, {report.images_per_second:.1f} images/s")
    elif report.failed_now or not report.depth_maps:
        table.add_row("made now", "no depth map")
    else:
        table.add_row("made now", "nothing was left to do")
    if report.done_before:
        table.add_row("made before", f"{report.done_before:,} depth maps; not made again")
    if report.left_alone:
        table.add_row("left alone", f"{len(report.left_alone):,} of {len(report.chunks):,} chunks: complete and unchanged")
    table.add_row("took", f"{report.seconds:.1f} s")
    for check in report.failed_checks[:LISTED]:
        table.add_row("[yellow]check failed[/yellow]", message(check))
    console.print()
    console.print(table)
    console.print()
    where = [("files", layout.DEPTH)]
    for chunk in report.chunks[:LISTED]:
        where += [("gallery", layout.gallery_page_key(profile, chunk)), ("table", layout.records_key(profile, chunk))]
    for what, key in where:
        console.print(f"{what:<9}{name(store.url(key))}", soft_wrap=True)
    if len(report.chunks) > LISTED:
        console.print(f"{'':<9}and {len(report.chunks) - LISTED:,} more chunks")


def main(
    uri: Annotated[str, typer.Argument(help="The manifest: a path, s3:// or http(s) URL.")],
    profile: Annotated[str, typer.Option(help="A parameter set of profiles.toml.")] = "preview",
) -> None:
    """Brings a manifest up to date under a profile. Exit status: 0 done, failed rows included; 1 not done; 2 no DAGSTER_HOME;
    130 interrupted."""
    console, errors = terminal.consoles()
    home = Path(os.environ.get("DAGSTER_HOME", ""))
    if not home.is_absolute() or not home.is_dir():
        terminal.print_error(
            errors,
            "DAGSTER_HOME must name an existing folder, by its whole path: `make maps` sets it, docs/operations.md tells more",
        )
        raise typer.Exit(2)
    with terminal.plain_end(errors, 1):
        depthline = DepthlineResource()
        with dg.DagsterInstance.get() as instance, terminal.meter(console, "rows") as meter:
            report = materialize(
                uri,
                profile,
                depthline,
                instance,
                tell=lambda step: console.print(f"[dim]{message(step)}[/dim]", soft_wrap=True),
                meter=meter,
            )
        show(report, profile, depthline, console)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)  # no traces that show keys
    app.command()(main)
    app()
