"""An AVIF's header: size and how its pixels are coded."""

from __future__ import annotations

import re

from depth_core.ingest.images.headers.header import MEBI, Header

_BOX_LIMIT = 1 << 20  # boxes that say sizes stand at the beginning
_ISPE = re.compile(rb"ispe\0\0\0\0(....)(....)", re.DOTALL)
_SAMPLE_ENTRY = re.compile(rb"stsd.{12}av01.{24}(..)(..)", re.DOTALL)  # of sequences
_AV1C = re.compile(rb"av1C..(.)", re.DOTALL)


def read(data: bytes) -> Header:
    sizes = [
        (int.from_bytes(wide, "big"), int.from_bytes(high, "big"))
        for shape in (_ISPE, _SAMPLE_ENTRY)
        for wide, high in shape.findall(data, 0, _BOX_LIMIT)
    ]
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    coded = [flags[0] for flags in _AV1C.findall(data, 0, _BOX_LIMIT)]
    deep = any(flags & 0x40 for flags in coded)
    whole = any(not flags & 0x1C for flags in coded)  # colours as many as lightness
    per_pixel = (14.0 if deep else 11.4 if whole else 9.8) + (3.0 if deep else 2.2) * (b"auxiliary:alpha" in data[:_BOX_LIMIT])
    return Header("avif", width, height, per_pixel, 14 * MEBI)


def is_avif(data: bytes) -> bool:
    """By any of its brands: the first may be that of HEIF's family."""
    brands = data[8 : min(128, int.from_bytes(data[:4], "big"))]
    return data[4:8] == b"ftyp" and (b"avif" in brands or b"avis" in brands)
