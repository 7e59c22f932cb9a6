"""The schedules of single requests: yesterday's table, and what is old is forgotten."""

import dagster as dg

from pipelines.jobs.prune_requests import prune_requests
from pipelines.jobs.record_requests import record_requests

record_requests_daily = dg.build_schedule_from_partitioned_job(
    record_requests,
    name="record_requests_daily",
    hour_of_day=0,
    minute_of_hour=30,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
prune_requests_daily = dg.ScheduleDefinition(
    name="prune_requests_daily",
    job=prune_requests,
    cron_schedule="30 3 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every night: artworks older than DEPTH_KEEP_ARTWORKS_DAYS are forgotten.",
)
