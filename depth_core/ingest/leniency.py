"""Answers with header lines that are none (`forum.php: a/b: x`), which browsers and curl pass over, and h11 refuses whole.

A stream that takes such lines out of an answer's head before h11 sees them. What does not belong here: what a head says
(answers.py).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore

_LONGEST_HEAD = 128 * 1024  # beyond it h11 gives up as well
_END = re.compile(rb"\n\r?\n")
_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)\d\d")  # 100 Continue, 103 Early Hints; another head follows
_LINE = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+:[^\x00\r\n\v\f]*\r?\n")


class LenientStream(httpcore.AsyncNetworkStream):
    """A connection whose answers have only header lines that are such. Bodies, and status lines, come as they are sent."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self._in_head = True  # what is read next begins an answer
        self._rest = b""  # behind an interim answer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if not self._in_head:
            return await self._inner.read(max_bytes, timeout)
        received, self._rest = bytearray(self._rest), b""
        looked = 0
        while (end := _END.search(received, looked)) is None:
            looked = max(0, len(received) - 2)
            piece = await self._inner.read(max_bytes, timeout) if len(received) <= _LONGEST_HEAD else b""
            if not piece:  # h11 says what is wrong
                self._in_head = False
                return bytes(received)
            received += piece
        head, rest = bytes(received[: end.end()]), bytes(received[end.end() :])
        if _INTERIM.match(head):
            self._rest = rest
            return without_odd_lines(head)
        self._in_head = False
        return without_odd_lines(head) + rest

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._in_head = True
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return LenientStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def without_odd_lines(head: bytes) -> bytes:
    """An answer's head without the lines that are no header. One that goes on (the next begins with a space) goes as a whole."""
    status, *lines = [line + b"\n" for line in head.split(b"\n")[:-1]]
    return status + b"".join(_kept(lines))


def _kept(lines: Iterable[bytes]) -> Iterable[bytes]:
    keeps = False
    for line in lines:
        if line[:1] not in (b" ", b"\t"):
            keeps = _LINE.fullmatch(line) is not None or line in (b"\r\n", b"\n")
        if keeps:
            yield line
