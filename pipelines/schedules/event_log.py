"""`prune_event_log_weekly`: deletes old runs and their event logs."""

import dagster as dg

from pipelines.jobs.event_log import prune_event_log

prune_event_log_weekly = dg.ScheduleDefinition(
    name="prune_event_log_weekly",
    job=prune_event_log,
    cron_schedule="0 5 * * 0",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Deletes old runs and their event logs every Sunday.",
)
