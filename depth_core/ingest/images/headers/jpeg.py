"""A JPEG's header: size, sampling, scans."""

from __future__ import annotations

import re
from struct import error, unpack_from

from depth_core.ingest.images.headers.header import (
    MEBI,
    MOST_BLOCKS,
    MOST_SCANS,
    UNUSUAL_SCANNED_PIXELS,
    UNUSUAL_SCANS,
    Header,
    too_many,
    unusual_chunks,
)

_SCAN = re.compile(rb"\xff\xda")
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in pixels, 255 is followed by 0 or a restart
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)


def read(data: bytes) -> Header:
    width = height = components = segments = strays = 0
    coefficients = 0.0
    progressive = plain = True
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            return Header()
        marker = data[at + 1]
        if marker in (0x00, 0xFF) or 0xD0 <= marker <= 0xD8:
            at += 1
            strays += 1
            if strays > MOST_BLOCKS:
                raise too_many("stray bytes before the pixels", MOST_BLOCKS)
            continue
        if marker == 0xD9:
            return Header()
        segments += 1
        if segments > MOST_BLOCKS:
            raise too_many("segments before the pixels", MOST_BLOCKS)
        if marker == 0xDA:
            break
        if marker in _FRAMES:
            height, width, components = unpack_from(">HHB", data, at + 5)
            progressive = marker in _PROGRESSIVE
            blocks = [(data[at + n] >> 4) * (data[at + n] & 15) for n in range(11, 11 + 3 * components, 3)]
            coefficients = 2.0 * sum(blocks) / max(1, *blocks, 1)
        elif marker == 0xE2 and data[at + 4 : at + 15] == b"ICC_PROFILE":
            plain = False
        elif marker == 0xE1 and data[at + 4 : at + 8] == b"Exif":
            plain = plain and not _may_be_turned(data[at + 10 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    scans = _scans(data, at) if progressive or data[at + 4] < components else 1
    unusual = unusual_chunks(segments + strays, at, "segments and stray bytes")
    if scans > UNUSUAL_SCANS or scans * width * height > UNUSUAL_SCANNED_PIXELS:
        unusual = f"{scans:,} scans"
    stored = coefficients if scans > 1 else 0.0
    inks = components == 4
    # The result, and a second one where it is turned or has a profile of its own; or Pillow's 4 bytes, then both.
    first = 4.1 + max(3.3, stored) if inks else max(3.2 if plain else 6.5, 3.2 + stored)
    kept = 0 if plain else min(int(stored * width * height), 16 * MEBI)  # by the allocator, of small pictures
    extra = 8 * MEBI + kept + (0 if data.endswith(b"\xff\xd9") else len(data))
    return Header("jpeg", width, height, first, extra, unusual, second_try=4.1 + max(3.3, 4.1 + stored))


def _may_be_turned(exif: bytes) -> bool:
    """Whether EXIF says another orientation than upright, or says it in a way that a decoder may understand otherwise."""
    order = ">" if exif[:2] == b"MM" else "<"
    try:
        at = unpack_from(f"{order}I", exif, 4)[0]
        count = unpack_from(f"{order}H", exif, at)[0]
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, values, value = unpack_from(f"{order}HHIH", exif, entry)
            if tag == 274 and (kind, values, value) != (3, 1, 1):
                return True
    except error:
        return True
    return False


def _scans(data: bytes, at: int) -> int:
    """How many scans a JPEG has, or a few more where that is not many. `at`: of the first."""
    most = len(_SCAN.findall(data, at))  # an upper bound, found fast: markers within other segments count as well
    if most <= UNUSUAL_SCANS:
        return most
    scans = 0
    while True:
        marker = data[at + 1]
        if marker == 0xD9:
            return scans
        if marker == 0xDA:
            scans += 1
            if scans > MOST_SCANS:
                raise too_many("scans", MOST_SCANS)
        following = _MARKER.search(data, at + 2 + int.from_bytes(data[at + 2 : at + 4], "big"))
        if following is None or following.end() + 2 > len(data):
            return scans
        at = following.start()
