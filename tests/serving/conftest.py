"""Both databases, each a real one: a SQLite file and a PostgreSQL server that the test extra brings along."""

import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support.http_server import Handler, HttpServer
from support.photos import photo

from depth_core.contract import DepthParameters
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import NewArtwork
from depth_core.serving.database import open_database


def _execute(server: sa.URL, statement: str) -> None:
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()


@pytest.fixture(scope="session")
def migrated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """What new databases are copied from: a SQLite file, a PostgreSQL database."""

    @cache
    def of(kind: str) -> str:
        if kind == "sqlite":
            path = tmp_path_factory.mktemp("migrated") / "depthline.db"
            open_database(f"sqlite:///{path}").close()
            return str(path)
        server = request.getfixturevalue("postgresql")
        _execute(server, "CREATE DATABASE migrated")
        open_database(server.set(database="migrated").render_as_string(hide_password=False)).close()
        return "migrated"

    return of


@contextmanager
def _database(request: pytest.FixtureRequest, tmp_path: Path, source: str | None) -> Iterator[str]:
    if request.param == "sqlite":
        path = tmp_path / "depthline.db"
        if source is not None:
            shutil.copy(source, path)
        yield f"sqlite:///{path}"
        return
    server = request.getfixturevalue("postgresql")
    name = f"test_{uuid.uuid4().hex[:12]}"
    _execute(server, f"CREATE DATABASE {name}" + (f" TEMPLATE {source}" if source else ""))
    yield server.set(database=name).render_as_string(hide_password=False)
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without a table."""
    with _database(request, tmp_path, None) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path, migrated: Callable[[str], str]) -> Iterator[str]:
    """A database with its tables and no row."""
    with _database(request, tmp_path, migrated(request.param)) as url:
        yield url


@pytest.fixture
def store(database_url: str) -> Iterator[ArtworkStore]:
    store = ArtworkStore(open_database(database_url))
    yield store
    store.close()


@pytest.fixture
def ask() -> Callable[..., NewArtwork]:
    """Makes a request's content; `tiny` unless told otherwise."""

    def new(image_url: str = "https://example.com/a.jpg", *, webhook: str | None = None, **parameters: Any) -> NewArtwork:
        return NewArtwork(image_url, DepthParameters.model_validate({"model": "tiny", **parameters}), webhook)

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
