"""`serve_inbox`: a worker that serves single requests until nothing has come for a while.

What an artwork is, how it is claimed and what a worker does is in depth_core.serving.
"""

import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from depth_core.display import shown_text
from depth_core.errors import StoreError
from depth_core.output import gallery
from depth_core.settings import Settings
from depth_core.storage import Store
from pipelines import names
from pipelines.event_metadata import picture
from pipelines.resources import DepthlineResource
from pipelines.step_failures import fails_in_one_line

if TYPE_CHECKING:
    from depth_core.serving.worker.report import Report
    from depth_core.serving.worker.worker import Worker

POOL = "gpu_requests"
LISTED = 50  # artworks in a run's table
SUMMARY_SECONDS = 30.0  # between the summaries of a worker that goes on


class WorkerConfig(dg.Config):
    device: str = Field("auto", description="auto (as DEPTH_DEVICE says), cpu, cuda, cuda:1, mps, openvino:GPU.")


@dg.op(
    pool=POOL,
    out=dg.Out(dg.Nothing),
    description="Claims waiting artworks, of the HTTP API and the inbox, computes them, and waits for more.",
)
@fails_in_one_line
def run_worker(context: dg.OpExecutionContext, config: WorkerConfig, depthline: DepthlineResource) -> None:
    store, log = depthline.store(), _WorkerLog(context)
    with _open_worker(log, config.device, depthline.settings(), store) as worker:
        context.log.info(f"serving single requests on device {config.device} as {worker.name}")
        try:
            report = worker.serve()
        except BaseException as error:  # a cancelled run too
            if worker.report.new:
                log.add(worker.report)
            log.write_summary(worker.report, {"ended by": type(error).__name__, "all ids": _ids(worker.report)})
            raise
    try:
        strip = gallery.strip(report.last_pictures, store)
    except StoreError as error:
        context.log.warning(f"no pictures of the last depth maps: {error}")
        strip = None
    context.add_output_metadata(
        {
            **_summary(report, log.seconds),
            "all ids": _ids(report),
            **({"last depth maps": picture("last depth maps", strip)} if strip else {}),
        }
    )


def run_config(device: str) -> dict[str, Any]:
    """Run config for the job `serve_inbox`: a worker on one device."""
    return {"ops": {run_worker.name: {"config": {"device": device}}}}


def _open_worker(log: "_WorkerLog", device: str, settings: Settings, store: Store) -> AbstractContextManager["Worker"]:
    from depth_core.serving.worker.opening import open_worker

    return open_worker(
        settings,
        store,
        device=device,
        run_id=log.context.run_id,
        warn=log.context.log.warning,
        every_second=log.write_summary_when_due,
        on_progress=log.add,
    )


class _WorkerLog:
    """What a worker's run says of its work while it goes on: it is there however the run ends."""

    def __init__(self, context: dg.OpExecutionContext) -> None:
        self.context = context
        self._started = self._summary_at = time.monotonic()
        self._unsummarized: list[str] = []  # ids that ended since the last summary

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def add(self, report: "Report") -> None:
        """Logs what has ended since the last call."""
        self._unsummarized.extend(str(artwork_id) for artwork_id, _ in report.new)
        ended = ", ".join(f"{artwork_id} {how}" for artwork_id, how in report.new)
        self.context.log.info(f"{len(report.new)} ended: {ended}")

    def write_summary_when_due(self, report: "Report") -> None:
        if self._unsummarized and time.monotonic() - self._summary_at >= SUMMARY_SECONDS:
            self.write_summary(report, {"ids since the last summary": dg.MetadataValue.json(self._unsummarized.copy())})
            self._unsummarized.clear()
            self._summary_at = time.monotonic()

    def write_summary(self, report: "Report", more: dict[str, Any]) -> None:
        self.context.log_event(
            dg.AssetObservation(
                names.REQUEST_RECORDS,
                description="What a worker has done so far",
                metadata=_summary(report, self.seconds) | more,
            )
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


@dg.job(
    description="Serves single requests, of the HTTP API and the inbox, until nothing has come for a while.",
    tags={
        "dagster/priority": "10",  # before bulk runs that wait in the queue
        "dagster/max_retries": "0",  # the sensor starts the next worker; a retry beside it would only wait for the pool
    },
)
def serve_inbox() -> None:
    run_worker()
