"""The bytes of one file while they arrive: counted, hashed, decompressed, kept in memory or in a temporary file.

What does not belong here: what a response means (responses.py), requests (http_client.py).
"""

from __future__ import annotations

import hashlib
import tempfile
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from depth_core.errors import ErrorKind, ImageError, StoreError
from depth_core.settings import MEBI

IN_MEMORY = 4 * MEBI  # larger bodies go to a temporary file
PIECE = 256 * 1024


class Body:
    """What has been received so far.

    `check_size` and `write` raise ImageError (TOO_MANY_BYTES) beyond the limit; `write` and `opened` raise StoreError when the
    temporary folder is full, which is not the file's fault.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        with _temporary_file_errors():
            self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - goes away with what holds it
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def check_size(self, size: int) -> None:
        if size > self._limit:
            raise ImageError(ErrorKind.TOO_MANY_BYTES, f"larger than {self._limit:,} bytes (DEPTH_MAX_SOURCE_BYTES)")

    def write(self, piece: bytes) -> None:
        self.size += len(piece)
        self.check_size(self.size)
        self._hash.update(piece)
        with _temporary_file_errors():
            self._file.write(piece)

    def opened(self) -> BinaryIO:
        """The file, at its start."""
        with _temporary_file_errors():
            self._file.seek(0)
        return cast(BinaryIO, self._file)


@contextmanager
def _temporary_file_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = tempfile.tempdir or "the system's"
        raise StoreError(
            f"cannot keep a download in the temporary folder ({where}): {error.strerror or error}; free some space there, or"
            " set TMPDIR to a folder with more space"
        ) from error


async def inflate(pieces: AsyncIterator[bytes], body: Body, *, coding: str) -> None:
    """Decompresses gzip or deflate in small pieces, so that a bomb stops at the byte limit and never expands in memory.

    Raises ImageError: REFUSED when the bytes are compressed otherwise, UNREACHABLE when they end early, TOO_MANY_BYTES.
    """
    stream = None
    try:
        async for piece in pieces:
            while piece:
                if stream is None:
                    stream = zlib.decompressobj(wbits=_window(piece, coding))
                elif stream.eof:
                    if not piece.startswith(b"\x1f\x8b"):
                        break  # padding
                    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # concatenated gzip files are one file
                body.write(stream.decompress(piece, PIECE))
                piece = stream.unused_data if stream.eof else stream.unconsumed_tail
    except zlib.error as error:
        raise ImageError(ErrorKind.REFUSED, f"the body is damaged, or not {coding} as Content-Encoding says: {error}") from None
    if stream is not None and not stream.eof:
        raise ImageError(ErrorKind.UNREACHABLE, "the compressed body ended early")


def _window(start: bytes, coding: str) -> int:
    """zlib's window bits for zlib or gzip, by the header. Some servers send deflate without zlib's header."""
    has_header = start[0] & 0x0F == 8 and (len(start) < 2 or int.from_bytes(start[:2], "big") % 31 == 0)
    if coding == "deflate" and not has_header and not start.startswith(b"\x1f"):
        return -zlib.MAX_WBITS
    return zlib.MAX_WBITS | 32
