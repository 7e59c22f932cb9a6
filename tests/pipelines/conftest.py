"""What pipeline tests share: an installation in a temporary folder, an instance that forgets, photos made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from depth_core.ingest import manifest
from depth_core.output import records
from pipelines.definitions import build_defs
from pipelines.partitions import MANIFEST, pair
from pipelines.resources import Installation

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
    installation: Installation
    instance: dg.DagsterInstance

    @property
    def store(self) -> Any:
        return self.installation.store()

    def defs(self, **resources: Any) -> dg.Definitions:
        return build_defs(self.installation, resources)

    def photo(self, name: str, seed: int = 0, size: tuple[int, int] = (160, 120)) -> Path:
        coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        path = self.folder / "photos" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
        return path

    def manifest(self, name: str, *lines: str) -> Path:
        path = self.folder / "manifests" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n" if lines else "", "utf-8")
        return path

    def run(
        self, job: str, partition: str | None, config: dict[str, Any] | None = None, **words: Any
    ) -> dg.ExecuteInProcessResult:
        return (
            self.defs()
            .resolve_job_def(job)
            .execute_in_process(instance=self.instance, partition_key=partition, run_config=config or {}, **words)
        )

    def index(self, path: Path | str) -> dg.ExecuteInProcessResult:
        slug = manifest.slug(str(path))
        self.instance.add_dynamic_partitions(MANIFEST, [slug])
        return self.run("index_manifest", slug, {"ops": {"manifest_index": {"config": {"uri": str(path)}}}})

    def chunks(self, path: Path | str) -> list[str]:
        return sorted(set(manifest.read_index(self.store, manifest.slug(str(path)))["chunk"]))

    def materialize(self, path: Path | str, profile: str = "preview") -> None:
        self.index(path)
        for chunk in self.chunks(path):
            self.run("ingest_chunk", chunk)
            self.run("depth_maps_for_chunk", pair(chunk, profile))

    def records(self, **which: Any) -> Any:
        return records.read(self.store, **which)


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """The metadata of an asset's one materialization in a run, as plain values."""
    events = [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey(asset)]
    assert len(events) == 1, f"{len(events)} materializations of {asset}"
    return {name: getattr(value, "value", value) for name, value in events[0].materialization.metadata.items()}


@pytest.fixture
def overrides() -> dict[str, Any]:
    """Settings of this module's installation, beside its folder."""
    return {}


@pytest.fixture
def house(tmp_path: Path, overrides: dict[str, Any]) -> Iterator[House]:
    (tmp_path / "profiles.toml").write_text(PROFILES, "utf-8")
    settings = {"data": str(tmp_path), "device": "cpu", "backoff_seconds": 0.01, "allow_private_hosts": True}
    with dg.DagsterInstance.ephemeral() as instance:
        yield House(tmp_path, Installation(overrides=settings | overrides), instance)


@pytest.fixture
def metadata() -> Callable[[dg.ExecuteInProcessResult, str], dict[str, Any]]:
    return metadata_of
