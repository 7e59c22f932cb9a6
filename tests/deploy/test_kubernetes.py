"""The files for Kubernetes: plain manifests, the pods that the chart's values make of runs, and Ray's nodes, each validated."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from support.deployment import DEPLOY, ROOT, compose, copied, image_environment

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="schemas of Kubernetes; it is in the extra test")
VERSION = "1.33"
GPU = "nvidia.com/gpu"

# Keys of values.yaml that Dagster's chart takes: a list by hand, not the chart's own schema. None: anything below.
Known = Mapping[str, Any] | None
_CONTAINER: Known = {"resources": None, "securityContext": None}
CHART: Known = {
    "dagster-user-deployments": {
        "enabled": None,
        "deployments": {
            "name": None,
            "image": {"repository": None, "tag": None, "pullPolicy": None},
            "port": None,
            "codeServerArgs": None,
            "env": None,
            "envConfigMaps": None,
            "envSecrets": None,
            "includeConfigInLaunchedRuns": {"enabled": None},
            "podSecurityContext": None,
            **_CONTAINER,
        },
    },
    "runLauncher": {
        "type": None,
        "config": {
            "k8sRunLauncher": {
                "imagePullPolicy": None,
                "loadInclusterConfig": None,
                "envConfigMaps": None,
                "envSecrets": None,
                "envVars": None,
                "volumes": None,
                "volumeMounts": None,
                "runK8sConfig": {"containerConfig": None, "podSpecConfig": None, "jobSpecConfig": None},
            }
        },
    },
    "computeLogManager": {
        "type": None,
        "config": {
            "s3ComputeLogManager": {
                "bucket": None,
                "prefix": None,
                "region": None,
                "uploadInterval": None,
                "skipEmptyFiles": None,
            }
        },
    },
    "global": {"postgresqlSecretName": None},
    "generatePostgresqlPasswordSecret": None,
    "postgresql": {
        "enabled": None,
        "postgresqlScheme": None,
        "postgresqlHost": None,
        "postgresqlUsername": None,
        "postgresqlDatabase": None,
        "service": {"port": None},
    },
    "dagsterWebserver": {"envSecrets": None},
    "dagsterDaemon": {
        "runMonitoring": {"enabled": None},
        "runRetries": {"enabled": None},
        "sensors": {"useThreads": None},
        "schedules": {"useThreads": None},
        "runCoordinator": {
            "enabled": None,
            "type": None,
            "config": {"queuedRunCoordinator": {"dequeueIntervalSeconds": None}},
        },
    },
    "retention": {"enabled": None},
    "telemetry": {"enabled": None},
    "additionalInstanceConfig": None,
}
# What a RayCluster (ray.io/v1) takes of the keys that ours has, beside pod templates.
_GROUP: Known = {"rayStartParams": None, "template": {"spec": None}}
RAY: Known = {
    "apiVersion": None,
    "kind": None,
    "metadata": {"name": None},
    "spec": {
        "rayVersion": None,
        "headGroupSpec": _GROUP,
        "workerGroupSpecs": {"groupName": None, "replicas": None, "minReplicas": None, "maxReplicas": None, **_GROUP},
    },
}


def unknown(value: Any, known: Known, path: str = "") -> Iterator[str]:
    """The paths of keys that are not known. Of lists, each item is looked into."""
    if isinstance(value, list):
        for item in value:
            yield from unknown(item, known, path)
    elif known is not None and isinstance(value, dict):
        for key, below in value.items():
            if key not in known:
                yield f"{path}.{key}"
            else:
                yield from unknown(below, known[key], f"{path}.{key}")


def read(name: str) -> dict[str, Any]:
    found = yaml.safe_load((DEPLOY / "k8s" / name).read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def pod(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": dict(spec)}


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod that the manifests describe, by the name of what starts it."""
    for item in read("depthline.yaml")["items"]:
        if "template" in item.get("spec", {}):
            yield item["metadata"]["name"], item["spec"]["template"]["spec"]
    cluster = read("raycluster.yaml")["spec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group.get("groupName", "head"), group["template"]["spec"]


def gpus(spec: Mapping[str, Any]) -> int:
    return sum(int(each.get("resources", {}).get("limits", {}).get(GPU, 0)) for each in spec["containers"])


@pytest.mark.parametrize("item", read("depthline.yaml")["items"], ids=lambda item: item["metadata"]["name"])
def test_every_manifest_is_valid(item: dict[str, Any]) -> None:
    kubernetes_validate.validate(item, VERSION, strict=True)
    broken = copy.deepcopy(item) | {"specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


@pytest.mark.parametrize(("name", "spec"), list(pods()), ids=lambda each: each if isinstance(each, str) else "")
def test_every_pod_is_valid_runs_without_rights_and_can_write_its_volumes(name: str, spec: dict[str, Any]) -> None:
    kubernetes_validate.validate(pod(spec), VERSION, strict=True)
    security = spec["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["fsGroup"]) == (True, 10001, 10001)
    for container in spec["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert {"configMapRef": {"name": "depthline-env"}} in container["envFrom"]
        files = [word for key in ("args", "command") for word in container.get(key, []) if word.endswith(".py")]
        assert {*files} <= {target for _, target in copied()}


def test_a_gpu_for_each_pod_that_computes_and_none_for_the_others() -> None:
    assert {name: gpus(spec) for name, spec in pods()} == {
        "depthline-prepare": 0,
        "depthline-api": 0,
        "depthline-worker": 1,
        "head": 0,
        "gpu": 1,
    }


def test_the_ray_cluster_has_known_keys_and_the_version_that_is_pinned() -> None:
    cluster = read("raycluster.yaml")
    assert list(unknown(cluster, RAY)) == []
    assert list(unknown({"spec": {"headGroup": {}}}, RAY)) == [".spec.headGroup"]
    assert f"ray=={cluster['spec']['rayVersion']}" in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    for group in (cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]):
        assert all(isinstance(each, str) for each in group["rayStartParams"].values()), "KubeRay takes nothing but text"
        # What Ray itself listens at: its dashboard and the agents of it need more packages than the image has.
        listens = {"6379", group["rayStartParams"].get("node-manager-port")}
        for container in group["template"]["spec"]["containers"]:
            ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
            for probe in ("livenessProbe", "readinessProbe"):
                assert ports[container[probe]["tcpSocket"]["port"]] in listens


def test_the_values_have_keys_that_dagster_s_chart_knows() -> None:
    values = read("values.yaml")
    assert list(unknown(values, CHART)) == []
    assert list(unknown({"dagsterDaemon": {"sensor": {}}}, CHART)) == [".dagsterDaemon.sensor"]


def test_settings_of_all_pods_are_those_that_compose_has_beside_secrets() -> None:
    (config,) = (item["data"] for item in read("depthline.yaml")["items"] if item["kind"] == "ConfigMap")
    secret = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "DEPTH_DATABASE_URL", "DEPTH_SECRET_KEY"}
    elsewhere = {"AWS_ENDPOINT_URL", "DAGSTER_POSTGRES_URL"}  # Amazon's own; the chart's
    assert set(config) == compose()["x-environment"].keys() - secret - elsewhere
    docs = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    for name in secret:
        assert f"--from-literal={name}=" in docs, name


def run_job(tags: Mapping[str, str]) -> dict[str, Any]:
    """The Job that Dagster makes of a run with these tags, from the values as the chart hands them on to its launcher."""
    job = pytest.importorskip("dagster_k8s.job", reason="a pod for each run; it is in the extra k8s")
    client = pytest.importorskip("kubernetes").client
    from dagster_k8s.container_context import K8sContainerContext

    launcher = read("values.yaml")["runLauncher"]["config"]["k8sRunLauncher"]
    snake = {
        re.sub(r"([A-Z])", r"_\1", key.replace("K8s", "_k8s")).lower(): each for key, each in launcher["runK8sConfig"].items()
    }
    context = K8sContainerContext(
        env_config_maps=[each["name"] for each in launcher["envConfigMaps"]],
        env_secrets=[each["name"] for each in launcher["envSecrets"]],
        volumes=launcher["volumes"],
        volume_mounts=launcher["volumeMounts"],
        run_k8s_config=job.UserDefinedDagsterK8sConfig.from_dict(snake),
    ).merge(K8sContainerContext(run_k8s_config=job.get_user_defined_k8s_config(tags)))
    by_the_chart = SimpleNamespace(
        dagster_home="/opt/dagster/dagster_home", instance_config_map="instance", postgres_password_secret="secret"
    )
    config = context.get_k8s_job_config("depthline:cuda", by_the_chart)
    made = job.construct_dagster_k8s_job(config, ["dagster"], "run", context.run_k8s_config)
    found: dict[str, Any] = client.ApiClient().sanitize_for_serialization(made)
    kubernetes_validate.validate(found, VERSION, strict=True)
    return found


def device_tags() -> dict[str, str]:
    """What DEPTH_DEVICE_RUN_TAGS of the values gives a run, as Dagster keeps tags."""
    (deployment,) = read("values.yaml")["dagster-user-deployments"]["deployments"]
    (variable,) = [each for each in deployment["env"] if each["name"] == "DEPTH_DEVICE_RUN_TAGS"]
    return {key: json.dumps(value) for key, value in json.loads(variable["value"]).items()}


def test_a_run_that_computes_gets_a_gpu() -> None:
    spec = run_job(device_tags())["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["resources"]["limits"] == {GPU: "1", "memory": "16Gi"}
    assert container["resources"]["requests"] == {"cpu": "4", "memory": "8Gi"}
    assert [each["key"] for each in spec["tolerations"]] == [GPU]


def test_any_other_run_gets_none() -> None:
    assert gpus(run_job({})["spec"]["template"]["spec"]) == 0


def test_every_run_has_the_settings_can_write_weights_and_has_no_rights() -> None:
    spec = run_job({})["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    names = {next(iter(each.values()))["name"] for each in container["envFrom"]}
    assert {"depthline-env", "depthline-secrets"} <= names
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["fsGroup"]) == (10001, 10001)
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert image_environment()["DEPTH_CHECKPOINT_CACHE"] in {each["mountPath"] for each in container["volumeMounts"]}
