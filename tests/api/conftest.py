"""The API on a real port of loopback, and a client that holds a key."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from depth_api.app import create_app
from depth_api.connections import configured
from depth_core import settings as settings_module
from depth_core.serving.artworks.store import ArtworkStore, open_store
from depth_core.serving.database import open_database
from depth_core.settings import Settings
from depth_core.storage import Store

ANN, BOB = "ann-key-0123456789", "bob-key-0123456789"


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "depthline.db"
    open_database(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def configure(tmp_path: Path, migrated: Path) -> Callable[..., Settings]:
    """Settings of an API of its own: two keys, its database and store in the test's folder."""
    shutil.copy(migrated, tmp_path)

    def settings(**changes: Any) -> Settings:
        fields = {
            "data": tmp_path,
            "api_keys": f"ann:{ANN},bob:{BOB}",
            "allow_private_hosts": True,
            "rate_limit": 0,
            "webhooks_in_api": False,
        }
        return settings_module.load(**fields | changes)

    return settings


@contextmanager
def _serving(settings: Settings) -> Iterator[str]:
    server = uvicorn.Server(configured(create_app(settings), settings, port=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    assert thread.is_alive(), "the API did not start"
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def serving() -> Callable[[Settings], Any]:
    """A context manager: the API with these settings, as its URL."""
    return _serving


@pytest.fixture
def settings(configure: Callable[..., Settings]) -> Settings:
    return configure()


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with _serving(settings) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    """Ann's."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {ANN}"}, timeout=90) as client:
        yield client


@pytest.fixture
def artworks(settings: Settings) -> Iterator[ArtworkStore]:
    """The database behind the API, as a worker sees it."""
    artworks = open_store(settings)
    yield artworks
    artworks.close()


@pytest.fixture
def finish(artworks: ArtworkStore, settings: Settings) -> Callable[..., dict[str, bytes]]:
    """Does a worker's work: claims what waits and writes its files."""

    def done(**files: bytes) -> dict[str, bytes]:
        written = files or {"depth.png": bytes(range(256)) * 4, "depth.json": b'{"model": "tiny"}'}
        store = Store(settings.store_location)
        for claimed in artworks.queue.claim("test", limit=8, lease_seconds=60):
            folder = f"depth/0123456789abcdef/{claimed.id.hex[:2]}/{claimed.id.hex}"
            for name, data in written.items():
                store.write(f"{folder}/{name}", data)
            assert artworks.queue.finish(claimed.id, "test", folder=folder, results=list(written), seconds={"predict": 0.25})
        return written

    return done
