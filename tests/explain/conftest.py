"""A store as bulk runs leave it, made without a network: rows, sources, outcomes and records of two manifests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from support.photos import photo

from depth_core import layout, profiles
from depth_core import settings as settings_module
from depth_core.ingest import manifest, sources
from depth_core.output import records
from depth_core.output.outcome_files import write_outcomes
from depth_core.output.outcomes import Outcome
from depth_core.settings import Settings
from depth_core.storage import Store

PROFILES = """
[preview.parameters]
model = "tiny"
resolutionLowerLimit = 256
[inverted.parameters]
model = "tiny"
invertDepth = true
"""
SECRET = "http://me:hunter2@127.0.0.1:9/gone.jpg?token=hunter3"


@dataclass(frozen=True)
class Production:
    """What an operator has."""

    folder: Path
    settings: Settings
    store: Store

    def photo(self, name: str, seed: int) -> Path:
        path = self.folder / "photos" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(photo(16, 12, seed, "PNG"))
        return path

    def index(self, name: str, *lines: str) -> list[str]:
        """Writes and indexes a manifest; returns its chunks."""
        path = self.folder / "manifests" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n", "utf-8")
        rows, slug = manifest.read(str(path), self.settings), manifest.slug(str(path))
        index = manifest.read_index(self.store, slug)
        assignment = manifest.assign_chunks(rows, index, slug=slug, rows_per_chunk=1000)
        manifest.write_chunks(self.store, slug, assignment, rows, run_id="index-run")
        return sorted(assignment.index.names)

    def ingest(self, chunk: str) -> None:
        rows = manifest.validate(manifest.read_chunk(self.store, chunk), self.settings)
        manifest.write_rows(self.store, chunk, rows)
        urls = rows.loc[rows["error_kind"].isna(), "image_url"]
        sources.write_table(self.store, chunk, sources.table(sources.ingest(urls, self.store, self.settings)))

    def make(self, chunk: str, profile: str, failures: dict[str, tuple[str, str]] | None = None) -> None:
        """Outcomes and records of a chunk. `failures`: kind and message by the file's name, in place of a depth map."""
        table = sources.read_table(self.store, chunk)
        assert table is not None
        outcomes = []
        for url, sha in table.dropna(subset=["sha256"])[["image_url", "sha256"]].itertuples(index=False):
            kind, message = (failures or {}).get(Path(url).name, (None, None))
            folder = layout.depth_folder(sha, "d" * 12)
            if kind is None:
                for name in ("depth.png", "depth.json"):
                    self.store.write(f"{folder}/{name}", b"x")
            outcomes.append(
                Outcome(
                    sha,
                    "succeeded" if kind is None else "failed",
                    folder,
                    ("depth.png", "depth.json") if kind is None else (),
                    model="tiny",
                    error_kind=kind,
                    error_message=message,
                    finished_at="2026-02-03T04:05:06.000Z",
                )
            )
        found = profiles.find(self.settings, profile)
        write_outcomes(self.store, found.name, chunk, outcomes, parameters=found.parameters)
        facts = manifest.read_facts(self.store, layout.slug_of_chunk(chunk))
        assert facts is not None
        frame = records.build(
            manifest.read_rows(self.store, chunk),
            table,
            outcomes,
            manifest=facts["uri"],
            chunk=chunk,
            profile=profile,
            parameters=found.parameters.as_api(),
            store=self.store,
            run_id="run-7",
        )
        records.write(self.store, frame, profile, chunk)


def furnished(folder: Path) -> Production:
    """Of one manifest: good, damaged, two that cannot be fetched, and a row without a URL, under one of two profiles."""
    (folder / "profiles.toml").write_text(PROFILES, "utf-8")
    settings = settings_module.load()
    place = Production(folder, settings, Store.from_settings(settings))
    place.photo("good.png", 1)
    place.photo("damaged.png", 2)
    (chunk,) = place.index(
        "shots.csv",
        "id,image_url",
        "a,../photos/good.png",
        "b,../photos/damaged.png",
        "c,../photos/nowhere.png",
        f"d,{SECRET}",
        "e,",
    )
    place.ingest(chunk)
    place.make(chunk, "preview", {"damaged.png": ("truncated_image", "the image ends early")})
    return place


def use_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DEPTH_DATA", str(folder))
    monkeypatch.setenv("DEPTH_ALLOW_PRIVATE_HOSTS", "true")
    monkeypatch.setenv("DEPTH_DOWNLOAD_ATTEMPTS", "1")


@pytest.fixture
def production(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Production:
    """A test's own, to change."""
    use_folder(tmp_path, monkeypatch)
    return furnished(tmp_path)


@pytest.fixture(scope="session")
def shared_production(tmp_path_factory: pytest.TempPathFactory) -> Production:
    folder = tmp_path_factory.mktemp("production")
    with pytest.MonkeyPatch.context() as patch:
        use_folder(folder, patch)
        return furnished(folder)


@pytest.fixture
def read_only(shared_production: Production, monkeypatch: pytest.MonkeyPatch) -> Production:
    """The same for all tests that only ask."""
    use_folder(shared_production.folder, monkeypatch)
    return shared_production
