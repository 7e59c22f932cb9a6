"""What pipeline tests share: an installation in a temporary folder, an instance that forgets, photos made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from support.photos import picture

from depth_core.ingest import manifest
from depth_core.output import records
from pipelines.assets import depth_maps
from pipelines.definitions import build_defs
from pipelines.partitions import MANIFEST, pair
from pipelines.resources import DepthlineResource

PROFILES = """
[preview]
on_arrival = true
max_failure_rate = 0.5
[preview.parameters]
model = "tiny"
resolutionLowerLimit = 256

[inverted]
[inverted.parameters]
model = "tiny"
resolutionLowerLimit = 256
invertDepth = true
"""


@dataclass
class House:
    """One installation and what tests do with it."""

    folder: Path
    depthline: DepthlineResource
    instance: dg.DagsterInstance
    _defs: dict[str, dg.Definitions] = field(default_factory=dict, init=False)  # by what they were built from

    @property
    def store(self) -> Any:
        return self.depthline.store()

    def defs(self) -> dg.Definitions:
        """The definitions, built again where profiles or settings have changed."""
        source = repr(((self.folder / "profiles.toml").read_text("utf-8"), self.depthline.overrides))
        if source not in self._defs:
            self._defs[source] = build_defs(self.depthline)
        return self._defs[source]

    def photo(self, name: str, seed: int = 0, size: tuple[int, int] = (160, 120)) -> Path:
        path = self.folder / "photos" / name
        path.parent.mkdir(exist_ok=True)
        picture(*size, seed).save(path)
        return path

    def manifest(self, name: str, *lines: str) -> Path:
        path = self.folder / "manifests" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n" if lines else "", "utf-8")
        return path

    def run(
        self,
        job: str,
        partition: str | None,
        config: dict[str, Any] | None = None,
        *,
        default_config: bool = False,
        **options: Any,
    ) -> dg.ExecuteInProcessResult:
        """`default_config`: the job's own, as launched without a word."""
        return (
            self.defs()
            .resolve_job_def(job)
            .execute_in_process(
                instance=self.instance, partition_key=partition, run_config=None if default_config else config or {}, **options
            )
        )

    def index(self, path: Path | str) -> dg.ExecuteInProcessResult:
        slug = manifest.slug(str(path))
        self.instance.add_dynamic_partitions(MANIFEST, [slug])
        return self.run("index_manifest", slug, {"ops": {"manifest_index": {"config": {"uri": str(path)}}}})

    def chunks(self, path: Path | str) -> list[str]:
        return sorted(manifest.read_index(self.store, manifest.slug(str(path))).names)

    def materialize(self, path: Path | str, profile: str = "preview") -> None:
        self.index(path)
        for chunk in self.chunks(path):
            self.run("ingest_chunk", chunk)
            self.run("depth_maps_for_chunk", pair(chunk, profile))

    def records(self, **which: Any) -> Any:
        return records.read(self.store, **which)


class Evaluator:
    """Evaluates the automation conditions at given times, one evaluation after the other."""

    def __init__(self, house: House) -> None:
        self.house, self.cursor = house, None

    def at(self, when: datetime) -> set[tuple[str, str]]:
        result = dg.evaluate_automation_conditions(
            defs=self.house.defs(), instance=self.house.instance, cursor=self.cursor, evaluation_time=when
        )
        self.cursor = result.cursor
        return {
            (each.key.to_user_string(), partition)
            for each in result.results
            for partition in result.get_requested_partitions(each.key)
        }


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """The metadata of an asset's one materialization in a run, as plain values."""
    events = [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey(asset)]
    assert len(events) == 1, f"{len(events)} materializations of {asset}"
    return {name: getattr(value, "value", value) for name, value in events[0].materialization.metadata.items()}


@pytest.fixture
def overrides() -> dict[str, Any]:
    """Settings of this module's depthline, beside its folder."""
    return {}


def furnished(folder: Path, overrides: dict[str, Any], instance: dg.DagsterInstance) -> House:
    (folder / "profiles.toml").write_text(PROFILES, "utf-8")
    settings = {"data": str(folder), "device": "cpu", "backoff_seconds": 0.01, "allow_private_hosts": True}
    return House(folder, DepthlineResource(overrides=settings | overrides), instance)


@pytest.fixture(scope="session")
def blank() -> Iterator[dg.DagsterInstance]:
    """An instance that tests take one after the other: emptying one is quicker than making one."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def house(tmp_path: Path, overrides: dict[str, Any], blank: dg.DagsterInstance) -> House:
    blank.wipe()
    return furnished(tmp_path, overrides, blank)


@pytest.fixture(scope="module")
def furnish(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., House]]:
    """Makes installations that all tests of a module share: (settings) -> house."""
    with ExitStack() as instances:
        yield lambda **overrides: furnished(
            tmp_path_factory.mktemp("house"), overrides, instances.enter_context(dg.DagsterInstance.ephemeral())
        )


@pytest.fixture
def evaluator(house: House) -> Evaluator:
    return Evaluator(house)


@pytest.fixture
def metadata() -> Callable[[dg.ExecuteInProcessResult, str], dict[str, Any]]:
    return metadata_of


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The profiles' checkpoints that engines were opened with, as they are opened."""
    seen: list[str] = []
    open_engine = depth_maps.DepthModelResource.open_engine

    def noted(self, checkpoint, *rest):
        seen.append(checkpoint.spec.key)
        return open_engine(self, checkpoint, *rest)

    monkeypatch.setattr(depth_maps.DepthModelResource, "open_engine", noted)
    return seen
