"""A scriptable HTTP server on loopback, an S3 server, settings with short waits, and pictures."""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from depth_core.settings import Settings
from depth_core.storage import Store

sys.path.insert(0, str(Path(__file__).parent / "images"))  # for hostile.py

Behaviour = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HttpServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        site = self.server
        with site.lock:
            n = site.hits[path]
            site.hits[path] += 1
            site.seen.append((path, dict(self.headers)))
            site.active += 1
            site.most_active = max(site.most_active, site.active)
            behaviours = site.routes.get(path, [site.answer(404)])
        try:
            behaviours[min(n, len(behaviours) - 1)](self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with site.lock:
                site.active -= 1

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


class HttpServer(ThreadingHTTPServer):
    """`on(path, behaviour, ...)`: the n-th request for a path gets the n-th behaviour, later ones the last.

    A path without a behaviour is a 404.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.routes: dict[str, list[Behaviour]] = {}
        self.hits: Counter[str] = Counter()
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.active = self.most_active = 0
        self.lock = threading.Lock()

    def on(self, path: str, *behaviours: Behaviour) -> str:
        if behaviours:
            self.routes[path] = list(behaviours)
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, *_: object) -> None:
        pass

    @staticmethod
    def answer(status: int = 200, body: bytes = b"", *, length: int | None = None, **headers: str) -> Behaviour:
        def behave(handler: Handler) -> None:
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(body) if length is None else length))
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            if handler.command != "HEAD":
                handler.wfile.write(body)
            if length is not None:
                handler.close_connection = True

        return behave

    @staticmethod
    def drip(pieces: int, pause: float, piece: bytes = b"x" * 100) -> Behaviour:
        """A body that comes slowly, chunked."""

        def behave(handler: Handler) -> None:
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            for _ in range(pieces):
                handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                time.sleep(pause)
            handler.wfile.write(b"0\r\n\r\n")

        return behave

    @staticmethod
    def silent(seconds: float) -> Behaviour:
        def behave(handler: Handler) -> None:
            time.sleep(seconds)
            handler.close_connection = True

        return behave

    @staticmethod
    def reset(handler: Handler) -> None:
        """Sends half of what it announced, then resets the connection."""
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"x" * 500)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.close_connection = True


@pytest.fixture
def site() -> Iterator[HttpServer]:
    server = HttpServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings for tests: no file or variable of the surroundings, private hosts allowed, short waits."""

    def make(**overrides: Any) -> Settings:
        defaults: dict[str, Any] = {
            "data": tmp_path / "data",
            "allow_private_hosts": True,
            "backoff_seconds": 0.001,
            "max_backoff_seconds": 0.01,
        }
        return Settings(_env_file=None, **defaults | overrides)  # type: ignore[call-arg]

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_options(s3_endpoint: str) -> dict[str, Any]:
    return {"key": "test", "secret": "test", "client_kwargs": {"endpoint_url": s3_endpoint, "region_name": "us-east-1"}}


@pytest.fixture
def s3_bucket(s3_endpoint: str, request: pytest.FixtureRequest) -> Any:
    """An empty bucket."""
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")
    bucket = session.resource("s3", endpoint_url=s3_endpoint).Bucket(f"b{abs(hash(request.node.nodeid))}")
    bucket.create()
    yield bucket
    bucket.objects.all().delete()
    bucket.delete()


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """A picture as the bytes of a file of some format."""

    def encode(image: Image.Image, form: str, **options: Any) -> bytes:
        buffer = BytesIO()
        image.save(buffer, form, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def quarters() -> Image.Image:
    """60 x 40: red, green above blue, white."""
    image = Image.new("RGB", (60, 40), "white")
    image.paste((255, 0, 0), (0, 0, 30, 20))
    image.paste((0, 255, 0), (30, 0, 60, 20))
    image.paste((0, 0, 255), (0, 20, 30, 40))
    return image
