"""compose.yaml and its neighbours as files: valid for Compose, in step with each other, without a secret in them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from support.deployment import DEPLOY, ROOT, compose, copied, env_file, image_environment, interpolated

SECRETS = {"POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "DEPTH_API_KEYS", "DEPTH_SECRET_KEY", "DOCKER_GID"}
OURS = ("prepare", "code-location", "webserver", "daemon", "api", "worker")


@pytest.fixture(scope="module")
def filled() -> dict[str, str]:
    """.env.example as an operator fills it in."""
    return {name: value or f"filled-{name.lower()}" for name, value in env_file(".env.example").items()}


@pytest.fixture(scope="module")
def services(filled: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = interpolated(compose(), filled)["services"]
    return found


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_it_is_valid_by_the_schema_of_the_compose_specification(name: str, filled: dict[str, str]) -> None:
    pytest.importorskip("check_jsonschema", reason="brings the schema of the Compose specification; it is in the extra test")
    from importlib.resources import files

    import jsonschema

    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text("utf-8"))
    for variables in (filled, dict.fromkeys(filled, "x")):
        jsonschema.validate(interpolated(compose(name), variables), schema)
    with pytest.raises(jsonschema.ValidationError):  # a schema that takes everything would show nothing
        jsonschema.validate({"services": {"api": {"imaged": "x"}}}, schema)


def test_the_workflow_is_valid_and_runs_make_test() -> None:
    pytest.importorskip("check_jsonschema", reason="brings the schema of workflows; it is in the extra test")
    from importlib.resources import files

    import jsonschema

    workflow = yaml.load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"), yaml.BaseLoader)  # `on` is no boolean
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/github-workflows.json").read_text("utf-8"))
    loaded = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    loaded["on"] = loaded.pop(True)
    jsonschema.validate(loaded, schema)
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "make" in step.get("run", "")] == ["make test"]
    requires = re.search(r'requires-python = ">=(.*)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert requires is not None
    assert job["strategy"]["matrix"]["python"][0] == requires[1]


def test_every_part_is_a_service_and_each_of_ours_has_the_same_image_and_rights(services: dict[str, Any]) -> None:
    assert set(services) == {"postgres", "s3", *OURS}
    assert {services[name]["image"] for name in OURS} == {"depthline:cpu"}
    for name in OURS:
        assert services[name]["cap_drop"] == ["ALL"], name
        assert "user" not in services[name], "the image's own, which is not root"


def test_every_service_says_whether_it_is_well_or_why_it_need_not(services: dict[str, Any]) -> None:
    unwatched = {name for name in services if services[name]["healthcheck"].get("disable")}
    assert unwatched == {"prepare", "worker"}  # the first ends by itself, the other ends when something is wrong
    for name in services.keys() - unwatched:
        assert services[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name


def test_postgresql_is_well_when_it_answers_over_tcp_as_services_ask_it(services: dict[str, Any]) -> None:
    check = services["postgres"]["healthcheck"]["test"]
    assert check[check.index("--host") + 1] == "127.0.0.1"  # while the image makes its databases it answers on a socket only


def test_nothing_starts_before_what_it_needs(services: dict[str, Any]) -> None:
    needs = {name: {other: how["condition"] for other, how in services[name].get("depends_on", {}).items()} for name in services}
    assert needs["prepare"] == {"postgres": "service_healthy", "s3": "service_healthy"}
    for name in OURS[1:]:
        assert needs[name]["prepare"] == "service_completed_successfully", name
    for name in ("webserver", "daemon"):
        assert needs[name]["code-location"] == "service_healthy"


def test_an_operator_s_own_servers_take_the_place_of_both() -> None:
    services = compose()["services"]
    assert (services["postgres"]["profiles"], services["s3"]["profiles"]) == (["postgres"], ["s3"])
    assert not any(how["required"] for how in services["prepare"]["depends_on"].values())
    assert env_file(".env.example")["COMPOSE_PROFILES"] == "postgres,s3"


def test_no_secret_has_a_value_here_and_without_one_nothing_starts(filled: dict[str, str]) -> None:
    given = env_file(".env.example")
    assert {name for name, value in given.items() if not value} == SECRETS
    for name in SECRETS - {"POSTGRES_PASSWORD"}:
        with pytest.raises(KeyError, match=name):
            interpolated(compose(), filled | {name: ""})
    assert ".env" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


def test_a_run_has_what_the_services_have(services: dict[str, Any]) -> None:
    """DockerRunLauncher hands on the variables that it lists, and fails where one is missing."""
    launcher = yaml.safe_load((DEPLOY / "dagster.yaml").read_text("utf-8"))["run_launcher"]["config"]
    assert sorted(launcher["env_vars"]) == sorted(compose()["x-environment"])
    for name in ("daemon", "webserver"):
        assert set(launcher["env_vars"]) <= services[name]["environment"].keys()
    named = compose()["volumes"]
    mounted = {volume.partition(":")[0]: volume.partition(":")[2] for volume in launcher["container_kwargs"]["volumes"]}
    worker = dict(each.split(":") for each in services["worker"]["volumes"])
    assert mounted == {named[name]["name"]: path for name, path in worker.items()}, "so they share weights and lock files"
    assert compose()["networks"]["default"]["name"] == launcher["network"]


def test_a_container_of_a_run_is_made_as_docker_takes_it() -> None:
    containers = pytest.importorskip("docker.models.containers", reason="Docker's client; it is in the extra docker")
    launcher = yaml.safe_load((DEPLOY / "dagster.yaml").read_text("utf-8"))["run_launcher"]["config"]["container_kwargs"]
    gpu = compose("compose.gpu.yaml")["services"]["code-location"]["environment"]["DAGSTER_CONTAINER_CONTEXT"]
    asked = {key: value for key, value in launcher.items() if key != "stop_timeout"}  # the launcher's own
    asked |= json.loads(gpu)["docker"]["container_kwargs"]
    made = containers._create_container_args({**asked, "image": "depthline:cpu", "version": "1.43"})
    host = made["host_config"]
    assert host["DeviceRequests"] == [
        {"Driver": "nvidia", "Count": -1, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}
    ]
    assert (host["AutoRemove"], host["Init"], made["healthcheck"]) == (True, True, {"test": ["NONE"]})
    assert sorted(made["volumes"]) == ["/var/cache/depthline", "/var/lib/depthline/locks"]


def test_gpus_are_reserved_for_the_worker_and_for_runs() -> None:
    services = compose("compose.gpu.yaml")["services"]
    assert services["worker"]["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    ]
    assert services.keys() <= compose()["services"].keys()


def test_volumes_are_mounted_where_the_image_keeps_things(services: dict[str, Any]) -> None:
    image = image_environment()
    paths = {volume.split(":")[1] for volume in services["worker"]["volumes"]}
    assert paths == {image["DEPTH_CHECKPOINT_CACHE"], image["DEPTH_LOCK_FOLDER"]}
    assert image["HF_HOME"].startswith(image["DEPTH_CHECKPOINT_CACHE"])


def test_files_that_commands_name_are_in_the_image(services: dict[str, Any]) -> None:
    there = {target for _, target in copied()}
    for name in OURS:
        check = services[name]["healthcheck"].get("test", [])
        for word in (*services[name]["command"], *check):
            if word.endswith((".py", ".yaml")):
                assert word in there, (name, word)
