"""A TIFF's first page: size, samples, strips or tiles, tags."""

from __future__ import annotations

from struct import calcsize, unpack_from

from depth_core.ingest.images.headers.header import MEBI, MOST_BLOCKS, MOST_VALUES, READ_AT_ONCE, UNUSUAL_VALUES, Header, too_many

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_ONLY_BYTES = (1, 2, 6, 7)
_PLAIN_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}  # the others may be bombs within their parts


def read(data: bytes) -> Header:
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in (data[2], data[3])
    counter, entry, first = ("Q", f"{order}HHQ", 8) if big else ("H", f"{order}HHI", 4)
    at = unpack_from(f"{order}{'Q' if big else 'I'}", data, first)[0]
    entries = unpack_from(f"{order}{counter}", data, at)[0]
    if entries > MOST_BLOCKS:
        raise too_many("tags", MOST_BLOCKS)
    at += calcsize(counter)
    tags: dict[int, int] = {}
    values = 0
    for _ in range(entries):
        tag, kind, count = unpack_from(entry, data, at)
        if kind not in _ONLY_BYTES and count > MOST_VALUES:
            raise too_many(f"values of the tag {tag}", MOST_VALUES)
        values = max(values, count if kind not in _ONLY_BYTES else 0)
        tags[tag] = max(tags.get(tag, 0), _largest(data, order, big, kind, count, at + calcsize(entry)))
        at += 20 if big else 12
    width, height, bits, samples = tags.get(256, 0), tags.get(257, 0), max(1, tags.get(258, 1)), max(1, tags.get(277, 1))
    compression = tags.get(259, 1)
    stored = samples * next((size for size in (1, 2, 4, 8) if bits <= 8 * size), 16)
    rows = tags.get(323, 0) or min(height, tags.get(278, 0) or height)
    unit = (tags.get(322, 0) or width) * rows * stored  # one tile or strip, as decoded
    unit *= 1 if compression in _PLAIN_COMPRESSIONS else 8  # JPEG 2000 has 4 bytes for each of its samples
    pieces = 2 * min(len(data), READ_AT_ONCE)
    if compression == 1:  # read to where they belong
        unit, pieces = unit if rows < height else 0, 0
    stretched = bits > 16 or tags.get(339, 1) != 1  # in floats, a piece at a time
    by_tifffile = int(stored * width * height) + max(int(3.2 * width * height) + 30 * MEBI * stretched, 2 * unit) + pieces
    pillow = 1 if samples == 1 else 4
    twice = pillow if tags.get(274, 1) != 1 else 0
    by_pillow = int((pillow + twice) * width * height) + max(int((3.2 - twice) * width * height), unit)
    odd_planes = tags.get(284) == 2 or tags.get(262) == 3 or samples == 5
    most = by_tifffile if bits > 8 or stretched else max(by_pillow, by_tifffile) if odd_planes else by_pillow
    unusual = f"a tag of {values:,} values" if values > UNUSUAL_VALUES else ""
    if compression not in _PLAIN_COMPRESSIONS:
        unusual = unusual or f"a TIFF of compression {compression}"
    return Header("tiff", width, height, most / max(1, width * height), 100 * values + 10 * MEBI, unusual)


def _largest(data: bytes, order: str, big: bool, kind: int, count: int, at: int) -> int:
    """The largest of the first few numbers of a tag; 0 of other kinds of values."""
    if kind not in _NUMBERS or not count:
        return 0
    if count * _SIZES[kind] > (8 if big else 4):
        at = unpack_from(f"{order}{'Q' if big else 'I'}", data, at)[0]
    return int(max(unpack_from(f"{order}{min(count, 8)}{_NUMBERS[kind]}", data, at)))
