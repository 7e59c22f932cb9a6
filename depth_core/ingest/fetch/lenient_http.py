"""Lenient HTTP parsing: invalid header lines (`forum.php: a/b: x`) and odd status lines, accepted as browsers accept them.

A stream that repairs the head of a response before h11 parses it: h11 has no lenient mode, and httpx no other parser. What does
not belong here: what a response means (responses.py).
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
# Lengths and codings without a value, and the coding `identity`.
_EMPTY = re.compile(rb"(?:content-length:|transfer-encoding:(?:[ \t]*identity)?)[ \t]*\r?\n", re.IGNORECASE)
_LINE = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+:[^\x00\r\n\v\f]*\r?\n")


class LenientStream(httpcore.AsyncNetworkStream):
    """A connection whose responses have only valid header lines. Bodies come as they are sent.

    `most`: bytes of a body that are read at once, where the reader asks for fewer.
    """

    def __init__(self, inner: httpcore.AsyncNetworkStream, most: int = 0) -> None:
        self._inner = inner
        self._most = most
        self._in_head = True  # the next bytes begin a response
        self._rest = b""  # bytes behind an interim response
        self._interim = 0  # interim responses since the last request

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if not self._in_head:
            return await self._inner.read(max(max_bytes, self._most), timeout)
        received, self._rest = bytearray(self._rest), b""
        looked = taken = 0
        while (end := _END.search(received := _without_blank_lines(received), looked)) is None:
            looked = max(0, len(received) - 2)
            piece = await self._inner.read(max_bytes, timeout) if taken <= _LONGEST_HEAD else b""
            if not piece:  # h11 reports what is wrong
                self._in_head = False
                return bytes(received)
            received += piece
            taken += len(piece)
        head, rest = bytes(received[: end.end()]), bytes(received[end.end() :])
        if _INTERIM.match(head):
            self._rest = rest
            self._interim += 1
            if self._interim > _MOST_INTERIM:
                raise httpcore.RemoteProtocolError(f"more than {_MOST_INTERIM} interim responses and no final one")
            return repaired(head)
        self._in_head = False
        return repaired(head) + rest

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._in_head = True
        self._interim = 0
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return LenientStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))
        except BaseException:  # httpcore closes it after errors, but not when the handshake is cancelled
            await self._inner.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _without_blank_lines(received: bytearray) -> bytearray:
    """The bytes without the empty lines that some servers send first. Raises RemoteProtocolError when they are not HTTP."""
    if received.startswith((b"\r", b"\n")):
        received = received.lstrip(b"\r\n")
    if len(received) >= 4 and not received[:4].lower().startswith(_BEGINS):
        raise httpcore.RemoteProtocolError("it does not begin with HTTP/")
    return received


def repaired(head: bytes) -> bytes:
    """The head of a response as h11 accepts it: a standard status line, and only header lines that are valid and have a value.

    A folded line (the next one begins with a space) is removed as a whole, and so is the second of two equal codings.
    """
    status, *lines = [line + b"\n" for line in head.split(b"\n")[:-1]]
    if found := _STATUS.fullmatch(status):
        version = b"1.1" if (found[1] or b"1.0") > b"1.0" else b"1.0"
        status = b"HTTP/%b %b %b\r\n" % (version, found[2], found[3].rstrip())
    return status + b"".join(_valid_lines(lines))


def _valid_lines(lines: Iterable[bytes]) -> Iterable[bytes]:
    keeps, coding = False, b""
    for line in lines:
        if line[:1] not in (b" ", b"\t"):
            said = b"".join(line.lower().split()) if line[:18].lower() == b"transfer-encoding:" else b""
            is_header = _LINE.fullmatch(line) is not None and not _EMPTY.fullmatch(line) and not (said and said == coding)
            keeps = is_header or line in (b"\r\n", b"\n")
            coding = said or coding
        if keeps:
            yield line
