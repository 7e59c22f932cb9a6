"""The schedules of single requests: yesterday's table once more when its day is over, and what is old is forgotten."""

from datetime import UTC, timedelta

import dagster as dg

from depth_core.serving.artworks.statistics import days_with_ends
from depth_core.serving.artworks.store import open_store
from pipelines.jobs.prune_requests import prune_requests
from pipelines.jobs.record_requests import record_requests
from pipelines.partitions import REQUEST_DAY
from pipelines.resources import DepthlineResource


@dg.schedule(
    name="record_requests_daily",
    job=record_requests,
    cron_schedule="30 0 * * *",
    execution_timezone="UTC",  # a day of the tables is one of UTC
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every night: yesterday's table, whatever became of the runs that wrote it in the day.",
)
def record_requests_daily(context: dg.ScheduleEvaluationContext, depthline: DepthlineResource) -> dg.RunRequest | dg.SkipReason:
    midnight = context.scheduled_execution_time.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    artworks = open_store(depthline.settings())
    try:
        days, _ = days_with_ends(artworks.database, after=midnight - timedelta(days=1, microseconds=1))
    finally:
        artworks.close()
    yesterday = (midnight - timedelta(days=1)).date()
    if yesterday not in days:
        return dg.SkipReason(f"no request ended on {yesterday}")
    context.instance.add_dynamic_partitions(REQUEST_DAY, [str(yesterday)])
    return dg.RunRequest(partition_key=str(yesterday))


prune_requests_daily = dg.ScheduleDefinition(
    name="prune_requests_daily",
    job=prune_requests,
    cron_schedule="30 3 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every night: artworks older than DEPTH_KEEP_ARTWORKS_DAYS are forgotten.",
)
