"""`inbox_sensor`: starts workers for single requests, and takes up the files of the inbox."""

import json
import math
import time
from typing import TypedDict

import dagster as dg

from depth_core.serving.artworks.store import ArtworkStore, open_store
from depth_core.serving.inbox.file_errors import FileErrors
from depth_core.serving.inbox.watch import Watch
from depth_core.settings import Settings
from pipelines.jobs import serve_inbox
from pipelines.resources import DepthlineResource

POLL_SECONDS = 0.5
TICK_SECONDS = 4.5  # the daemon evaluates a sensor every 5 s; within a tick the sensor asks more often
FRESH_SECONDS = 10.0  # a worker that gave no sign of life for so long does not count as one
STARTING_SECONDS = 60.0  # how long Dagster may take to make a run of a request for one
SUCCESSOR_SECONDS = 20.0  # before a warm worker ends
LONGEST_PAUSE_SECONDS = 60.0  # between workers that fail one after the other

_FILE_ERRORS = FileErrors()  # kept between ticks, so that each error is reported once and not at every tick


@dg.sensor(
    job=serve_inbox.serve_inbox,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts a worker on each device when artworks wait, or DEPTH_WARM_MODELS asks for one, and none there is alive; "
    "picks up inbox files.",
)
def inbox_sensor(context: dg.SensorEvaluationContext, depthline: DepthlineResource) -> dg.SensorResult | dg.SkipReason:
    settings = depthline.settings()
    artworks = open_store(settings)
    watch = Watch(artworks, settings, _FILE_ERRORS)
    try:
        deadline = time.monotonic() + TICK_SECONDS
        while True:
            for line in watch.check().warnings():
                context.log.warning(line)
            artworks.queue.reconcile(max_attempts=settings.max_attempts, dead_workers=_dead_workers(context.instance, artworks))
            waiting, _ = artworks.queue.waiting()
            if waiting or settings.warm_models:
                launched: dict[str, Launched] = json.loads(context.cursor) if context.cursor else {}
                requests = [
                    request
                    for name in settings.worker_devices
                    if (request := _launch(context.instance, artworks, name, launched, _ends_after(settings))) is not None
                ]
                if requests:
                    return dg.SensorResult(run_requests=requests, cursor=json.dumps(launched))
            if time.monotonic() > deadline:
                alive = "; workers are alive or starting" if waiting or settings.warm_models else ""
                return dg.SkipReason((f"{waiting} artworks wait" if waiting else "nothing waits") + alive)
            time.sleep(POLL_SECONDS)
    finally:
        artworks.close()


class Launched(TypedDict):
    """What the sensor's cursor keeps of a device."""

    n: int  # workers asked for so far
    at: float  # when the last of them was
    failures: int  # how many of them failed, one after the other, up to the last


def _run_key(device: str, number: int) -> str:
    """Dagster makes one run of a key, ever, so it carries a number."""
    return f"worker-{device}-{number}"


def _ends_after(settings: Settings) -> float:
    """How many seconds old a worker of this Dagster is when its successor is asked for.

    With warm models that is before it ends: the successor's run waits in Dagster's queue for the place in the pool.
    """
    if not settings.warm_models:
        return math.inf
    return max(settings.max_worker_seconds / 2, settings.max_worker_seconds - SUCCESSOR_SECONDS)


def _launch(
    instance: dg.DagsterInstance, artworks: ArtworkStore, device: str, launched: dict[str, Launched], ends_after: float
) -> dg.RunRequest | None:
    """A request for a worker on a device, unless one is alive there or on its way. Counts in `launched`.

    A run that is under way and has announced no worker yet is waited for: it is starting, or waits in the queue for the pool.
    One whose worker has stopped giving signs of life is not.
    """
    alive = artworks.workers.find(fresh_seconds=FRESH_SECONDS, device=device)
    mine = [worker for worker in alive if not worker.run_id or instance.has_run(worker.run_id)]  # not another machine's Dagster's
    now = artworks.database.clock()
    if any(not worker.run_id or (now - worker.started_at).total_seconds() < ends_after for worker in mine):
        return None
    last = launched.get(device) or Launched(n=0, at=0.0, failures=0)
    age = time.time() - last["at"]
    key = _run_key(device, last["n"])
    run = next(iter(instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": key}), limit=1)), None)
    failures = 0
    if run is None:
        if age < STARTING_SECONDS:
            return None
    elif run.is_finished:
        failures = last["failures"] + 1 if run.status == dg.DagsterRunStatus.FAILURE else 0
        if failures > 1 and age < min(LONGEST_PAUSE_SECONDS, 2.0**failures):
            return None
    elif all(worker.run_id != run.run_id for worker in artworks.workers.find(device=device)):
        return None
    number = last["n"] + 1
    launched[device] = Launched(n=number, at=time.time(), failures=failures)
    return dg.RunRequest(
        run_key=_run_key(device, number),
        run_config=serve_inbox.run_config(device),
        tags={"depthline/device": device},
    )


def _dead_workers(instance: dg.DagsterInstance, artworks: ArtworkStore) -> list[str]:
    """Workers that say they are alive but whose run has ended: their claims need not wait for the lease to run out.

    A run that this instance does not know may be another instance's; its lease decides.
    """
    found = artworks.workers.find(limit=20)
    alive = {worker.run_id: worker.name for worker in found if worker.ended_at is None and worker.run_id}
    runs = instance.get_runs(dg.RunsFilter(run_ids=list(alive))) if alive else []
    return [alive[run.run_id] for run in runs if run.is_finished]
