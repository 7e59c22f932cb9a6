"""What a file says before it is decoded: its size, the memory that decoding takes, and whether it is out of the ordinary.

Counts what costs time (scans, chunks, blocks, values) and refuses absurd numbers. Reads structure alone, in microseconds for an
ordinary photo (benchmarks/decode_limits.py). Each format has a module; they return a Header (header.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from struct import error

from depth_core.ingest.images.headers import avif, bmp, gif, jpeg, png, tiff, webp
from depth_core.ingest.images.headers.avif import is_avif
from depth_core.ingest.images.headers.header import MANY_PIXELS, UNUSUAL_BYTES, UNUSUAL_RATIO, Header, LargerError, check_size

__all__ = ["Header", "LargerError", "check_size", "inspect", "is_avif"]

_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes], Header]], ...] = (
    (lambda data: data.startswith(b"\xff\xd8\xff"), jpeg.read),
    (lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"), png.read),
    (lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP", webp.read),
    (lambda data: data.startswith((b"GIF87a", b"GIF89a")), gif.read),
    (lambda data: data.startswith((b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+")), tiff.read),
    (avif.is_avif, avif.read),
    (lambda data: data.startswith(b"BM"), bmp.read),
)


def inspect(data: bytes) -> Header:
    """What the structure of a file says, without decoding. Never slow: counting stops at the limits.

    Raises ImageError(TOO_MANY_PIXELS) where a count is absurd: such a file is made to keep a decoder busy.
    """
    read = next((read for is_such, read in _READERS if is_such(data)), None)
    if read is None:
        return Header()
    try:
        found = read(data)
    except (error, IndexError):  # ends early: the decoder reports it, or check_size limits what it finds
        return Header()
    return found if found.unusual else _checked(found, len(data))


def _checked(found: Header, size: int) -> Header:
    unusual = ""
    if found.decode_bytes > UNUSUAL_BYTES:
        unusual = f"{found.decode_bytes / 2**30:.1f} GiB to decode"
    elif found.pixels > MANY_PIXELS and found.pixels > UNUSUAL_RATIO * size:
        unusual = f"{found.pixels:,} pixels in {size:,} bytes"
    return replace(found, unusual=unusual) if unusual else found
