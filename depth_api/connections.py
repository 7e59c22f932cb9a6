"""How the API's server listens: uvicorn as the settings have it, and a deadline for requests that do not arrive.

What does not belong here: the deadline of a body, which the application keeps (body.py), and who may call (auth.py).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from depth_api.errors import error_body, error_response
from depth_api.logs import log
from depth_api.path_prefix import ForwardedHeaders
from depth_core.settings import Settings

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as _Protocol
else:
    _Protocol = AutoHTTPProtocol


def _last_answer(status: int, message: str) -> bytes:
    """An error answer to what is not a whole request, and so never reaches the application; the connection's last."""
    body = error_body(status, message)
    text = json.dumps(body, separators=(",", ":")).encode()
    return b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (
        status,
        body["error"].encode(),
        len(text),
        text,
    )


def configured(app: ASGIApp, settings: Settings, **more: Any) -> uvicorn.Config:
    """The server's configuration. X-Forwarded-For, -Proto and -Prefix count from DEPTH_TRUSTED_PROXIES alone."""
    options: dict[str, Any] = {
        "host": settings.api_host,
        "port": settings.api_port,
        "log_config": None,
        "access_log": False,
        "timeout_graceful_shutdown": 20,
        "http": arriving_within(settings.request_seconds, connections=settings.api_connections),
        "ws": "none",
        "proxy_headers": False,  # these and one more are read below
    }
    behind = ForwardedHeaders(cast(Any, app), settings.trusted_proxies)
    return uvicorn.Config(cast(Any, behind), **options | more)


def arriving_within(seconds: float, *, connections: int) -> type[asyncio.Protocol]:
    """uvicorn's protocol for HTTP, which has no deadline of its own for a request's first line and headers, and answers what is
    no request, or one connection too many, with text.

    Closes an idle connection when no complete request head arrives within `seconds`; bytes that trickle in do not extend the
    deadline. Answers 408 before that when part of the connection's first head has arrived.
    """

    class Arriving(_Protocol):
        _deadline: asyncio.TimerHandle | None = None
        _begun = False  # bytes of a request that is not answered yet have come

        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            self.app = _unless(lambda: len(self.connections) > connections, self.app)

        def send_400_response(self, msg: str) -> None:
            self.transport.write(_last_answer(400, msg))
            self.transport.close()

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait_no_more()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            self._begun = True
            super().data_received(data)
            if self.cycle is not before:
                self._wait_no_more()
            if self._deadline is None and self._answers_nothing():
                self._wait()

        def _answers_nothing(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _wait(self) -> None:
            self._deadline = self.loop.call_later(seconds, self._is_late)

        def _wait_no_more(self) -> None:
            self._begun = False
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _is_late(self) -> None:
            self._deadline = None
            if self.transport.is_closing() or not self._answers_nothing():
                return
            if self._begun and self.cycle is None:  # after an answer the rest of its body may be what came
                log.info("request", status=408, path="", detail="its head did not arrive in time")
                self.transport.write(_last_answer(408, "the request did not arrive in time"))
            self.transport.close()

    return cast(type[asyncio.Protocol], Arriving)


def _unless(too_many: Callable[[], bool], app: Any) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if too_many():
            log.warning("too many connections")
            response = error_response(
                503, "too many connections are open; try again", {"Retry-After": "1", "Connection": "close"}
            )
            await response(scope, receive, send)
        else:
            await app(scope, receive, send)

    return answer
