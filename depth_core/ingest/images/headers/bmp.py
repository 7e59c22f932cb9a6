"""A BMP's header: size, bits, compression."""

from __future__ import annotations

from struct import unpack_from

from depth_core.ingest.images.headers.header import MEBI, UNUSUAL_RLE_BYTES, Header


def read(data: bytes) -> Header:
    size = unpack_from("<I", data, 14)[0]
    compression = 0
    if size == 12:
        width, height, _, bits = unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression = unpack_from("<iiHHI", data, 18)
    runs = compression in (1, 2)
    unusual = f"run lengths of {len(data):,} bytes" if runs and len(data) > UNUSUAL_RLE_BYTES else ""
    return Header("bmp", abs(width), abs(height), 7.2 if bits > 8 or runs else 4.2, 6 * MEBI, unusual)
