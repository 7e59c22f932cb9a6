"""A server of photos, profiles, and the command as an operator types it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import commands
from support.http_server import HttpServer
from support.photos import photo

from depth_core import layout, profiles
from depth_core import settings as settings_module
from depth_core.inference import checkpoints
from depth_core.ingest import manifest, sources
from depth_core.output import depth_folder
from depth_core.output.outcome_files import write_outcomes
from depth_core.output.outcomes import Outcome
from depth_core.settings import Settings
from depth_core.storage import Store

PROFILES = """
[preview.parameters]
model = "tiny"
resolutionLowerLimit = 256
[deep]
depth16 = true
[deep.parameters]
model = "tiny"
resolutionLowerLimit = 256
[large.parameters]
model = "large"
"""


@dataclass(frozen=True)
class Desk:
    """What somebody has who plans."""

    folder: Path
    server: HttpServer
    settings: Settings
    store: Store

    def photo(self, name: str, seed: int = 0) -> str:
        """The URL of a photo."""
        return self.server.on(f"/{name}", self.server.answer(200, photo(64, 48, seed)))

    def manifest(self, *urls: str, name: str = "photos.csv") -> str:
        path = self.folder / name
        path.write_text("\n".join(["image_url", *urls]) + "\n", "utf-8")
        return str(path)

    def ingest(self, uri: str, rows_per_chunk: int = 1000) -> list[str]:
        """Indexes a manifest and fetches its images; returns its chunks."""
        rows, slug = manifest.read(uri, self.settings), manifest.slug(uri)
        assignment = manifest.assign_chunks(rows, manifest.read_index(self.store, slug), slug=slug, rows_per_chunk=rows_per_chunk)
        manifest.write_chunks(self.store, slug, assignment, rows, run_id="index-run")
        for chunk in assignment.names:
            valid = manifest.validate(manifest.read_chunk(self.store, chunk), self.settings)
            urls = valid.loc[valid["error_kind"].isna(), "image_url"]
            sources.write_table(self.store, chunk, sources.table(sources.ingest(urls, self.store, self.settings)))
        return assignment.names

    def folder_of(self, sha256: str, profile: str = "preview") -> str:
        """Where a depth map's files go."""
        found = profiles.find(self.settings, profile)
        checkpoint = checkpoints.resolve(found.parameters.spec, self.settings)
        digest = depth_folder.digest_of(found.parameters, checkpoint.revision, None, found.extra_files)
        return layout.depth_folder(sha256, digest)

    def finish(self, chunk: str, *outcomes: Outcome, profile: str = "preview") -> None:
        parameters = profiles.find(self.settings, profile).parameters
        write_outcomes(self.store, profile, chunk, outcomes, parameters=parameters)

    def sha256(self, chunk: str, url: str) -> str:
        table = sources.read_table(self.store, chunk)
        assert table is not None
        return str(table.set_index("image_url").loc[url, "sha256"])

    def plan(self, uri: str, *options: str, profile: str = "preview", rate: str = "2") -> dict[str, Any]:
        """The figures. `rate`: "" measures it."""
        given = ["--images-per-second", rate] if rate else []
        done = commands.run("plan", uri, "--profile", profile, "--json", *given, *options)
        assert done.exit_code == 0, done.output
        figures: dict[str, Any] = json.loads(done.stdout)
        return figures


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    (tmp_path / "profiles.toml").write_text(PROFILES, "utf-8")
    monkeypatch.setenv("DEPTH_DATA", str(tmp_path))
    monkeypatch.setenv("DEPTH_DEVICE", "cpu")
    monkeypatch.setenv("DEPTH_DOWNLOAD_ATTEMPTS", "1")
    monkeypatch.setenv("DEPTH_MANIFEST_PRIVATE_HOSTS", "true")
    settings = settings_module.load()
    with HttpServer() as server:
        yield Desk(tmp_path, server, settings, Store.from_settings(settings))
