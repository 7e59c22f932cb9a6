"""deploy/dagster.yaml and the chart's values against the repository's dagster.yaml: the same limits wherever Dagster runs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from support.deployment import DEPLOY, ROOT
from support.servers import postgresql_database

VARIABLES = {
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_DEFAULT_REGION": "us-east-1",
    "DAGSTER_LOGS_BUCKET": "logs",
}


def read(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text("utf-8"))
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    return read(ROOT / "dagster.yaml")


def test_compose_s_instance_is_the_shipped_one_but_for_storage_logs_and_launcher(shipped: dict[str, Any]) -> None:
    deployed = read(DEPLOY / "dagster.yaml")
    own = {key: deployed.pop(key) for key in ("storage", "compute_logs", "run_launcher")}
    assert list(own["storage"]) == ["postgres"]
    assert deployed == shipped


def test_the_chart_s_instance_is_the_shipped_one_but_for_the_time_a_pod_may_take_to_start(shipped: dict[str, Any]) -> None:
    values = read(DEPLOY / "k8s" / "values.yaml")
    added = copy.deepcopy(values["additionalInstanceConfig"])
    assert added["run_monitoring"].pop("start_timeout_seconds") == 900
    expected = copy.deepcopy(shipped)
    del expected["run_monitoring"]["start_timeout_seconds"]
    coordinator = expected.pop("run_coordinator")["config"]  # the chart has keys of its own for these three
    del expected["telemetry"], expected["nux"]
    assert added == expected
    own = values["dagsterDaemon"]["runCoordinator"]["config"]["queuedRunCoordinator"]
    assert own == {"dequeueIntervalSeconds": coordinator["dequeue_interval_seconds"]}
    assert values["telemetry"] == {"enabled": False}


def test_what_the_chart_would_write_itself_is_switched_off_where_the_values_say_it() -> None:
    """A key that stands twice in dagster.yaml counts once, and nobody sees which."""
    values = read(DEPLOY / "k8s" / "values.yaml")
    daemon = values["dagsterDaemon"]
    by_the_chart = {
        "run_monitoring": daemon["runMonitoring"]["enabled"],
        "run_retries": daemon["runRetries"]["enabled"],
        "sensors": daemon["sensors"]["useThreads"],
        "schedules": daemon["schedules"]["useThreads"],
        "retention": values["retention"]["enabled"],
        "concurrency": values.get("concurrency", {}).get("enabled", False),
    }
    assert set(by_the_chart) <= {*values["additionalInstanceConfig"]}
    assert not any(by_the_chart.values())


def test_dagster_loads_compose_s_instance(postgresql: sa.URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dagster_aws", reason="logs in a bucket; it is in the extra aws")
    pytest.importorskip("dagster_docker", reason="a container for each run; it is in the extra docker")
    (tmp_path / "dagster.yaml").write_text((DEPLOY / "dagster.yaml").read_text("utf-8"), "utf-8")
    with postgresql_database(postgresql) as url:
        location = url.set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)
        for name, value in (VARIABLES | {"DAGSTER_POSTGRES_URL": location}).items():
            monkeypatch.setenv(name, value)
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            kinds = [type(each).__name__ for each in (instance.run_storage, instance.compute_log_manager, instance.run_launcher)]
            assert kinds == ["PostgresRunStorage", "S3ComputeLogManager", "DockerRunLauncher"]
            assert instance.run_coordinator.get_run_queue_config() is not None
            assert instance.run_monitoring_enabled


def test_dagster_loads_what_the_chart_adds(tmp_path: Path) -> None:
    added = read(DEPLOY / "k8s" / "values.yaml")["additionalInstanceConfig"]
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(added), "utf-8")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_monitoring_start_timeout_seconds == 900
