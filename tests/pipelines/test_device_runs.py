"""Runs that use a device carry the tags that a cluster gives GPUs by; other runs do not."""

from __future__ import annotations

import json
from typing import Any

import dagster as dg
import pytest

from pipelines import device_runs
from pipelines.definitions import build_defs
from pipelines.jobs import chunks
from pipelines.resources import DepthlineResource

TAGS = {"dagster-k8s/config": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}, "team": "depth"}
AS_KEPT = {key: value if isinstance(value, str) else json.dumps(value) for key, value in TAGS.items()}
POOLS = {"gpu", "gpu_requests"}


def repository(tags: dict[str, Any]) -> dg.RepositoryDefinition:
    return build_defs(DepthlineResource(overrides={"device_run_tags": tags})).get_repository_def()


@pytest.fixture(scope="module")
def tagged() -> dg.RepositoryDefinition:
    return repository(TAGS)


def pools(job: dg.JobDefinition) -> set[str]:
    return {pool for node in job.graph.iterate_op_defs() for pool in node.pools}


def test_every_job_with_an_op_in_a_device_s_pool_has_them_and_no_other_has(tagged: dg.RepositoryDefinition) -> None:
    jobs = [job for job in tagged.get_all_jobs() if not job.name.startswith("__")]
    using = {job.name for job in jobs if pools(job) & POOLS}
    assert using == {"depth_maps_for_chunk", "retry_failed_rows", "retry_all_failed_rows", "serve_inbox"}
    for job in jobs:
        assert (AS_KEPT.items() <= job.tags.items()) == (job.name in using), job.name
        assert job.name in using or not AS_KEPT.keys() & job.tags.keys(), job.name


def test_what_a_job_had_it_keeps(tagged: dg.RepositoryDefinition) -> None:
    plain = repository({})
    for job in plain.get_all_jobs():
        other = tagged.get_job(job.name)
        assert job.tags.items() <= other.tags.items(), job.name
        assert (job.description, pools(job)) == (other.description, pools(other)), job.name
        assert not AS_KEPT.keys() & job.tags.keys()
    retry = chunks.retry_all_failed_rows
    assert device_runs.tagged(retry, TAGS).config == retry.config
    assert retry.config["ops"]["depth_maps"]["ops"]["generate_depth_maps"]["config"]["retry_permanent"] is True


def test_sensors_and_schedules_start_the_jobs_that_have_them(tagged: dg.RepositoryDefinition) -> None:
    plain = repository({})
    for sensor in tagged.sensor_defs:
        names = [target.job_name for target in sensor.targets]
        assert names == [target.job_name for target in plain.get_sensor_def(sensor.name).targets], sensor.name
        for job in sensor.jobs if sensor.has_jobs and names != [None] else []:
            assert job is tagged.get_job(job.name) or job.tags == tagged.get_job(job.name).tags, (sensor.name, job.name)
    assert {schedule.job_name for schedule in tagged.schedule_defs} == {schedule.job_name for schedule in plain.schedule_defs}


def test_the_nightly_backfill_gives_them_to_what_it_asks_for(tagged: dg.RepositoryDefinition) -> None:
    nightly = tagged.get_sensor_def("nightly_backfill")
    assert isinstance(nightly, dg.AutomationConditionSensorDefinition)
    assert nightly.run_tags == AS_KEPT
    without = repository({}).get_sensor_def("nightly_backfill")
    assert isinstance(without, dg.AutomationConditionSensorDefinition)
    assert without.run_tags == {}
