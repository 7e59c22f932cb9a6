"""Tags of runs that use a device: how a cluster knows that such a run needs a GPU. DEPTH_DEVICE_RUN_TAGS says which.

They are on the jobs, so on whatever starts these. What a tag means to Kubernetes is not known here, and no package of it is
needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from pipelines.jobs import chunks, serve_inbox

# Jobs whose runs open a device: those of bulk work, and the workers of single requests.
JOBS = (chunks.depth_maps_for_chunk, chunks.retry_failed_rows, chunks.retry_all_failed_rows, serve_inbox.serve_inbox)


def tagged(job: Any, tags: Mapping[str, Any]) -> Any:
    """A job with more tags; the same job when its runs open no device."""
    if job not in JOBS:
        return job
    if isinstance(job, dg.JobDefinition):
        return job.graph.to_job(name=job.name, description=job.description, tags={**job.tags, **tags})
    return placed(job, job.selection, tags)


def placed(job: Any, selection: dg.AssetSelection, tags: Mapping[str, Any], executor: dg.ExecutorDefinition | None = None) -> Any:
    """A job of assets that selects others, under the same name; with more tags when its runs open a device."""
    more = {**(job.tags or {}), **(tags if job in JOBS else {})}
    return dg.define_asset_job(
        job.name, selection, config=job.config, description=job.description, tags=more, executor_def=executor
    )


def sensor_of(sensor: dg.SensorDefinition, jobs: Mapping[str, Any]) -> dg.SensorDefinition:
    """A sensor that starts `jobs`, by their names, in place of its own of the same names."""
    named = [target.job_name for target in sensor.targets if target.job_name in jobs]
    return sensor.with_updated_jobs([jobs[name] for name in named]) if named else sensor


def schedule_of(schedule: Any, jobs: Mapping[str, Any]) -> Any:
    """A schedule that starts the one of `jobs` that has its job's name. Schedules of the partitions of a job stay as they are."""
    return schedule.with_updated_job(jobs[schedule.job_name]) if isinstance(schedule, dg.ScheduleDefinition) else schedule
