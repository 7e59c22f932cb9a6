"""PNG: its chunks, and its pixels by libpng, which refuses what ends early. What samples mean: pixels.py.

Texts are never unfolded: they are no part of the picture, and may be bombs.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from contextlib import suppress

import numpy as np

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.images import colorimetry, exif, pixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_OF_PIXELS = (b"PLTE", b"tRNS", b"IDAT")  # beside the header, all that decides what they are
_OF_COLOUR = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")  # what says more comes first
_LONGEST_PROFILE = 16_000_000  # bytes unfolded; those of printers have 3 million. A longer one is ignored, as browsers do
_PIECE = 1 << 16  # bytes unfolded at once
_LONGEST_EXIF = 1_000_000
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of each colour type
# Adam7: first row, first column, step of rows, step of columns.
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


class Png:
    """A PNG's chunks. Of an animation the picture for viewers that know none: the first, nearly always."""

    format = "png"

    def __init__(self, data: bytes) -> None:
        """Raises ImageError: TRUNCATED_IMAGE, or NOT_AN_IMAGE for Apple's variety."""
        view, at = memoryview(data), len(SIGNATURE)
        self._kept: list[memoryview | bytes] = [SIGNATURE]
        camera, header = b"", b""
        colour: dict[bytes, bytes] = {}
        unfolded: set[bytes] = set()
        pixels_began = False
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
                pixels_began |= kind == b"IDAT"
            elif kind in _OF_COLOUR and not pixels_began:
                colour.setdefault(kind, data[start:end])
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
        self._header = header
        self._icc = _icc(colour, gray=not header[9] & 2)
        read = exif.of_bytes(camera)
        self.orientation = exif.orientation(read)
        self.focal_px = exif.focal_px(read, *self.size) if min(self.size) else None

    def read(self) -> tuple[pixels.RGB, str]:
        samples = self._interlaced() if self._header[12] else _decoded(self._kept, self.size)
        if samples.dtype.itemsize == 1:
            return pixels.from_array(samples, self._icc, self.orientation), ""
        samples = samples.reshape(*samples.shape[:2], -1)
        channels = samples.shape[2]
        deep = pixels.Deep(samples, 16, 1 if channels < 3 else 3, "" if channels % 2 else "straight")
        return pixels.from_deep(deep, self._icc, self.orientation), ""

    def _interlaced(self) -> pixels.Samples:
        """Decodes each Adam7 pass as its own picture: libpng prints a line for interlaced files; Pillow accepts damaged ones."""
        width, height = self.size
        if self._header[12] > 1 or not _sound(self._kept[1]):
            raise ValueError("IHDR: damaged")
        of_pixels = [bytes(part[4:8]) == b"IDAT" for part in self._kept]
        first = of_pixels.index(True) if any(of_pixels) else len(of_pixels)
        colours = self._kept[2:first]
        unfolded = _Decompressed([part for part, among in zip(self._kept, of_pixels, strict=True) if among])
        bits = self._header[8] * _SAMPLES.get(self._header[9], 1)
        whole = None
        for y, x, rows, columns in _PASSES:
            across, down = -(-(width - x) // columns), -(-(height - y) // rows)
            if across <= 0 or down <= 0:
                continue
            header = struct.pack(">2I", across, down) + self._header[8:12] + b"\0"
            rows_of_it = unfolded.pack(down * (1 + (across * bits + 7) // 8))
            samples = _decoded([SIGNATURE, *_chunk(b"IHDR", header), *colours, *_chunk(b"IDAT", rows_of_it)], (across, down))
            if whole is None:
                whole = np.empty((height, width, *samples.shape[2:]), samples.dtype)
            whole[y::rows, x::columns] = samples
        unfolded.check()
        assert whole is not None
        return whole


class _Decompressed:
    """The decompressed data of the IDAT chunks, a part at a time."""

    def __init__(self, chunks: Iterable[memoryview | bytes]) -> None:
        self._folded = iter(chunks)
        self._rest: memoryview | bytes = b""
        self._unfold = zlib.decompressobj()

    def pack(self, size: int) -> bytes:
        """The next bytes as a stream of their own. Raises ValueError where they are not there, zlib.error where damaged."""
        packer, parts = zlib.compressobj(0), []
        while size > 0:
            if self._unfold.eof or (not self._rest and not self._next()):
                raise ValueError("its last rows are missing")
            part = self._unfold.decompress(self._rest, min(size, _PIECE))
            self._rest = self._unfold.unconsumed_tail
            size -= len(part)
            parts.append(packer.compress(part))
        return b"".join([*parts, packer.flush()])

    def check(self) -> None:
        """Raises ValueError or zlib.error unless the stream has its end and its checksum."""
        while not self._unfold.eof:
            if not self._rest and not self._next():
                raise ValueError("its last rows are missing")
            self._unfold.decompress(self._rest, _PIECE)
            self._rest = self._unfold.unconsumed_tail

    def _next(self) -> bool:
        chunk = next(self._folded, None)
        if chunk is None:
            return False
        if not _sound(chunk):
            raise ValueError("IDAT: CRC error")
        self._rest = chunk[8:-4]
        return True


def _decoded(chunks: Iterable[memoryview | bytes], size: tuple[int, int]) -> pixels.Samples:
    import imagecodecs

    samples: pixels.Samples = imagecodecs.png_decode(b"".join([*chunks, b"\0\0\0\0IEND\xaeB`\x82"]))
    if samples.shape[:2] != size[::-1]:
        raise ValueError(f"has {samples.shape[1]} x {samples.shape[0]} pixels")
    return samples


def _sound(chunk: memoryview | bytes) -> bool:
    """Whether a chunk is what its checksum says."""
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _chunk(kind: bytes, body: bytes) -> tuple[bytes, ...]:
    return len(body).to_bytes(4, "big"), kind, body, zlib.crc32(body, zlib.crc32(kind)).to_bytes(4, "big")


def _icc(chunks: dict[bytes, bytes], *, gray: bool) -> bytes | None:
    """The profile of the samples; None for sRGB."""
    with suppress(struct.error):
        if b"cICP" in chunks:
            primaries, transfer, matrix, full = struct.unpack("4B", chunks[b"cICP"])
            if (matrix, full) == (0, 1):
                return colorimetry.of_code_points(primaries, transfer, gray=gray)
    if b"iCCP" in chunks and (profile := _profile(chunks[b"iCCP"])):
        return profile
    if b"sRGB" in chunks:
        return None
    with suppress(struct.error):
        (gamma,) = struct.unpack(">I", chunks.get(b"gAMA", b"\0\0\xb1\x8f"))
        where = tuple(part / 100_000 for part in struct.unpack(">8I", chunks[b"cHRM"])) if b"cHRM" in chunks else None
        return colorimetry.of_gamma(gamma / 100_000, where, gray=gray)
    return None


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
