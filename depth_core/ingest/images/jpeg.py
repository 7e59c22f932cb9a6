"""JPEG: decoded by simplejpeg, which reports data that ends early; by Pillow where simplejpeg is too strict or lacks a variety.

Checks whether a file lacks pixels. What samples mean: pixels.py.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.images import exif, headers, memory_budget, pixels

NOTE = "the end of the JPEG is missing (no EOI marker); all its pixels are there"

_END = b"\xff\xd9"
_SCAN = 0xDA
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_INTERVAL = 0xDD
_LOSSLESS = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
_ARITHMETIC = frozenset({*range(0xC9, 0xD0)} - {0xCC})
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_JUNK = bytes(range(17, 251, 3))  # no byte of it begins a marker
# Within a scan, what is no marker: a stuffed zero, a restart.
_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # with a segment; those of restarts and of nothing have none
# What libjpeg says when it fills in pixels of its own. Its other warnings are about bytes between segments, and harmless.
_MISSING = ("premature end of", "bad Huffman code", "instead of RST", "bad arithmetic code")


class Jpeg:
    """A JPEG's header. Of several pictures in one file (MPO, motion photos) the first."""

    format = "jpeg"

    def __init__(self, data: bytes) -> None:
        """Raises ImageError: NOT_AN_IMAGE for varieties that are not read; anything when it is damaged."""
        self._data = data
        frame = next(((marker, body) for marker, body in _segments(data, scans=False) if marker in _FRAMES), None)
        if frame is not None and frame[1][:1] not in (b"", b"\x08"):
            raise ImageError(ErrorKind.NOT_AN_IMAGE, f"a JPEG of {frame[1][0]} bits a sample, which is not read")
        self._progressive = frame is not None and frame[0] in _PROGRESSIVE
        self._arithmetic = frame is not None and frame[0] in _ARITHMETIC
        # MPO files are found through JPEG.
        self._image = Image.open(BytesIO(data), formats=("JPEG",))
        self.size = self._image.size
        read = exif.of_image(self._image)
        self.orientation = exif.orientation(read)
        self.focal_px = exif.focal_px(read, *self.size)

    def read(self) -> tuple[pixels.RGB, str]:
        image, icc = self._image, self._image.info.get("icc_profile")
        gray = image.mode == "L" and pixels.foreign(icc, "L") is not None
        space = "CMYK" if image.mode == "CMYK" else "GRAY" if gray else "RGB"
        data, note = self._data, ""
        if self._progressive and not _finished(data):
            raise ValueError("its last scans are missing")
        try:
            decoded = self._decoded(data, space)
        except ValueError as error:
            if str(error).startswith("Corrupt JPEG data") or str(error).startswith("Premature end of JPEG file"):
                data, note = _repaired(data)
            if data is self._data:
                return self._by_pillow(data, error, icc), note
            try:
                decoded = self._decoded(data, space)
            except ValueError as again:
                return self._by_pillow(data, again, icc), note
        if space == "CMYK":
            return pixels.from_cmyk(np.invert(decoded, out=decoded), icc, self.orientation), note
        return pixels.from_array(decoded, icc, self.orientation), note

    def _decoded(self, data: bytes, space: str) -> npt.NDArray[np.uint8]:
        """Bit for bit what Pillow gives, in half the time and without holding the GIL. Raises ValueError for any warning."""
        width, height = self.size
        decoded: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(data, space)
        if decoded.shape[:2] != (height, width):
            raise ValueError(f"has {decoded.shape[1]} x {decoded.shape[0]} pixels")
        return decoded

    def _by_pillow(self, data: bytes, error: ValueError, icc: object) -> pixels.RGB:
        if any(warning in str(error) for warning in _MISSING):
            raise error
        width, height = self.size
        memory_budget.grow(headers.inspect(self._data).second_try_bytes, f"{width} x {height} pixels of this jpeg need")
        image = self._loaded(data)
        # libjpeg reports only its first warning: a harmless one may hide that it filled in missing pixels.
        doubtful = "orrupt JPEG data" in str(error) and not self._arithmetic
        if doubtful and not (_restarts_are_there(data) and _same(image, self._loaded(_lengthened(data)))):
            raise ValueError("its pixels end early") from error
        return pixels.from_image(image, icc, self.orientation)

    def _loaded(self, data: bytes) -> Image.Image:
        image = Image.open(BytesIO(data), formats=("JPEG",))
        image.load()
        return image


def _repaired(data: bytes) -> tuple[bytes, str]:
    """The file without bytes between its segments and with an end, and a note. Raises ValueError where pixels are missing."""
    parts, kept, marker = [data[:2]], 2, 0
    for marker, start, end in _places(data):
        parts += [b"\xff", bytes([marker]), data[start - 2 : end] if marker != _END[1] else b""]
        kept = end
        if marker == _SCAN:
            kept = _scan_end(data, end)
            parts.append(data[end:kept])
    if marker == _END[1]:
        repaired = b"".join(parts)
        return (data if data.startswith(repaired) else repaired), ""
    if not _finished(data):
        raise ValueError("its last scans are missing")
    if data.endswith(b"\0\0"):  # a download that never got as far: scans end in ones
        raise ValueError("ends in zeros instead of pixels")
    return b"".join([*parts, data[kept:], _END]), NOTE


def _restarts_are_there(data: bytes) -> bool:
    """Whether each scan has all its restarts in their order: libjpeg fills in for those that are lost."""
    width = height = interval = 0
    unit = 8
    factors: dict[int, tuple[int, int]] = {}
    for marker, start, end in _places(data):
        body = data[start:end]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", body, 1)
            unit = 1 if marker in _LOSSLESS else 8
            factors = {body[at]: (body[at + 1] >> 4, body[at + 1] & 15) for at in range(6, len(body) - 2, 3)}
        elif marker == _INTERVAL:
            interval = int.from_bytes(body[:2], "big")
        elif marker == _SCAN and interval:
            most = [max(parts) for parts in zip(*factors.values(), strict=True)]
            named = body[1 : 1 + 2 * body[0] : 2]
            across, down = (
                (-(-side * own // full), 1) if len(named) == 1 else (side, full)
                for side, own, full in zip((width, height), factors[named[0]], most, strict=True)
            )
            units = -(-across[0] // (unit * across[1])) * -(-down[0] // (unit * down[1]))
            found = [data[restart.start() + 1] - 0xD0 for restart in _RESTART.finditer(data, end, _scan_end(data, end))]
            if found != [n % 8 for n in range(-(-units // interval) - 1)]:
                return False
    return True


def _scan_end(data: bytes, start: int) -> int:
    found = _AFTER_SCAN.search(data, start)
    return found.start() if found else len(data)


def _same(image: Image.Image, other: Image.Image) -> bool:
    width, height = image.size
    boxes = [(0, top, width, bottom) for top, bottom in pixels.strips(width, height)]
    return all(np.array_equal(np.asarray(image.crop(box)), np.asarray(other.crop(box))) for box in boxes)


def _lengthened(data: bytes) -> bytes:
    """Returns the file with junk after each run of coded pixels: complete runs ignore it, others decode to other pixels."""
    parts, kept = [], 0
    for marker, _, end in _places(data):
        if marker == _SCAN:
            stop = _scan_end(data, end)
            for at in (*(restart.start() for restart in _RESTART.finditer(data, end, stop)), stop):
                parts += [data[kept:at], _JUNK]
                kept = at
    return b"".join([*parts, data[kept:]])


def _segments(data: bytes, *, scans: bool) -> Iterator[tuple[int, bytes]]:
    """Each marker with what its segment holds; up to the first scan, or with `scans` through all of them to the end."""
    for marker, start, end in _places(data):
        yield marker, data[start:end]
        if marker == _SCAN and not scans:
            return


def _places(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Each marker, and where what its segment holds begins and ends. Bytes between segments are passed over, as libjpeg does."""
    at = 2
    while (found := _MARKER.search(data, at)) is not None:
        marker, at = data[found.start() + 1], found.end()
        if marker == _END[1]:
            yield marker, at, at
            return
        start, end = at + 2, at + int.from_bytes(data[at : at + 2], "big")
        yield marker, start, end
        at = end


def _finished(data: bytes) -> bool:
    """Returns whether every coefficient of every component was sent, to its last bit. In a file with an end marker, coefficients
    of which no bit was sent do not count as missing."""
    components: set[int] = set()
    sent: dict[int, dict[int, int]] = {}  # component -> coefficient -> its lowest bit so far
    progressive = ended = False
    for marker, body in _segments(data, scans=True):
        if marker in _FRAMES:
            progressive = marker in _PROGRESSIVE
            components = {body[6 + 3 * n] for n in range((len(body) - 6) // 3)}
        elif marker == _SCAN and body:
            named = body[0]
            first, last, bits = body[1 + 2 * named : 4 + 2 * named] if progressive else (0, 63, 0)
            for n in range(named):
                sent.setdefault(body[1 + 2 * n], {}).update(dict.fromkeys(range(first, min(last, 63) + 1), bits & 15))
        ended = marker == _END[1]
    bands = [sent.get(component, {}) for component in components]
    return all(0 in band and not any(band.values()) and (ended or len(band) == 64) for band in bands)
