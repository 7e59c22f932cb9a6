"""The code location: everything that Dagster loads, assembled. Tests and tools assemble variants with `build_defs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg

from pipelines import checks, jobs, requests, schedules, sensors
from pipelines.assets import depth, manifests
from pipelines.partitions import Partitions
from pipelines.resources import DepthlineResource, DepthModelResource


def build_defs(depthline: DepthlineResource | None = None, resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """The definitions of one installation. `resources` replaces resources by name.

    Raises ConfigurationError when a setting or profiles.toml is wrong.
    """
    depthline = depthline or DepthlineResource()
    parts = Partitions.of(list(depthline.profiles()))
    return dg.Definitions(
        assets=[*manifests.build(parts), *depth.build(parts), *requests.build()],
        asset_checks=checks.build(parts),
        jobs=[*jobs.JOBS, requests.serve_inbox, requests.prune_requests],
        sensors=[*sensors.build(), requests.inbox_sensor],
        schedules=[*schedules.build(), *requests.build_schedules()],
        resources={"depthline": depthline, "depth_model": DepthModelResource(), **(resources or {})},
        # One process a run: the multiprocess executor would import torch and load the model once per step.
        executor=dg.in_process_executor,
    )


@dg.definitions
def defs() -> dg.Definitions:
    return build_defs()
