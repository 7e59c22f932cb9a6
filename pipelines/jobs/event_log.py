"""`prune_event_log`: keeps Dagster's event log small."""

from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

PAGE = 200  # runs that are read at once


class PruneConfig(dg.Config):
    keep_days: int = Field(
        90, ge=1, description="Ended runs that were created more than this many days ago are deleted, with their event logs."
    )
    at_most: int = Field(1000, ge=1, description="Runs deleted by one run of this job.")


@dg.op(
    description=(
        "Deletes old runs and their event logs, but never a run that made what an asset partition is now: Dagster would then "
        "believe that the partition is missing."
    )
)
def prune_old_runs(context: dg.OpExecutionContext, config: PruneConfig) -> None:
    instance = context.instance
    before = datetime.now(UTC) - timedelta(days=config.keep_days)
    ended = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
    deleted, seen, cursor = 0, 0, None
    while deleted < config.at_most:
        page = instance.get_run_records(
            dg.RunsFilter(statuses=ended, created_before=before), limit=PAGE, ascending=True, cursor=cursor
        )
        if not page:
            break
        for record in page:
            seen += 1
            if not _is_latest_of_a_partition(instance, record.dagster_run.run_id):
                instance.delete_run(record.dagster_run.run_id)
                deleted += 1
            else:  # a cursor must be a run that is still there
                cursor = record.dagster_run.run_id
        if len(page) < PAGE:
            break
    context.log.info(f"deleted {deleted:,} of {seen:,} ended runs that were created before {before:%Y-%m-%d}")


def _is_latest_of_a_partition(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether some asset partition's latest materialization is this run's."""
    for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records:
        event = record.event_log_entry.asset_materialization
        if event is None:
            continue
        of_partition = dg.AssetRecordsFilter(event.asset_key, asset_partitions=[event.partition] if event.partition else None)
        latest = instance.fetch_materializations(of_partition, limit=1).records
        if latest and latest[0].run_id == run_id:
            return True
    return False


@dg.job(description="Keeps the event log small: deletes old runs.")
def prune_event_log() -> None:
    prune_old_runs()
