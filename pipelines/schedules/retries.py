"""`retry_failed_rows_schedule`: tries rows again whose failure may have passed."""

from collections.abc import Iterator

import dagster as dg
import pandas as pd

from depth_core.errors import ErrorKind
from depth_core.output import records
from depth_core.output.outcomes import FAILED
from pipelines.jobs.chunks import retry_failed_rows
from pipelines.partitions import pair
from pipelines.resources import DepthlineResource

RUNS_PER_MORNING = 500


@dg.schedule(
    job=retry_failed_rows,
    cron_schedule="0 7 * * *",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Every morning: one run for each chunk x profile that has rows whose failure may have passed.",
)
def retry_failed_rows_schedule(
    context: dg.ScheduleEvaluationContext, depthline: DepthlineResource
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    temporary = {kind.value for kind in ErrorKind if kind.retryable}
    failed = records.read(depthline.store(), status=FAILED, columns=["chunk", "profile", "error_kind"])
    # Single requests and profiles that were taken out have records too, and no partitions.
    there = failed["profile"].isin(depthline.profiles())
    pairs = failed.loc[failed["error_kind"].isin(temporary) & there, ["chunk", "profile"]].drop_duplicates()
    if pairs.empty:
        yield dg.SkipReason("no failed row is worth another try")
    day = context.scheduled_execution_time.strftime("%Y-%m-%d")
    if len(pairs) > RUNS_PER_MORNING:  # a tick has 60 s; another part of them each day, so that none waits for ever
        context.log.info(f"{len(pairs):,} pairs have rows to retry: {RUNS_PER_MORNING:,} today, the others on later days")
        first = context.scheduled_execution_time.toordinal() * RUNS_PER_MORNING % len(pairs)
        pairs = pd.concat([pairs.iloc[first:], pairs.iloc[:first]]).head(RUNS_PER_MORNING)
    for chunk, profile in pairs.itertuples(index=False):
        yield dg.RunRequest(run_key=f"retry-{chunk}-{profile}-{day}", partition_key=pair(chunk, profile))
