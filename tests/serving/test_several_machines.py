"""Workers of two machines: two processes with lock folders of their own, which share the database alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from support import artwork_stores
from support.programs import Program
from support.servers import postgresql_database
from support.waiting import eventually

from depth_core.contract import ArtworkStatus, DepthParameters
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import NewArtwork

TINY = DepthParameters(model="tiny", resolution_lower_limit=256)
REQUESTS = 12


@pytest.fixture
def shared(postgresql: Any) -> Iterator[str]:
    with postgresql_database(postgresql) as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture
def artworks(shared: str) -> Iterator[ArtworkStore]:
    with artwork_stores.opened(shared) as artworks:
        yield artworks


@pytest.fixture
def machines(tmp_path: Path, shared: str) -> Iterator[list[Program]]:
    """Two workers, each with a folder for its own locks. Each takes a few requests at a time."""
    programs = []
    for name in ("one", "other"):
        mine = {
            "DEPTH_DATA": str(tmp_path),
            "DEPTH_DATABASE_URL": shared,
            "DEPTH_LOCK_FOLDER": str(tmp_path / name),
            "DEPTH_DEVICE": "cpu",
            "DEPTH_WORKER_CLAIMS": "1",
            "DEPTH_ALLOW_PRIVATE_HOSTS": "true",
            "OMP_NUM_THREADS": "1",
        }
        command = ["-m", "depth_core.cli", "worker", "--forever"]
        programs.append(Program(command, cwd=tmp_path, env={**os.environ, **mine}, output=tmp_path / f"{name}.log"))
    yield programs
    for program in programs:
        program.kill()


def test_each_request_is_claimed_once_and_each_machine_locks_its_own_device(
    artworks: ArtworkStore, machines: list[Program], images: Any, tmp_path: Path
) -> None:
    def working() -> set[str | None]:
        found = (artworks.get(each) for each in asked)
        return {artwork.worker for artwork in found if artwork and artwork.status == ArtworkStatus.PROCESSING}

    def claims(artwork_id: UUID) -> list[str | None]:
        return [each.worker for each in artworks.history(artwork_id) if each.status == ArtworkStatus.PROCESSING]

    eventually(lambda: len(artworks.workers.find()) == 2)
    asked = [
        artworks.create(NewArtwork(f"{images.url}/slow-{n}.jpg", TINY), api_key_id="ann").artwork.id for n in range(REQUESTS)
    ]
    eventually(lambda: len(working()) == 2, lambda: f"{working()} of {artworks.workers.find()}")  # their images are held back
    images.released.set()
    eventually(lambda: artworks.which_final(asked) == set(asked), lambda: (tmp_path / "one.log").read_text())
    assert [len(claims(each)) for each in asked] == [1] * REQUESTS
    assert [artworks.get(each).status for each in asked] == [ArtworkStatus.SUCCEEDED] * REQUESTS
    for name in ("one", "other"):
        assert {file.name for file in (tmp_path / name).iterdir()} == {"cpu.device", "cpu.priority"}
    assert all(program.poll() is None for program in machines)
