"""Both databases, each a real one: a SQLite file and a PostgreSQL server that the test extra brings along."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support import artwork_stores, servers
from support.http_server import Handler, HttpServer
from support.photos import photo
from support.servers import empty_tables, execute, postgresql_database

from depth_core.contract import DepthParameters, WebhookEvent
from depth_core.serving import database as db
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import NewArtwork
from depth_core.storage import Store


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without a table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/depthline.db"
        return
    with postgresql_database(request.getfixturevalue("postgresql")) as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with its tables, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "depthline.db"
    db.open_database(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def shared_postgresql(postgresql: sa.URL) -> Iterator[sa.Engine]:
    """A PostgreSQL database with its tables: tests take turns, as making one for each takes long."""
    execute(postgresql, "CREATE DATABASE shared")
    url = postgresql.set(database="shared")
    db.open_database(url.render_as_string(hide_password=False)).close()
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_url(tmp_path: Path, migrated: Path) -> str:
    return f"sqlite:///{shutil.copy(migrated, tmp_path)}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A database with its tables and no row."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    engine: sa.Engine = request.getfixturevalue("shared_postgresql")
    others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with engine.connect() as connection:
        connection.execute(sa.text(others))  # those that the test before has left open may hold locks
        empty_tables(connection)
    return engine.url.render_as_string(hide_password=False)


@pytest.fixture
def store(database_url: str) -> Iterator[ArtworkStore]:
    with artwork_stores.opened(database_url) as store:
        yield store


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[ArtworkStore]:
    """A store for tests of what is the same on both databases."""
    with artwork_stores.opened(sqlite_url) as store:
        yield store


@pytest.fixture
def ask() -> Callable[..., NewArtwork]:
    """Makes a request's content; `tiny` unless told otherwise."""

    def new(
        image_url: str = "https://example.com/a.jpg",
        *,
        webhook: str | None = None,
        events: tuple[WebhookEvent, ...] | None = None,
        **parameters: Any,
    ) -> NewArtwork:
        return NewArtwork(image_url, DepthParameters.model_validate({"model": "tiny", **parameters}), webhook, events)

    return new


@pytest.fixture
def receiver() -> Iterator[Callable[..., HttpServer]]:
    """Starts servers that take webhooks. The script: statuses, or statuses and headers, the last for ever; 204 without one."""
    with ExitStack() as running:

        def start(*script: int | tuple[int, dict[str, str]], hangs: bool = False) -> HttpServer:
            server = running.enter_context(HttpServer())
            answers = [each if isinstance(each, tuple) else (each, {}) for each in script or (204,)]
            behaviours = [server.answer(status, **headers) for status, headers in answers]
            server.on_others(*map(server.held, behaviours) if hangs else behaviours)
            return server

        yield start


class Images(HttpServer):
    """A server of images: what is `slow` is held back until `released` is set, `poison` kills the victim."""

    def __init__(self) -> None:
        super().__init__()
        self.victim: int | None = None  # a process
        self.on_others(self._by_name)

    def _by_name(self, handler: Handler) -> None:
        path = handler.received.path
        if path.startswith("/slow"):
            self.released.wait()
        if path.startswith("/poison") and self.victim:
            os.kill(self.victim, signal.SIGKILL)
        if path.startswith("/none"):
            self.answer(404)(handler)
        else:
            self.answer(200, b"<html>" if path.startswith("/text") else self.photo(path))(handler)

    @staticmethod
    def photo(path: str) -> bytes:
        return photo(160, 120, seed=sum(path.encode()))


@pytest.fixture
def images() -> Iterator[Images]:
    with Images() as images:
        yield images


@pytest.fixture(params=["folder", "bucket"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The store of files: a folder, or a bucket."""
    if request.param == "folder":
        return Store(tmp_path / "store")
    endpoint = request.getfixturevalue("s3_endpoint")
    options = {"key": "any", "secret": "any", "client_kwargs": {"endpoint_url": endpoint, "region_name": "us-east-1"}}
    return Store(f"s3://{servers.bucket(endpoint)}/prefix", options)
