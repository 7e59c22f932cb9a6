"""`retry_failed_rows_schedule`: tries rows again whose failure may have passed."""

from collections.abc import Iterator

import dagster as dg

from depth_core.errors import ErrorKind
from depth_core.output import records
from depth_core.output.outcomes import FAILED
from pipelines import names, ranges
from pipelines.jobs.chunks import RETRY_TEMPORARY, retry_failed_rows
from pipelines.partitions import CHUNK, pair, with_partitions
from pipelines.resources import DepthlineResource

RUNS_PER_MORNING = 500


@dg.schedule(
    job=retry_failed_rows,
    cron_schedule="0 7 * * *",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Every morning: runs for all chunks x profiles that have rows whose failure may have passed.",
)
def retry_failed_rows_schedule(
    context: dg.ScheduleEvaluationContext, depthline: DepthlineResource
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    temporary = {kind.value for kind in ErrorKind if kind.retryable}
    failed = records.read(depthline.store(), status=FAILED, columns=["chunk", "profile", "error_kind"])
    failed = failed[failed["error_kind"].isin(temporary)]
    known = {chunk: place for place, chunk in enumerate(context.instance.get_dynamic_partitions(CHUNK))}
    found = set(failed["profile"])
    # Single requests and profiles that were taken out have records too.
    profiles = [profile for profile in depthline.profiles() if profile in found]
    runs = [
        (profile, group[0], group[-1])
        for profile in with_partitions(profiles, context.repository_def, depthline.key(names.DEPTH_MAPS), context.log)
        for group in ranges.contiguous(
            failed.loc[failed["profile"] == profile, "chunk"].unique().tolist(), known, depthline.settings().partitions_per_run
        )
    ]
    if not runs:
        yield dg.SkipReason("no failed row is worth another try")
    day = context.scheduled_execution_time.strftime("%Y-%m-%d")
    if len(runs) > RUNS_PER_MORNING:  # a tick has 60 s; another part of them each day, so that none waits for ever
        context.log.info(f"{len(runs):,} runs would retry all rows: {RUNS_PER_MORNING:,} today, the others on later days")
        first = context.scheduled_execution_time.toordinal() * RUNS_PER_MORNING % len(runs)
        runs = (runs[first:] + runs[:first])[:RUNS_PER_MORNING]
    for profile, chunk, last in runs:
        yield dg.RunRequest(
            run_key=f"retry-{chunk}-{last}-{profile}-{day}",
            run_config=RETRY_TEMPORARY,
            tags=ranges.tags(pair(chunk, profile), pair(last, profile)),
        )
