"""Requests that do not arrive, and clients that do not wait for the answer."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
import structlog
from support.waiting import eventually

from depth_core.serving.artworks.store import ArtworkStore
from depth_core.settings import Settings

KEY = "Authorization: Bearer ann-key-0123456789"
POST = f"POST /v2/artworks/depth-map HTTP/1.1\r\nHost: a\r\n{KEY}\r\nContent-Type: application/json\r\n"
Serving = Callable[[Settings], Any]


def connect(url: str) -> socket.socket:
    where = httpx.URL(url)
    return socket.create_connection((where.host, where.port or 80), timeout=30)


def trickle(connection: socket.socket, text: bytes) -> bytes:
    """Sends one byte after the other, for ever, until the other side ends it; what it said."""
    ended = threading.Event()

    def send() -> None:
        with suppress(OSError):
            connection.sendall(text)
            while not ended.wait(0.02):
                connection.sendall(b"x")

    sender = threading.Thread(target=send)
    sender.start()
    said = b""
    try:
        while part := connection.recv(65536):
            said += part
    except ConnectionResetError:
        pass
    finally:
        ended.set()
        sender.join()
        connection.close()
    return said


@pytest.fixture
def hasty(configure: Callable[..., Settings], serving: Serving) -> Any:
    with serving(configure(request_seconds=0.3)) as url:
        yield url


def test_headers_that_trickle_are_a_408_and_the_end_of_the_connection(hasty: str) -> None:
    said = trickle(connect(hasty), b"GET /health/live HTTP/1.1\r\nHost: a\r\nX-Slow: ")
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive in time" in said


def test_a_body_that_trickles_is_a_408_and_the_end_of_the_connection(hasty: str) -> None:
    said = trickle(connect(hasty), f"{POST}Content-Length: 60000\r\n\r\n".encode())
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.3 s" in said


def test_a_connection_on_which_nothing_comes_is_closed(hasty: str) -> None:
    with connect(hasty) as connection:
        assert connection.recv(100) == b""


def test_a_body_that_trickles_in_after_its_answer_keeps_no_connection_open(hasty: str) -> None:
    text = POST.replace(KEY, "X-None: 1")
    assert trickle(connect(hasty), f"{text}Content-Length: 60000\r\n\r\n".encode()).startswith(b"HTTP/1.1 401 ")


def test_a_request_that_takes_its_time_to_be_answered_is_no_late_one(hasty: str) -> None:
    with connect(hasty) as connection:
        text = b'{"imageUrl": "https://example.com/a.jpg", "model": "tiny"}'
        for prefer in ("respond-async", "wait=1"):  # the slow one comes on a connection that is used again
            connection.sendall(f"{POST}Prefer: {prefer}\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
            assert connection.recv(65536).startswith(b"HTTP/1.1 202 ")


def test_a_client_that_hangs_up_is_noted_as_such_and_is_no_error(own_client: httpx.Client, artworks: ArtworkStore) -> None:
    url = str(own_client.base_url)
    text = b'{"imageUrl": "https://example.com/a.jpg", "model": "tiny"}'
    with structlog.testing.capture_logs() as lines:
        with connect(url) as halfway:
            # It asks whether to go on when it has the head.
            halfway.sendall(f"{POST}Expect: 100-continue\r\nContent-Length: 100\r\n\r\n".encode())
            assert halfway.recv(100).startswith(b"HTTP/1.1 100 ")
            halfway.sendall(b"{")
        with connect(url) as waiting:
            waiting.sendall(f"{POST}Prefer: wait=60\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
            eventually(lambda: artworks.queue.waiting()[0])
        eventually(lambda: len(lines) >= 2)
        figures = own_client.get("/metrics").text
    requests = [line for line in lines if line.get("path") == "/v2/artworks/depth-map"]
    assert [(line["event"], line["log_level"], line["status"]) for line in requests] == [("request", "info", 499)] * 2
    assert 'depthline_http_client_disconnects_total{route="/v2/artworks/depth-map"} 2.0' in figures
    assert 'status="500"' not in figures


def test_lines_of_the_log_are_printable_and_have_no_secrets_of_urls(url: str) -> None:
    with structlog.testing.capture_logs() as lines:
        httpx.get(
            f"{url}/%1b[31m/https://ann:sesame@a.example/?token=hush", headers={"Authorization": "Bearer secret-0123456789"}
        )
        [line] = eventually(lambda: [line for line in lines if "a.example" in str(line.get("path"))])
    assert "\x1b" not in str(line["path"])
    for secret in ("sesame", "hush", "secret-0123456789"):
        assert secret not in str(lines)


def test_connections_beyond_the_limit_are_told_so(configure: Callable[..., Settings], serving: Serving) -> None:
    with serving(configure(api_connections=2)) as url:
        with connect(url), connect(url):  # they are accepted in their order
            refused = httpx.get(f"{url}/health/live")
            assert (refused.status_code, refused.json()["error"]) == (503, "Service Unavailable")
            assert "too many connections" in refused.json()["message"]
        eventually(lambda: httpx.get(f"{url}/health/live").status_code == 200)


@pytest.mark.parametrize("text", [b"nonsense\r\n\r\n", b"GET /health/live HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n"])
def test_what_is_no_http_is_a_400_in_the_shape_of_all_errors(url: str, text: bytes) -> None:
    with connect(url) as connection:
        connection.sendall(text)
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(body)["statusCode"] == 400
