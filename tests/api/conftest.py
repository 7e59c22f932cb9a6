"""The API on a real port of loopback, and a client that holds a key."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import uvicorn
from support.servers import empty_tables
from support.waiting import eventually

from depth_api.app import create_app
from depth_api.connections import configured
from depth_core import settings as settings_module
from depth_core.serving.artworks.store import ArtworkStore, open_store
from depth_core.serving.database import Database
from depth_core.settings import Settings
from depth_core.storage import Store

ANN, BOB = "ann-key-0123456789", "bob-key-0123456789"


@pytest.fixture(scope="module", autouse=True)
def _traces_in_black_and_white() -> Iterator[None]:
    """Where nobody configures the log it has a library's coloured traces, and each takes seconds."""
    before = structlog.get_config()
    *others, _ = before["processors"]
    structlog.configure([*others, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])
    yield
    structlog.configure(**before)


def _settings(data: Path, **changes: Any) -> Settings:
    fields = {
        "data": data,
        "api_keys": f"ann:{ANN},bob:{BOB}",
        "allow_private_hosts": True,
        "rate_limit": 0,
        "wrong_keys": 0,
        "webhooks_in_api": False,
    }
    return settings_module.load(**fields | changes)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of an API whose database and store all tests have, one after the other."""
    settings = _settings(tmp_path_factory.mktemp("api"))
    open_store(settings).close()
    return settings


@pytest.fixture(scope="package")
def shared_url(shared: Settings) -> Iterator[str]:
    with _serving(shared) as url:
        yield url


@pytest.fixture
def configure(shared: Settings) -> Callable[..., Settings]:
    """Settings of an API: two keys, and the shared database and store, empty when the test begins."""
    database = Database(shared.database_location)
    with database.write() as connection:
        empty_tables(connection)
    database.close()
    shutil.rmtree(shared.store_location, ignore_errors=True)
    return lambda **changes: _settings(**{"data": shared.data} | changes)


@contextmanager
def _serving(settings: Settings) -> Iterator[str]:
    server = uvicorn.Server(configured(create_app(settings), settings, port=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started or not thread.is_alive(), every=0.005)
        assert thread.is_alive(), "the API did not start"
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
def url(settings: Settings, shared_url: str) -> str:
    """The API of most tests. It has no limits of calls, and its metrics count those of other tests too."""
    return shared_url


@pytest.fixture
def own_client(settings: Settings) -> Iterator[httpx.Client]:
    """Ann's, of an API that is this test's alone, on the shared database."""
    with _serving(settings) as url, _client(url) as client:
        yield client


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    """Ann's."""
    with _client(url) as client:
        yield client


def _client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {ANN}"}, timeout=90)


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
            folder = f"requests/0123456789abcdef/{claimed.id.hex[:2]}/{claimed.id.hex}"
            for name, data in written.items():
                store.write(f"{folder}/{name}", data)
            assert artworks.queue.finish(claimed.id, "test", folder=folder, results=list(written), seconds={"predict": 0.25})
        return written

    return done
