"""`request_records_sensor`: writes the tables of the days on which single requests ended, today's every few minutes."""

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

import dagster as dg

from depth_core.serving.artworks.statistics import days_with_ends
from depth_core.serving.artworks.store import open_store
from pipelines import names
from pipelines.assets.request_records import may_be_pruned
from pipelines.jobs.record_requests import record_requests
from pipelines.partitions import REQUEST_DAY
from pipelines.resources import DepthlineResource

REFRESH_SECONDS = 180
RUNS_PER_TICK = 10
_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass
class _Cursor:
    until: str = ""  # artworks that ended up to this time are in a table, or their day waits; "": none
    waiting: list[str] = field(default_factory=list)  # days whose table is to be written, oldest first


@dg.sensor(
    job=record_requests,
    minimum_interval_seconds=REFRESH_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Writes today's table of single requests anew when some have ended since the last tick, and those of earlier "
    "days that are not complete.",
)
def request_records_sensor(context: dg.SensorEvaluationContext, depthline: DepthlineResource) -> dg.SensorResult | dg.SkipReason:
    settings = depthline.settings()
    cursor = _Cursor(**json.loads(context.cursor)) if context.cursor else _Cursor()
    artworks = open_store(settings)
    try:
        until = datetime.fromisoformat(cursor.until) if cursor.until else None
        days, latest = days_with_ends(artworks.database, after=until)
        today = artworks.database.clock().date()
    finally:
        artworks.close()
    kept: set[str] = set()
    if until is None:  # the first tick: also where an earlier version wrote a table every night
        kept = context.instance.get_materialized_partitions(depthline.key(names.REQUEST_RECORDS))
        days = [day for day in days if str(day) not in kept or day >= today - timedelta(days=1)]
    busy = _being_written(context.instance)
    wanted = sorted({*cursor.waiting, *(str(day) for day in days if not may_be_pruned(day, settings))})
    due = [day for day in wanted if day not in busy][:RUNS_PER_TICK]
    known = set(context.instance.get_dynamic_partitions(REQUEST_DAY))
    new = sorted({*kept, *due} - known)
    if not due and not new:
        return dg.SkipReason("the last table is being written" if wanted else "no request has ended since the last table")
    after = _Cursor(latest.isoformat() if latest else cursor.until, [day for day in wanted if day not in due])
    return dg.SensorResult(
        run_requests=[dg.RunRequest(partition_key=day) for day in due],
        dynamic_partitions_requests=[dg.AddDynamicPartitionsRequest(REQUEST_DAY, new)] if new else [],
        cursor=json.dumps(asdict(after)),
    )


def _being_written(instance: dg.DagsterInstance) -> set[str]:
    """Days whose table a run is about to write: one more would only do the same again."""
    runs = instance.get_runs(dg.RunsFilter(job_name=record_requests.name, statuses=_UNDER_WAY))
    return {run.tags["dagster/partition"] for run in runs if "dagster/partition" in run.tags}
