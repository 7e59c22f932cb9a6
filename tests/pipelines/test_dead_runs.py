"""Which runs `make maps` ends as dead: those whose process on this machine has died, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from filelock import FileLock

from pipelines.materialize.dead_runs import ALIVE_TAG, sign_of_life


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        yield instance


@dg.job
def work() -> None: ...


def started(instance: dg.DagsterInstance, name: str) -> str:
    run = instance.create_run_for_job(work, status=dg.DagsterRunStatus.STARTED, tags={ALIVE_TAG: name})
    return run.run_id


def status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def test_a_run_whose_lock_nobody_holds_is_ended_and_one_whose_lock_is_held_is_not(instance: dg.DagsterInstance) -> None:
    alive = Path(instance.root_directory) / "alive"
    alive.mkdir()
    (alive / "dead").touch()
    dead, living = started(instance, "dead"), started(instance, "living")
    with FileLock(alive / "living"), sign_of_life(instance):
        assert status(instance, dead) == dg.DagsterRunStatus.FAILURE
        assert status(instance, living) == dg.DagsterRunStatus.STARTED


def test_a_run_of_another_machine_is_left_alone(instance: dg.DagsterInstance) -> None:
    """One database, a DAGSTER_HOME on each machine: its lock file is on the other."""
    elsewhere = started(instance, "of-another-machine")
    with sign_of_life(instance):
        assert status(instance, elsewhere) == dg.DagsterRunStatus.STARTED
    assert list((Path(instance.root_directory) / "alive").iterdir()) == []
