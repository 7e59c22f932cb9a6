"""Connections that are kept between requests.

httpcore's own pool looks at each connection, and asks the system about its socket, at the beginning and at the end of every
request: with 32 at once that is most of what a small download costs. What does not belong here: which hosts may be called
(ssrf_guard.py), requests (http_client.py).
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from typing import Any, cast

import httpcore

_EXPIRY = 5.0  # seconds that a connection is kept while nobody uses it


class KeptConnections(httpcore.AsyncConnectionPool):
    """A pool whose connections have one request at a time. Not for several event loops.

    At most `most` are kept while nobody uses them. How many are open has no limit, since callers count their requests.
    """

    def __init__(self, most: int, tls: ssl.SSLContext, backend: httpcore.AsyncNetworkBackend) -> None:
        super().__init__(ssl_context=tls, keepalive_expiry=_EXPIRY, network_backend=backend)
        self._most = most
        self._kept: list[httpcore.AsyncConnectionInterface] = []  # what was used last is last

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        connection = await self._take(request.url.origin)
        try:
            response = await connection.handle_async_request(request)
        except BaseException:
            await _close(connection)
            raise
        body = _Body(cast(AsyncIterable[bytes], response.stream), connection, self)
        return httpcore.Response(response.status, headers=response.headers, content=body, extensions=response.extensions)

    async def _take(self, origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface:
        """What was used last of the kept connections to this origin, if it is still open; else a new one."""
        while (kept := next((each for each in reversed(self._kept) if each.can_handle_request(origin)), None)) is not None:
            self._kept.remove(kept)
            if not kept.has_expired():
                return kept
            await _close(kept)
        return self.create_connection(origin)

    async def take_back(self, connection: httpcore.AsyncConnectionInterface) -> None:
        """Keeps a connection whose response was read to its end, with nothing behind it, and closes any other."""
        if not connection.is_idle() or _has_more(connection):
            await _close(connection)
            return
        self._kept.append(connection)
        while self._kept and (len(self._kept) > self._most or self._kept[0].has_expired()):
            await _close(self._kept.pop(0))

    async def aclose(self) -> None:
        self._most = 0
        while self._kept:
            await _close(self._kept.pop())


class _Body:
    """The body of a response; its connection goes back to the pool when it is closed."""

    def __init__(
        self, stream: AsyncIterable[bytes], connection: httpcore.AsyncConnectionInterface, pool: KeptConnections
    ) -> None:
        self._stream = stream
        self._connection = connection
        self._pool = pool
        self._closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if hasattr(self._stream, "aclose"):
                await self._stream.aclose()
        finally:
            await self._pool.take_back(self._connection)


def _has_more(connection: Any) -> bool:
    """Whether bytes came behind a response, of a body longer than it was said to be: they would be the next request's answer."""
    left, _ = connection._connection._h11_state.trailing_data  # httpcore does not look, and has no name for it
    return bool(left)


async def _close(connection: httpcore.AsyncConnectionInterface) -> None:
    """What goes wrong is nobody's failure: the connection is not used any more, and may have been another URL's."""
    with suppress(Exception):
        await connection.aclose()
