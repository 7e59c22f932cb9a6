"""JPEG: pixels by simplejpeg, which says when data ends early; by Pillow where simplejpeg is too strict or knows a variety less.

Which parts of a file are missing is judged here; what samples mean in pixels.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO
from typing import cast

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, JpegImagePlugin

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest import budget, exif, headers, pixels

NOTE = "the end of the JPEG is missing (no EOI marker); all its pixels are there"

_END = b"\xff\xd9"
_SCAN = 0xDA
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
# Within a scan, what is no marker: a stuffed zero, a restart.
_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# What libjpeg says when it fills in pixels of its own. Its other warnings are about bytes between segments, and harmless.
_MISSING = ("premature end of", "bad Huffman code", "instead of RST", "bad arithmetic code")


class Jpeg:
    """A JPEG's header. Of several pictures in one file (MPO, motion photos) the first."""

    form = "jpeg"

    def __init__(self, data: bytes) -> None:
        """Raises ImageError: NOT_AN_IMAGE for varieties that are not read; anything when it is damaged."""
        self._data = data
        frame = next(((marker, body) for marker, body in _segments(data, scans=False) if marker in _FRAMES), None)
        if frame is not None and frame[1][:1] not in (b"", b"\x08"):
            raise ImageError(ErrorKind.NOT_AN_IMAGE, f"a JPEG of {frame[1][0]} bits a sample, which is not read")
        self._progressive = frame is not None and frame[0] in _PROGRESSIVE
        # MPO files are found through JPEG.
        self._image = cast(JpegImagePlugin.JpegImageFile, Image.open(BytesIO(data), formats=("JPEG",)))
        self.size = self._image.size
        read = exif.of_image(self._image)
        self.orientation = exif.orientation(read)
        self.focal_px = exif.focal_px(read, *self.size)

    def shrink(self, network_width: int, network_height: int) -> bool:
        """Has it decoded at 1/2, 1/4 or 1/8 where that leaves twice a size, both as stored. True when it will be."""
        width, height = self.size
        for fraction in (8, 4, 2):
            if width // fraction >= 2 * network_width and height // fraction >= 2 * network_height:
                self._image.draft(None, (width // fraction, height // fraction))
                return self._image.size != (width, height)
        return False

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
            if str(error).startswith("Premature end of JPEG file"):
                if not _finished(data):
                    raise ValueError("its last scans are missing") from error
                if data.endswith(b"\0\0"):  # a download that never got as far: scans end in ones
                    raise ValueError("ends in zeros instead of pixels") from error
                data, note = data + _END, NOTE
                try:
                    decoded = self._decoded(data, space)
                except ValueError as again:
                    return self._by_pillow(data, again, icc), note
            else:
                return self._by_pillow(data, error, icc), note
        if space == "CMYK":
            return pixels.from_cmyk(np.invert(decoded, out=decoded), icc, self.orientation), note
        return pixels.from_array(decoded, icc, self.orientation), note

    def _decoded(self, data: bytes, space: str) -> npt.NDArray[np.uint8]:
        """Bit for bit what Pillow gives, in half the time and without holding the GIL. Raises ValueError for any warning."""
        width, height = self._image.size
        decoded: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(data, space, min_width=width, min_height=height)
        if decoded.shape[:2] != (height, width):
            raise ValueError(f"has {decoded.shape[1]} x {decoded.shape[0]} pixels")
        return decoded

    def _by_pillow(self, data: bytes, error: ValueError, icc: object) -> pixels.RGB:
        if any(words in str(error) for words in _MISSING):
            raise error
        width, height = self.size
        budget.grow(headers.inspect(self._data).second_try_bytes, f"{width} x {height} pixels of this jpeg need")
        if data is not self._data:
            drafted = self._image.size
            self._image = cast(JpegImagePlugin.JpegImageFile, Image.open(BytesIO(data), formats=("JPEG",)))
            self._image.draft(None, drafted)
        self._image.load()
        return pixels.from_image(self._image, icc, self.orientation)


def _segments(data: bytes, *, scans: bool) -> Iterator[tuple[int, bytes]]:
    """Each marker with what its segment holds; up to the first scan, or with `scans` through all of them to the end."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == _END[1]:
            yield marker, b""
            return
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, data[at + 4 : end]
        if marker == _SCAN:
            found = _AFTER_SCAN.search(data, end) if scans else None
            if found is None:
                return
            end = found.start()
        at = end


def _finished(data: bytes) -> bool:
    """Whether every coefficient of every component was sent, to its last bit. In a file that has its end, what it never began to
    send is not missing."""
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
