"""Answers that browsers read and h11 refuses whole: header lines that are none (`forum.php: a/b: x`), odd status lines.

A stream that mends an answer's head before h11 sees it. h11 has no lenient mode, and httpx no other parser. What does not belong
here: what a head says (responses.py).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore

_LONGEST_HEAD = 128 * 1024  # beyond it h11 gives up as well
_MOST_INTERIM = 1000
_END = re.compile(rb"\n\r?\n")
_INTERIM = re.compile(rb"HTTP/1\.[01] 1(?!01)\d\d")  # 100 Continue, 103 Early Hints; another head follows
_BEGINS = (b"http", b"icy ")  # in any case
_STATUS = re.compile(rb"(?:http(?:/(\d+(?:\.\d+)?))?|icy)[ \t]+(\d{3})(?!\d)[ \t]*([^\0\r\n]*).*\n", re.IGNORECASE | re.DOTALL)
# Lengths and codings without a value, and a coding that is none.
_SAYS_NOTHING = re.compile(rb"(?:content-length:|transfer-encoding:(?:[ \t]*identity)?)[ \t]*\r?\n", re.IGNORECASE)
_LINE = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+:[^\x00\r\n\v\f]*\r?\n")


class LenientStream(httpcore.AsyncNetworkStream):
    """A connection whose answers have only header lines that are such. Bodies, and status lines, come as they are sent."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self._in_head = True  # what is read next begins an answer
        self._rest = b""  # behind an interim answer
        self._interim = 0  # answers since the last question

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if not self._in_head:
            return await self._inner.read(max_bytes, timeout)
        received, self._rest = bytearray(self._rest), b""
        looked = taken = 0
        while (end := _END.search(received := _begun(received), looked)) is None:
            looked = max(0, len(received) - 2)
            piece = await self._inner.read(max_bytes, timeout) if taken <= _LONGEST_HEAD else b""
            if not piece:  # h11 says what is wrong
                self._in_head = False
                return bytes(received)
            received += piece
            taken += len(piece)
        head, rest = bytes(received[: end.end()]), bytes(received[end.end() :])
        if _INTERIM.match(head):
            self._rest = rest
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                raise httpcore.RemoteProtocolError(f"more than {_MOST_INTERIM} interim answers, and no final one")
            return mended(head)
        self._in_head = False
        return mended(head) + rest

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._in_head = True
        self._interim = 0
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return LenientStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _begun(received: bytearray) -> bytearray:
    """Without empty lines before it, as some servers send. Raises RemoteProtocolError for what is no answer of HTTP."""
    if received.startswith((b"\r", b"\n")):
        received = received.lstrip(b"\r\n")
    if len(received) >= 4 and not received[:4].lower().startswith(_BEGINS):
        raise httpcore.RemoteProtocolError("it begins with other bytes than HTTP/")
    return received


def mended(head: bytes) -> bytes:
    """An answer's head as h11 reads it: a status line in today's spelling, and no line that is no header or says nothing.

    A line that goes on (the next begins with a space) goes as a whole; of the same coding said twice the second one goes.
    """
    status, *lines = [line + b"\n" for line in head.split(b"\n")[:-1]]
    if found := _STATUS.fullmatch(status):
        version = b"1.1" if (found[1] or b"1.0") > b"1.0" else b"1.0"
        status = b"HTTP/%b %b %b\r\n" % (version, found[2], found[3].rstrip())
    return status + b"".join(_kept(lines))


def _kept(lines: Iterable[bytes]) -> Iterable[bytes]:
    keeps, coding = False, b""
    for line in lines:
        if line[:1] not in (b" ", b"\t"):
            said = b"".join(line.lower().split()) if line[:18].lower() == b"transfer-encoding:" else b""
            is_header = _LINE.fullmatch(line) is not None and not _SAYS_NOTHING.fullmatch(line) and not (said and said == coding)
            keeps = is_header or line in (b"\r\n", b"\n")
            coding = said or coding
        if keeps:
            yield line
