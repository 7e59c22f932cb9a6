"""Single requests: the sensor that notices waiting artworks, the job that serves them, their daily table, their retention.

What an artwork is, how it is claimed and what a worker does lives in depth_core.serving.
"""

import json
import time
import uuid
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from typing import TYPE_CHECKING, Any, TypedDict

import dagster as dg
from pydantic import Field

from depth_core.display import shown_text
from depth_core.errors import StoreError
from depth_core.output import gallery
from depth_core.serving import inbox
from depth_core.serving.artworks import ArtworkStore, open_store
from depth_core.settings import Settings
from pipelines.failures import plainly
from pipelines.metadata import OWNERS, counts, picture, preview
from pipelines.resources import DepthlineResource

if TYPE_CHECKING:
    from depth_core.serving.worker import Report

POOL = "gpu_requests"
FIRST_DAY = "2026-01-01"
POLL_SECONDS = 0.5
TICK_SECONDS = 4.5  # the daemon evaluates a sensor every 5 s; within a tick the sensor looks more often
FRESH_SECONDS = 10.0  # a worker that gave no sign of life for so long does not count as one
STARTING_SECONDS = 60.0  # how long Dagster may take to make a run of a request for one
LONGEST_PAUSE_SECONDS = 60.0  # between workers that fail one after the other
LISTED = 50  # artworks in a run's table
SUMMARY_SECONDS = 30.0  # between the summaries of a worker that goes on

_FAULTS = inbox.Faults()  # the sensor's: a tick lasts seconds, and what one has told the next one need not


class WorkerConfig(dg.Config):
    device: str = Field("auto", description="auto (as DEPTH_DEVICE says), cpu, cuda, cuda:1, mps.")


@dg.op(
    pool=POOL,
    out=dg.Out(dg.Nothing),
    description="Serves the inbox: claims waiting artworks, runs them, finishes them, and lingers for more.",
)
@plainly
def run_worker(context: dg.OpExecutionContext, config: WorkerConfig, depthline: DepthlineResource) -> None:
    from depth_core.engine import device
    from depth_core.serving.worker import Worker

    settings = depthline.settings()
    if config.device != "auto":
        settings = settings.model_copy(update={"device": config.device})
    store, artworks = depthline.store(), open_store(settings)
    watch = inbox.Watch(artworks, settings)

    started = shown_at = time.monotonic()
    unshown: list[str] = []

    def tell(report: "Report") -> None:
        unshown.extend(str(artwork_id) for artwork_id, _ in report.new)
        ended = ", ".join(f"{artwork_id} {how}" for artwork_id, how in report.new)
        context.log.info(f"{len(report.new)} ended: {ended}")

    def show(words: dict[str, Any]) -> None:
        metadata = _summary(worker.report, time.monotonic() - started) | words
        context.log_event(dg.AssetObservation("request_records", description="What a worker has done so far", metadata=metadata))

    def look() -> None:
        """Every second. What stands in the run's log by then is there however the run ends."""
        nonlocal shown_at
        _look(context.log, watch)
        if unshown and time.monotonic() - shown_at >= SUMMARY_SECONDS:
            show({"ids since the last summary": dg.MetadataValue.json(unshown.copy())})
            unshown.clear()
            shown_at = time.monotonic()

    worker = Worker(
        artworks,
        store,
        settings,
        name=f"worker-{config.device}-{context.run_id}-{uuid.uuid4().hex[:4]}",
        device=config.device,
        run_id=context.run_id,
        device_lock=device.PriorityDeviceLock,
        collect=look,
        on_progress=tell,
    )
    context.log.info(f"serving the inbox on device {config.device} as {worker.name}")
    try:
        report = worker.serve()
    except BaseException as error:  # a cancelled run too
        if worker.report.new:
            tell(worker.report)
        show({"ended by": type(error).__name__, "all ids": _ids(worker.report)})
        raise
    finally:
        artworks.close()
    try:
        strip = gallery.strip(report.last_pictures, store)
    except StoreError as error:
        context.log.warning(f"no pictures of the last depth maps: {error}")
        strip = None
    context.add_output_metadata(
        {
            **_summary(report, time.monotonic() - started),
            "all ids": _ids(report),
            **({"last depth maps": picture("last depth maps", strip)} if strip else {}),
        }
    )


def _ended(report: "Report") -> list[tuple[str, str, str]]:
    """Artworks by id, how they ended, and why."""
    succeeded = [(str(each), "succeeded", "") for each in report.succeeded]
    return succeeded + [(str(each), "failed", why) for each, why in report.failed.items()]


def _ids(report: "Report") -> dg.MetadataValue:
    return dg.MetadataValue.json([row[0] for row in _ended(report)])


def _summary(report: "Report", seconds: float) -> dict[str, Any]:
    return {
        "served": report.successes + report.failures,
        "succeeded": report.successes,
        "failed": report.failures,
        "dropped (cancelled, or taken back)": report.dropped,
        "failed by kind": dg.MetadataValue.json(dict(report.by_error_kind)),
        "seconds": round(seconds, 3),
        "seconds by stage": dg.MetadataValue.json({stage: round(s, 3) for stage, s in report.seconds_by_stage.items()}),
        "artworks": dg.MetadataValue.table(
            [
                dg.TableRecord({"id": i, "status": status, "error": shown_text(why)})
                for i, status, why in _ended(report)[-LISTED:]
            ],
            schema=dg.TableSchema([dg.TableColumn(name) for name in ("id", "status", "error")]),
        ),
    }


def _look(log: Any, watch: inbox.Watch) -> None:
    """Brings in what lies in the inbox and answers what has ended."""
    found = watch.look()
    for name, reason in found.quarantined.items():
        log.warning(f"inbox: {shown_text(name)} is quarantined: {shown_text(reason)}")
    for fault in found.faults:
        log.warning(f"inbox: {shown_text(fault)}")


@dg.job(
    description="Serves single requests: serves the inbox until nothing has come for a while.",
    tags={
        "dagster/priority": "10",  # before bulk runs that stand in the queue
        "dagster/max_retries": "0",  # the sensor starts the next worker; a retry beside it would only wait for the pool
    },
)
def serve_inbox() -> None:
    run_worker()


@dg.sensor(
    job=serve_inbox,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts a worker on each device when artworks wait and no worker there is alive; picks up inbox files.",
)
def inbox_sensor(context: dg.SensorEvaluationContext, depthline: DepthlineResource) -> dg.SensorResult | dg.SkipReason:
    settings = depthline.settings()
    artworks = open_store(settings)
    watch = inbox.Watch(artworks, settings, _FAULTS)
    try:
        deadline = time.monotonic() + TICK_SECONDS
        while True:
            _look(context.log, watch)
            artworks.reconcile(max_attempts=settings.max_attempts, dead_workers=_dead_workers(context.instance, artworks))
            waiting, _ = artworks.waiting()
            if waiting:
                launched: dict[str, Launched] = json.loads(context.cursor) if context.cursor else {}
                requests = [
                    request
                    for name in settings.worker_devices
                    if (request := _launch(context.instance, artworks, name, launched)) is not None
                ]
                if requests:
                    return dg.SensorResult(run_requests=requests, cursor=json.dumps(launched))
            if time.monotonic() > deadline:
                return dg.SkipReason(f"{waiting} artworks wait; workers are alive or starting" if waiting else "nothing waits")
            time.sleep(POLL_SECONDS)
    finally:
        artworks.close()


class Launched(TypedDict):
    """What the sensor's cursor keeps of a device."""

    n: int  # workers asked for so far
    at: float  # when the last of them was
    failures: int  # how many of them failed, one after the other, up to the last


def _launch(
    instance: dg.DagsterInstance, artworks: ArtworkStore, device: str, launched: dict[str, Launched]
) -> dg.RunRequest | None:
    """A request for a worker on a device, unless one is alive there or on its way. Counts in `launched`.

    A run key de-duplicates for ever, so it carries a number. A run that is under way and has announced no worker yet is waited
    for: it is starting, or stands in line for the pool. One whose worker has stopped giving signs of life is not.
    """
    alive = artworks.workers(fresh_seconds=FRESH_SECONDS, device=device)
    if any(not worker.run_id or instance.has_run(worker.run_id) for worker in alive):  # not those of another machine's Dagster
        return None
    last = launched.get(device) or Launched(n=0, at=0.0, failures=0)
    age = time.time() - last["at"]
    run = next(iter(instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": f"worker-{device}-{last['n']}"}), limit=1)), None)
    failures = 0
    if run is None:
        if age < STARTING_SECONDS:
            return None
    elif run.is_finished:
        failures = last["failures"] + 1 if run.status == dg.DagsterRunStatus.FAILURE else 0
        if failures > 1 and age < min(LONGEST_PAUSE_SECONDS, 2.0**failures):
            return None
    elif all(worker.run_id != run.run_id for worker in artworks.workers(device=device)):
        return None
    number = last["n"] + 1
    launched[device] = Launched(n=number, at=time.time(), failures=failures)
    return dg.RunRequest(
        run_key=f"worker-{device}-{number}",
        run_config={"ops": {"run_worker": {"config": {"device": device}}}},
        tags={"depthline/device": device},
    )


def _dead_workers(instance: dg.DagsterInstance, artworks: ArtworkStore) -> list[str]:
    """Workers that say they are alive but whose run has ended: their claims need not wait for the lease to run out.

    A run that this instance does not know may be another instance's; its lease decides.
    """
    alive = {worker.run_id: worker.name for worker in artworks.workers(limit=20) if worker.ended_at is None and worker.run_id}
    runs = instance.get_runs(dg.RunsFilter(run_ids=list(alive))) if alive else []
    return [alive[run.run_id] for run in runs if run.is_finished]


def _pruned_before(settings: Settings) -> datetime:
    return datetime.now(UTC) - timedelta(days=settings.keep_artworks_days)


@dg.op(description="Forgets artworks older than DEPTH_KEEP_ARTWORKS_DAYS, with their histories and webhooks. Files stay.")
@plainly
def prune_artworks(context: dg.OpExecutionContext, depthline: DepthlineResource) -> None:
    settings = depthline.settings()
    if not settings.keep_artworks_days:
        context.log.info("DEPTH_KEEP_ARTWORKS_DAYS is 0: every artwork is kept")
        return
    before, pruned = _pruned_before(settings), 0
    artworks = open_store(settings)
    try:
        while count := artworks.prune(before=before):  # in small transactions, between which others write
            pruned += count
    finally:
        artworks.close()
    context.log.info(f"{pruned:,} artworks from before {before:%Y-%m-%d %H:%M} UTC are forgotten; their files stay in the store")


@dg.job(description="Keeps the database of single requests small.")
def prune_requests() -> None:
    prune_artworks()


def build() -> list[dg.AssetsDefinition]:
    @dg.asset(
        partitions_def=dg.DailyPartitionsDefinition(start_date=FIRST_DAY),
        group_name="requests",
        kinds={"parquet", "pandas"},
        owners=OWNERS,
        description="The artworks of single requests that ended on a day, as artwork_records has them, under profile api.",
    )
    @plainly
    def request_records(context: dg.AssetExecutionContext, depthline: DepthlineResource) -> dg.MaterializeResult[None]:
        from depth_core.serving import request_records

        day = date.fromisoformat(context.partition_key)
        settings = depthline.settings()
        if settings.keep_artworks_days and datetime.combine(day, time_of_day.min, UTC) < _pruned_before(settings):
            raise dg.Failure(f"artworks of {day} may have been pruned (DEPTH_KEEP_ARTWORKS_DAYS); the table that is there stands")
        artworks = open_store(settings)
        try:
            frame = request_records.write_day(artworks, depthline.store(), day, run_id=context.run.run_id)
        finally:
            artworks.close()
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": len(frame),
                "by status": dg.MetadataValue.json(counts(frame["status"])),
                "failed by kind": dg.MetadataValue.json(counts(frame["error_kind"])),
                "preview": preview(frame, ["id", "status", "image_url", "model", "duration", "error_kind"]),
            }
        )

    return [request_records]


def build_schedules() -> list[Any]:
    job = dg.define_asset_job(
        "record_requests", dg.AssetSelection.assets("request_records"), description="Yesterday's single requests as a table."
    )
    return [
        dg.build_schedule_from_partitioned_job(
            job, name="record_requests_daily", hour_of_day=0, minute_of_hour=30, default_status=dg.DefaultScheduleStatus.RUNNING
        ),
        dg.ScheduleDefinition(
            name="prune_requests_daily",
            job=prune_requests,
            cron_schedule="30 3 * * *",
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description="Every night: artworks older than DEPTH_KEEP_ARTWORKS_DAYS are forgotten.",
        ),
    ]
