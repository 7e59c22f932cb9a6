"""PNG: its chunks, and its pixels by libpng, which refuses what ends early. What samples mean: pixels.py.

Texts are never unfolded: they are no part of the picture, and may be bombs.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from io import BytesIO

import numpy as np
from PIL import Image

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest import exif, pixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_OF_PIXELS = (b"PLTE", b"tRNS", b"IDAT")  # beside the header, all that decides what they are
_LONGEST_PROFILE = 16_000_000  # bytes unfolded; those of printers have 3 million. A longer one is ignored, as browsers do
_LONGEST_EXIF = 1_000_000
_PIECE = 1 << 20  # bytes unfolded at once
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of each colour type
# Adam7: first row, first column, step of rows, step of columns.
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


class Png:
    """A PNG's chunks. Of an animation the picture for viewers that know none: the first, nearly always."""

    form = "png"

    def __init__(self, data: bytes) -> None:
        """Raises ImageError: TRUNCATED_IMAGE, or NOT_AN_IMAGE for Apple's variety."""
        view, at = memoryview(data), len(SIGNATURE)
        self._kept: list[memoryview | bytes] = [SIGNATURE]
        self._icc: bytes | None = None
        camera = b""
        unfolded: set[bytes] = set()
        header, transparent = b"", False
        while at + 8 <= len(data):
            kind, start = data[at + 4 : at + 8], at + 8
            end = start + int.from_bytes(view[at : at + 4], "big")
            if kind == b"CgBI":
                raise ImageError(ErrorKind.NOT_AN_IMAGE, "Apple's own PNG (CgBI, as in apps for iPhones), which is not read")
            if kind == b"IHDR" and not header:
                header = data[start:end]
                self._kept.append(view[at : end + 4])
            elif kind in _OF_PIXELS:
                self._kept.append(view[at : end + 4])
                transparent = transparent or kind == b"tRNS"
            elif kind == b"iCCP" and kind not in unfolded:  # one of each kind: many may be many bombs
                self._icc = _profile(data[start:end])
                unfolded.add(kind)
            elif kind == b"eXIf":
                camera = data[start:end]
            elif kind in (b"tEXt", b"zTXt") and data.startswith(b"Raw profile type exif\0", start) and kind not in unfolded:
                camera = camera or _exif_text(kind, data[start:end])
                unfolded.add(kind)
            elif kind == b"IEND":
                break
            at = end + 4
        if len(header) != 13:
            raise ImageError(ErrorKind.TRUNCATED_IMAGE, "starts like PNG, but its header is damaged")
        self.size = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
        depth, colour, interlaced = header[8], header[9], header[12]
        # libpng prints a line for each interlaced picture; Pillow mistakes a transparent colour in all depths but 8.
        self._by_pillow = bool(interlaced) and (colour == 3 or depth == 8 or not transparent)
        self._bits = depth * _SAMPLES.get(colour, 1)
        read = exif.of_bytes(camera)
        self.orientation = exif.orientation(read)
        self.focal_px = exif.focal_px(read, *self.size) if min(self.size) else None

    def read(self) -> tuple[pixels.RGB, str]:
        data = b"".join([*self._kept, b"\0\0\0\0IEND\xaeB`\x82"])
        if self._by_pillow:
            image = Image.open(BytesIO(data), formats=("PNG",))
            image.load()
            self._check_passes()
            if not image.mode.startswith("I"):
                return pixels.from_image(image, self._icc, self.orientation), ""
            samples = np.asarray(image)
        else:
            import imagecodecs

            samples = imagecodecs.png_decode(data)
        if samples.shape[:2] != self.size[::-1]:
            raise ValueError(f"has {samples.shape[1]} x {samples.shape[0]} pixels")
        if samples.dtype.itemsize == 1:
            return pixels.from_array(samples, self._icc, self.orientation), ""
        samples = samples.reshape(*samples.shape[:2], -1)
        channels = samples.shape[2]
        deep = pixels.Deep(samples, 16, 1 if channels < 3 else 3, "" if channels % 2 else "straight")
        return pixels.from_deep(deep, self._icc, self.orientation), ""

    def _check_passes(self) -> None:
        """Raises ValueError or zlib.error where the last passes end early, which Pillow does not see."""
        width, height = self.size
        missing = 0
        for y, x, rows, columns in _PASSES:
            across, down = -(-(width - x) // columns), -(-(height - y) // rows)
            missing += down * (1 + (across * self._bits + 7) // 8) if across > 0 and down > 0 else 0
        unfold = zlib.decompressobj()
        for part in self._kept:
            if bytes(part[4:8]) != b"IDAT":
                continue
            for at in range(8, len(part) - 4, _PIECE):  # what is left over is copied each time
                rest: bytes | memoryview = part[at : min(at + _PIECE, len(part) - 4)]
                while len(rest) and not unfold.eof:
                    missing -= len(unfold.decompress(rest, _PIECE))
                    rest = unfold.unconsumed_tail
        if missing - len(unfold.flush()) > 0:
            raise ValueError("its last rows are missing")


def _profile(body: bytes) -> bytes | None:
    """What an iCCP chunk holds: a name, a zero, how it is packed, the packed profile."""
    name_end = body.find(b"\0")
    unfold = zlib.decompressobj()
    with suppress(zlib.error):
        profile = unfold.decompress(body[name_end + 2 :], _LONGEST_PROFILE)
        return None if unfold.unconsumed_tail else profile
    return None


def _exif_text(kind: bytes, body: bytes) -> bytes:
    """EXIF as ImageMagick keeps it: a name, its length, hexadecimal digits over many lines."""
    text = body[len(b"Raw profile type exif\0") :]
    with suppress(zlib.error, ValueError):
        if kind == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], 2 * _LONGEST_EXIF)
        return bytes.fromhex("".join(text[: 2 * _LONGEST_EXIF].decode("latin-1").split("\n")[3:]))
    return b""
