"""A WebP's header: size, chunks, transparency."""

from __future__ import annotations

from struct import unpack_from

from depth_core.ingest.images.headers.header import MEBI, MOST_BLOCKS, Header, too_many, unusual_chunks


def read(data: bytes) -> Header:
    width = height = chunks = metadata = 0
    transparent = lossless = animated = foreign = False
    at, end = 12, len(data) - 8
    while at <= end:
        kind, length = unpack_from("<4sI", data, at)
        chunks += 1
        if chunks > MOST_BLOCKS:
            raise too_many("chunks", MOST_BLOCKS)
        wide = high = 0
        if kind == b"VP8X":
            wide, high = (int.from_bytes(data[at + n : at + n + 3], "little") + 1 for n in (12, 15))
            transparent |= bool(data[at + 8] & 0x10)
        elif kind == b"VP8L":
            numbers = unpack_from("<I", data, at + 9)[0]
            wide, high = (numbers & 0x3FFF) + 1, (numbers >> 14 & 0x3FFF) + 1
            transparent |= bool(numbers >> 28 & 1)
            lossless = True
        elif kind == b"VP8 ":
            wide, high = (side & 0x3FFF for side in unpack_from("<HH", data, at + 14))
        elif kind == b"ALPH":
            transparent = True
        elif kind == b"ANMF":
            animated = True
        else:
            metadata += length
            foreign |= kind in (b"ICCP", b"EXIF")
        width, height = max(width, wide), max(height, high)
        at += 8 + length + (length & 1)
    unusual = unusual_chunks(chunks, metadata)
    # The result, libwebp's own copy of it where it is lossless, and a second one where something is to be done to the first.
    per_pixel = (8.2 if transparent else 7.2) if lossless else 7.2 if transparent else 6.3 if foreign else 3.2
    if animated:  # by Pillow: the canvas, the frame, and both again
        return Header("webp", width, height, 16.3, 6 * MEBI + len(data), unusual)
    return Header("webp", width, height, per_pixel, (18 if transparent else 6) * MEBI, unusual)
