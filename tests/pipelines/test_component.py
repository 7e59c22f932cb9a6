"""The component in a fresh project of `dg`: scaffolded, checked, and with its sensors at work under a key prefix."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from support.photos import photo
from support.programs import piped

from depth_core.errors import ConfigurationError
from depth_core.output import records
from depth_core.storage import Store
from pipelines import names
from pipelines.component import DepthMaps

ROOT = Path(__file__).parents[2]
TYPE = "pipelines.component.DepthMaps"
PREFIX = ("media", "depth")
ROWS = 2
# As `create-dagster` makes a project, but for its lock file.
PYPROJECT = """
[project]
name = "shop"
version = "0.1.0"
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "shop"
"""
DEFINITIONS = """
from pathlib import Path
from dagster import definitions, load_from_defs_folder

@definitions
def defs():
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
# `dg` without a start of Python for each of its commands.
DG = """
import json, os, sys
from click.testing import CliRunner
from dagster_dg_cli.cli import cli

os.chdir(sys.argv[1])
for arguments in map(json.loads, sys.stdin):
    done = CliRunner().invoke(cli, arguments)
    print(json.dumps([done.exit_code, done.stdout, done.output]), flush=True)
"""


class Project:
    """A project in a folder, and Depthline installed beside it as pip does: what pyproject.toml says of it is found there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.defs = folder / "src" / "shop" / "defs"
        self.defs.mkdir(parents=True)
        (folder / "pyproject.toml").write_text(PYPROJECT, "utf-8")
        (self.defs.parent / "__init__.py").touch()
        (self.defs / "__init__.py").touch()
        (self.defs.parent / "definitions.py").write_text(DEFINITIONS, "utf-8")
        installed = folder / "installed" / "depthline-0.1.0.dist-info"
        installed.mkdir(parents=True)
        (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: depthline\nVersion: 0.1.0\n", "utf-8")
        groups = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
        lines = [f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in each.items()) for name, each in groups.items()]
        (installed / "entry_points.txt").write_text("\n".join(lines), "utf-8")

    @contextmanager
    def dg(self) -> Iterator[Callable[..., str]]:
        """Runs commands of `dg`: (arguments) -> what it printed. They raise AssertionError when it fails."""
        paths = [str(self.folder / "installed"), str(self.folder / "src"), str(ROOT)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "DG_CLI_CONFIG": str(self.folder / "none.toml")}
        with piped(DG, str(self.folder), env=environment) as process:
            assert process.stdin
            assert process.stdout

            def run(*arguments: str) -> str:
                process.stdin.write(json.dumps(arguments) + "\n")
                status, printed, everything = json.loads(process.stdout.readline())
                assert status == 0, everything
                return str(printed)

            yield run


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def run_dg(project: Project) -> Iterator[Callable[..., str]]:
    with project.dg() as run:
        yield run


@pytest.fixture(scope="module")
def attributes(project: Project, run_dg: Callable[..., str]) -> dict[str, Any]:
    """Those of the component as it is scaffolded, then with a prefix, a group and a pool of its own."""
    run_dg("scaffold", "defs", TYPE, "depth_maps")
    path = project.defs / "depth_maps" / "defs.yaml"
    written = yaml.safe_load(path.read_text("utf-8"))
    assert written["type"] == TYPE
    mine = {"key_prefix": list(PREFIX), "group": "pictures", "pool": "cards", "settings": {"device": "cpu"}}
    path.write_text(yaml.safe_dump({"type": TYPE, "attributes": written["attributes"] | mine}), "utf-8")
    return dict(written["attributes"] | mine)


def key(name: str) -> dg.AssetKey:
    return dg.AssetKey([*PREFIX, name])


@pytest.fixture(scope="module")
def definitions(project: Project, attributes: dict[str, Any]) -> Iterator[dg.Definitions]:
    """The project's definitions, loaded in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(project.folder / "src"))
        from dagster import load_from_defs_folder

        yield load_from_defs_folder(path_within_project=project.defs.parent)
        for name in [each for each in sys.modules if each.partition(".")[0] == "shop"]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def repository(definitions: dg.Definitions) -> dg.RepositoryDefinition:
    return definitions.get_repository_def()


@pytest.mark.usefixtures("attributes")
def test_what_dg_scaffolds_works_as_it_is_and_dg_lists_it(run_dg: Callable[..., str]) -> None:
    assert "All definitions loaded successfully" in run_dg("check", "defs")
    listed = json.loads(run_dg("list", "defs", "--json"))
    assert {each["asset_key"] for each in listed["assets"]} == {key(name).to_user_string() for name in names.OF_BULK}
    assert {each["group_name"] for each in listed["assets"]} == {"pictures"}
    assert {each["name"] for each in listed["sensors"]} == {
        "manifest_sensor",
        "arrival_sensor",
        "profile_sensor",
        "nightly_backfill",
    }


@pytest.mark.usefixtures("attributes")
def test_dg_offers_it_among_the_components_that_are_installed(run_dg: Callable[..., str]) -> None:
    offered = json.loads(run_dg("list", "components", "--json"))["items"]
    assert TYPE in {each["key"] for each in offered}


def test_the_lines_that_the_docs_give_are_attributes_of_it() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/component.md").read_text("utf-8"), re.DOTALL)
    shown = yaml.safe_load(block)
    assert shown["type"] == TYPE
    made = DepthMaps.resolve_from_dict(shown["attributes"])
    assert (made.key_prefix, made.group, made.pool) == (["media", "depth"], "depth", "gpu")
    assert set(shown["attributes"]) == set(DepthMaps.model_fields)


def test_assets_checks_and_jobs_are_all_under_the_prefix_and_wait_in_the_pool(repository: dg.RepositoryDefinition) -> None:
    assets = repository.assets_defs_by_key
    assert set(assets) == {key(name) for name in names.OF_BULK}
    for name, asset in assets.items():
        assert asset.dependency_keys <= set(assets), name
    assert {each.asset_key for each in repository.asset_checks_defs_by_key} == {key(names.ARTWORK_RECORDS)}
    job = repository.get_job("depth_maps_for_chunk")
    assert {pool for op in job.graph.iterate_op_defs() for pool in op.pools} == {"cards"}
    assert job.executor_def is dg.in_process_executor


class Runs:
    """Runs what the sensors of a repository ask for, in this process."""

    def __init__(self, repository: dg.RepositoryDefinition, instance: dg.DagsterInstance) -> None:
        self.repository, self.instance = repository, instance
        self.cursors: dict[str, str | None] = {}

    def tick(self, sensor: str) -> list[dg.ExecuteInProcessResult]:
        found = self.repository.get_sensor_def(sensor)
        context = dg.build_sensor_context(
            self.instance,
            self.cursors.get(sensor),
            repository_def=self.repository,
            resources=self.repository.get_top_level_resources(),
        )
        asked = found(context)
        if not isinstance(asked, dg.SensorResult):
            return []
        self.cursors[sensor] = asked.cursor
        for each in asked.dynamic_partitions_requests or []:
            self.instance.add_dynamic_partitions(each.partitions_def_name, each.partition_keys)
        for event in asked.asset_events:
            self.instance.report_runless_asset_event(event)
        return [
            self.repository.get_job(request.job_name or found.job_name).execute_in_process(
                run_config=request.run_config or None,
                partition_key=request.partition_key,
                tags=dict(request.tags),
                instance=self.instance,
            )
            for request in asked.run_requests or []
        ]


@pytest.fixture(scope="module")
def made(repository: dg.RepositoryDefinition, project: Project) -> Iterator[tuple[Runs, list[dg.ExecuteInProcessResult]]]:
    """A manifest of the project, from the sensor that notices it to its gallery."""
    manifests = project.folder / "data" / "manifests"
    manifests.mkdir(parents=True)
    for n in range(ROWS):
        (manifests / f"{n}.jpg").write_bytes(photo(seed=n))
    (manifests / "shots.csv").write_text("image_url\n" + "".join(f"{n}.jpg\n" for n in range(ROWS)), "utf-8")
    with dg.DagsterInstance.ephemeral() as instance:
        runs = Runs(repository, instance)
        yield runs, [*runs.tick("manifest_sensor"), *runs.tick("arrival_sensor"), *runs.tick("arrival_sensor")]


def test_sensors_take_a_manifest_to_its_depth_maps(made: Any, project: Project) -> None:
    _, results = made
    assert [result.job_def.name for result in results] == ["index_manifest", "ingest_chunk", "depth_maps_for_chunk"]
    assert all(result.success for result in results)
    assert [event.asset_key for result in results for event in result.get_asset_materialization_events()] == [
        key(name) for name in (names.MANIFEST_INDEX, *names.OF_A_CHUNK, *names.OF_A_PAIR)
    ]
    frame = records.read(Store(project.folder / "data" / "store"))
    assert frame["status"].tolist() == ["succeeded"] * ROWS


def test_checks_are_recorded_under_the_prefix(made: Any) -> None:
    runs, _ = made
    events = runs.instance.get_event_records(dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION))
    found = [record.event_log_entry.dagster_event.event_specific_data for record in events]
    assert {each.asset_key for each in found} == {key(names.ARTWORK_RECORDS)}
    assert len({each.check_name for each in found}) == 4
    assert all(each.passed for each in found)


def test_changed_profiles_are_reported_under_the_prefix(made: Any) -> None:
    runs, _ = made
    assert runs.tick("profile_sensor") == []
    (record,) = runs.instance.fetch_materializations(key(names.PROFILE), limit=9).records
    assert record.partition_key == "preview"


def test_the_nightly_backfill_looks_after_what_the_component_brings_and_nothing_else(repository: dg.RepositoryDefinition) -> None:
    nightly = repository.get_sensor_def("nightly_backfill")
    graph = repository.asset_graph
    wanted = {key(name) for name in (*names.OF_A_CHUNK, *names.OF_A_PAIR)}
    assert nightly.asset_selection.resolve(graph) == wanted
    assert {found for found in graph.get_all_asset_keys() if graph.get(found).automation_condition} == wanted


def test_a_setting_that_has_an_attribute_of_its_own_is_refused() -> None:
    component = DepthMaps.resolve_from_dict({"store": "s", "manifests": "m", "settings": {"store_url": "s3://other"}})
    with pytest.raises(ConfigurationError, match="store_url is the attribute `store`"):
        component.build_defs(dg.ComponentTree.for_test().load_context)
