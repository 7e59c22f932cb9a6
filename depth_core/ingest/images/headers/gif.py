"""A GIF's header: size, and blocks before the pixels."""

from __future__ import annotations

from struct import unpack_from

from depth_core.ingest.images.headers.header import MEBI, MOST_BLOCKS, UNUSUAL_COMMENT_BLOCKS, Header, too_many


def read(data: bytes) -> Header:
    width, height, flags = unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    blocks = 0
    while True:
        introducer = data[at]
        if introducer == 0x2C:
            left, top, wide, high = unpack_from("<HHHH", data, at + 1)
            width, height = max(width, left + wide), max(height, top + high)
            break
        if introducer != 0x21:
            if introducer == 0x3B:
                break
            at += 1  # stray bytes are passed over
            blocks += 1
        else:
            at += 2
            while data[at]:
                at += 1 + data[at]
                blocks += 1
                if blocks > MOST_BLOCKS:
                    break
            at += 1
        if blocks > MOST_BLOCKS:
            raise too_many("blocks before the pixels", MOST_BLOCKS)
    unusual = f"{blocks:,} blocks before the pixels" if blocks > UNUSUAL_COMMENT_BLOCKS else ""
    return Header("gif", width, height, 5.2, 6 * MEBI, unusual)
