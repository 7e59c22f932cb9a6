"""The code location loads everywhere, quickly, and says what it holds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from depth_core.errors import ErrorKind
from depth_core.explain import cures
from depth_core.ingest import manifest, sources
from depth_core.output.depth_folder import OUTPUT_VERSION
from pipelines import names, ranges
from pipelines.assets import depth_maps
from pipelines.definitions import build_defs
from pipelines.partitions import pair

ROOT = Path(__file__).parents[2]


TOOLS = ["dg check defs", "dg list defs", "dagster definitions validate -w workspace.yaml"]
LOAD = """
import json, sys
import pipelines.definitions

pipelines.definitions.defs()
heavy = sorted({"torch", "transformers", "imagecodecs", "fastapi"} & set(sys.modules))

from click.testing import CliRunner
from dagster._cli import cli as dagster
from dagster_dg_cli.cli import cli as dg

said = {}
for command in sys.argv[1:]:
    program, *arguments = command.split()
    done = CliRunner().invoke({"dg": dg, "dagster": dagster}[program], arguments)
    said[command] = (done.exit_code, done.output)
print(json.dumps({"heavy": heavy, "said": said}))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process that loads the code location has loaded with it, and what Dagster's tools say of it there."""
    environment = os.environ | {"DAGSTER_HOME": str(tmp_path_factory.mktemp("home"))}
    command = [sys.executable, "-c", LOAD, *TOOLS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_loading_the_code_location_does_not_load_torch(loaded: dict[str, Any]) -> None:
    assert loaded["heavy"] == []


def test_the_command_line_tools_accept_the_definitions(loaded: dict[str, Any]) -> None:
    assert list(loaded["said"]) == TOOLS
    for command, (status, output) in loaded["said"].items():
        assert status == 0, f"{command}: {output[-2000:]}"
    assert "artwork_records" in loaded["said"]["dg list defs"][1]


def test_every_asset_says_what_it_is(house) -> None:
    graph = house.defs().resolve_asset_graph()
    found = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert found == {names.MANIFEST_INDEX, *names.OF_A_CHUNK, names.PROFILE, *names.OF_A_PAIR, names.REQUEST_RECORDS}
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, key
        assert node.owners, key
        assert node.kinds, key
        assert node.group_name in (names.INGEST_GROUP, names.DEPTH_GROUP, names.REQUESTS_GROUP), key


def test_what_is_made_of_pixels_has_the_version_that_is_raised_when_pixels_change(house) -> None:
    graph = house.defs().resolve_asset_graph()
    versions = {key.to_user_string(): graph.get(key).code_version for key in graph.materializable_asset_keys}
    assert {name for name, version in versions.items() if version == str(OUTPUT_VERSION)} == set(names.OF_A_PAIR)


def test_the_tables_of_a_chunk_have_a_version_that_changes_with_their_columns(house, monkeypatch: pytest.MonkeyPatch) -> None:
    def versions() -> list[str | None]:
        graph = build_defs(house.depthline).resolve_asset_graph()
        return [graph.get(dg.AssetKey(name)).code_version for name in names.OF_A_CHUNK]

    before = versions()
    assert all(before)
    assert versions() == before
    monkeypatch.setattr(sources, "COLUMNS", (*sources.COLUMNS, "width int32"))
    monkeypatch.setattr(manifest, "CHUNK_COLUMNS", manifest.CHUNK_COLUMNS[:-1])
    assert not set(versions()) & set(before)


def test_dagster_takes_the_shipped_instance_file(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        submitting = {daemon: instance.get_settings(daemon)["num_submit_workers"] for daemon in ("sensors", "backfills")}
    assert min(submitting.values()) > 1


def test_bulk_runs_of_whatever_kind_leave_room_for_workers_of_single_requests(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        runs = instance.get_concurrency_config().run_queue_config
    tags = {"dagster/partition", *ranges.tags("a", "b")} - {"dagster/asset_partition_range_end"}
    limits = [each for each in runs.tag_concurrency_limits if "value" not in each]
    assert {each["key"] for each in limits} == tags
    assert sum(each["limit"] for each in limits) + 2 <= runs.max_concurrent_runs
    one_each = [each for each in runs.tag_concurrency_limits if each.get("value") == {"applyLimitPerUniqueValue": True}]
    assert {each["key"]: each["limit"] for each in one_each} == dict.fromkeys(tags, 1)


def test_the_records_carry_their_column_schema(house) -> None:
    schema = house.defs().resolve_asset_graph().get(dg.AssetKey("artwork_records")).metadata["dagster/column_schema"]
    columns = {column.name: column for column in schema.columns}
    assert columns["image_url"].type == "string"
    assert all(column.description for column in columns.values())


def test_the_op_that_needs_the_device_waits_in_the_gpu_pool(house) -> None:
    pools = {
        op.pool
        for op in house.defs().resolve_job_def("depth_maps_for_chunk").all_node_defs
        if isinstance(op, dg.OpDefinition) and op.name == "generate_depth_maps"
    }
    assert pools == {"gpu"}


def test_runs_execute_in_one_process(house) -> None:
    assert house.defs().resolve_job_def("depth_maps_for_chunk").executor_def is dg.in_process_executor


def test_a_broken_profiles_file_is_one_clear_error(house) -> None:
    (house.folder / "profiles.toml").write_text('[x.parameters]\nmodel = "huge"\nfoo = 1\n')
    with pytest.raises(Exception, match=r"(?s)\[x\] parameters.model: .*huge.*; \[x\] parameters.foo"):
        house.defs()


def test_the_jobs_that_explain_tells_people_to_run_are_there(house) -> None:
    partitions = {"ingest_chunk": "c-00000"}
    defs = house.defs()
    for stage in cures.Stage:
        for kind in ErrorKind:
            for job, partition in cures.of_row(stage, kind, chunk="c-00000", profile="preview").jobs:
                assert defs.resolve_job_def(job)
                assert partition == partitions.get(job, str(pair("c-00000", "preview")))
    assert json.loads(cures.VERIFY) == depth_maps.run_config(verify=True)
