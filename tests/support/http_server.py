"""One HTTP server for all tests: answers by path, in the order of a script, from a folder; hangs; sends raw bytes.

    with HttpServer() as server:
        url = server.on("/a.jpg", server.answer(503), server.answer(200, photo()))  # to the first request, to all later ones
        ...
        assert [request.path for request in server.requests] == ["/a.jpg", "/a.jpg"]

A behaviour is a function of the `Handler` of one request, which it answers. Tests write their own where those of `HttpServer` do
not do.
"""

from __future__ import annotations

import mimetypes
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

Behaviour = Callable[["Handler"], None]


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    target: str  # the path with its query
    headers: Message  # names in any case
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection; `received` is the one to answer."""

    protocol_version = "HTTP/1.1"
    server: HttpServer
    received: Request

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.received = Request(self.command, self.path, self.headers, body)
        with self.server.noted(self.received) as behaviour:
            try:
                behaviour(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


class HttpServer(ThreadingHTTPServer):
    """A server at 127.0.0.1 that runs in threads of its own until `close`; as a context manager, until the end of the block.

    `port`: 0 for any. `listens=False`: has its port, and refuses connections until `open`.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int = 0, *, listens: bool = True) -> None:
        super().__init__(("127.0.0.1", port), Handler, bind_and_activate=False)
        self.requests: list[Request] = []  # all, as they came
        self.hits: Counter[str] = Counter()  # requests by path
        self.active = self.most_active = 0  # requests that are being answered
        self.released = threading.Event()  # set it to let go what `held` holds
        self.closed = threading.Event()
        self._routes: dict[str, list[Behaviour]] = {}
        self._others, self._other_hits = [self.answer(404)], 0
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._thread: threading.Thread | None = None
        self.server_bind()
        if listens:
            self.open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def on(self, path: str, *behaviours: Behaviour) -> str:
        """The n-th request for `path` gets the n-th behaviour, later ones the last. Returns the URL of `path`."""
        if behaviours:
            self._routes[path] = list(behaviours)
        return self.url + path

    def on_others(self, *behaviours: Behaviour) -> None:
        """The same for all other paths together; without this, they are a 404."""
        self._others, self._other_hits = list(behaviours), 0

    def open(self) -> None:
        self.server_activate()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the server and all its connections; what it holds is let go. Does nothing the second time."""
        self.closed.set()
        self.released.set()
        if self._thread is not None:
            self.shutdown()
            self._thread.join()
            self._thread = None
        self.server_close()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def noted(self, request: Request) -> Iterator[Behaviour]:
        """Notes a request, for as long as it is being answered, and gives its behaviour."""
        with self._lock:
            self.requests.append(request)
            n = self.hits[request.path]
            self.hits[request.path] += 1
            behaviours = self._routes.get(request.path)
            if behaviours is None:
                behaviours, n = self._others, self._other_hits
                self._other_hits += 1
            self.active += 1
            self.most_active = max(self.most_active, self.active)
        try:
            yield behaviours[min(n, len(behaviours) - 1)]
        finally:
            with self._lock:
                self.active -= 1

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, *_: object) -> None:
        pass

    # -- behaviours -----------------------------------------------------------------------------------------------------------

    @staticmethod
    def answer(status: int = 200, body: bytes = b"", *, length: int | None = None, **headers: str) -> Behaviour:
        """An answer. `length`: the Content-Length to claim, after which the connection ends. `_` in a header's name is a `-`."""

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
    def files(folder: Path | str) -> Behaviour:
        """The files of a folder, as static hosting serves them."""

        def behave(handler: Handler) -> None:
            file = Path(folder) / unquote(handler.received.path).lstrip("/")
            if file.is_file():
                kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
                HttpServer.answer(200, file.read_bytes(), Content_Type=kind)(handler)
            else:
                HttpServer.answer(404)(handler)

        return behave

    @staticmethod
    def held(behaviour: Behaviour) -> Behaviour:
        """Waits for the server's `released`, then behaves so. When the server is closed first, it hangs up."""

        def behave(handler: Handler) -> None:
            handler.server.released.wait()
            if handler.server.closed.is_set():
                handler.close_connection = True
            else:
                behaviour(handler)

        return behave

    @staticmethod
    def silent(seconds: float) -> Behaviour:
        """Says nothing for so long, then hangs up."""

        def behave(handler: Handler) -> None:
            handler.server.closed.wait(seconds)
            handler.close_connection = True

        return behave

    @staticmethod
    def drip(pieces: int, pause: float, piece: bytes = b"x" * 100) -> Behaviour:
        """A body that comes slowly, in chunks, with so many seconds after each."""

        def behave(handler: Handler) -> None:
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            for _ in range(pieces):
                handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                handler.server.closed.wait(pause)
            handler.wfile.write(b"0\r\n\r\n")

        return behave

    @staticmethod
    def raw(*lines: bytes, body: bytes = b"", length: bool = True) -> Behaviour:
        """An answer to the byte: status line, headers, body, end of the connection. `length`: with a Content-Length."""

        def behave(handler: Handler) -> None:
            more = [b"Content-Length: %d" % len(body)] if length else []
            handler.wfile.write(b"\r\n".join([*lines, b"Connection: close", *more, b"", body]))
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
