"""The code location: everything that Dagster loads, assembled. Tests and tools assemble variants with `build_defs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from pipelines import device_runs, embedding, names
from pipelines.assets import (
    artwork_records,
    depth_gallery,
    depth_maps,
    image_manifest,
    manifest_index,
    profiles,
    request_records,
    source_images,
)
from pipelines.checks import artwork_records as record_checks
from pipelines.jobs import chunks, event_log, prune_requests, record_requests, serve_inbox
from pipelines.partitions import Partitions
from pipelines.resources import DepthlineResource, DepthModelResource
from pipelines.schedules import event_log as event_log_schedules
from pipelines.schedules import requests as request_schedules
from pipelines.schedules import retries
from pipelines.sensors import arrivals, inbox, manifests, nightly
from pipelines.sensors import profiles as profile_sensors
from pipelines.sensors import requests as request_sensors

OF_CHUNKS = (manifest_index, image_manifest, source_images, profiles, depth_maps, artwork_records, depth_gallery)

BULK_JOBS: list[Any] = [
    chunks.index_manifest,
    chunks.ingest_chunk,
    chunks.depth_maps_for_chunk,
    chunks.retry_failed_rows,
    chunks.retry_all_failed_rows,
]
JOBS: list[Any] = [
    *BULK_JOBS,
    event_log.prune_event_log,
    serve_inbox.serve_inbox,
    prune_requests.prune_requests,
    record_requests.record_requests,
]
SENSORS = [
    manifests.manifest_sensor,
    arrivals.arrival_sensor,
    profile_sensors.profile_sensor,
    inbox.inbox_sensor,
    request_sensors.request_records_sensor,
]
SCHEDULES = [
    retries.retry_failed_rows_schedule,
    event_log_schedules.prune_event_log_weekly,
    request_schedules.record_requests_daily,
    request_schedules.prune_requests_daily,
]


def build_defs(depthline: DepthlineResource | None = None, resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """The definitions under one configuration. `resources` replaces resources by name.

    Raises ConfigurationError when a setting or profiles.toml is wrong.
    """
    depthline = depthline or DepthlineResource()
    settings = depthline.settings()
    tags = settings.device_run_tags
    jobs = {job.name: device_runs.tagged(job, tags) for job in JOBS}
    parts = _partitions(depthline)
    return dg.Definitions(
        assets=[*(each.build(parts) for each in OF_CHUNKS), request_records.build()],
        asset_checks=record_checks.build(parts),
        jobs=jobs.values(),
        sensors=[*(device_runs.sensor_of(sensor, jobs) for sensor in SENSORS), nightly.build(tags)],
        schedules=[device_runs.schedule_of(schedule, jobs) for schedule in SCHEDULES],
        resources={"depthline": depthline, "depth_model": DepthModelResource(), **(resources or {})},
        # One process a run: the multiprocess executor would import torch and load the model once per step.
        executor=dg.in_process_executor,
    )


def _partitions(depthline: DepthlineResource) -> Partitions:
    return Partitions.of(list(depthline.profiles()), depthline.settings().partitions_per_run)


def build_embedded(depthline: DepthlineResource, place: embedding.Place) -> dg.Definitions:
    """The definitions of bulk work alone, for the code location of another project. `depthline` has the place's key prefix.

    Raises ConfigurationError as `build_defs`.
    """
    parts, settings = _partitions(depthline), depthline.settings()
    assets = [depth_maps.build(parts, place.pool) if each is depth_maps else each.build(parts) for each in OF_CHUNKS]
    jobs = {
        job.name: device_runs.placed(job, place.selection(job, assets), settings.device_run_tags, executor=dg.in_process_executor)
        for job in BULK_JOBS
    }
    sensors = [device_runs.sensor_of(sensor, jobs) for sensor in (manifests.manifest_sensor, arrivals.arrival_sensor)]
    return dg.Definitions(
        assets=[place.asset(asset) for asset in assets],
        asset_checks=[place.asset(check) for check in record_checks.build(parts)],
        jobs=jobs.values(),
        sensors=[
            *sensors,
            profile_sensors.build(depthline.key(names.PROFILE)),
            nightly.build(settings.device_run_tags, place.targets()),
        ],
        schedules=[device_runs.schedule_of(retries.retry_failed_rows_schedule, jobs)],
        resources={"depthline": depthline, "depth_model": DepthModelResource()},
    )


@dg.definitions
def defs() -> dg.Definitions:
    return build_defs()
