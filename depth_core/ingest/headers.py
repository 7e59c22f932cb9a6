"""What a file says before it is decoded: its size, the memory that decoding takes, and whether it is out of the ordinary.

Counts what costs time (scans, chunks, blocks, values) and refuses absurd numbers. Reads structure alone, in microseconds for an
ordinary photo (benchmarks/decode_limits.py). What does not belong here: how much memory there is (budget.py), pixels (decode.py).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from struct import unpack_from

from depth_core.errors import ErrorKind, ImageError

# Refused: no program writes so many, and each costs time before the first pixel.
MOST_SCANS = 1_000  # of a JPEG; ten are usual, the format's rules allow some hundred
MOST_BLOCKS = 200_000  # chunks, segments and blocks; 8 kB a chunk, as libpng writes, is 1.6 GB
MOST_VALUES = 1_000_000  # of one TIFF tag, strips and tiles among them

# Out of the ordinary: decoded in a process of its own.
_ODD_SCANS = 50
_ODD_SCANNED_PIXELS = 2_000_000_000  # pixels x scans
_ODD_BLOCKS = 20_000
_ODD_COMMENT_BLOCKS = 5_000  # of a GIF: Pillow's time grows with their square
_ODD_VALUES = 100_000
_ODD_METADATA = 8 << 20  # bytes that are no pixels
_ODD_PIXELS = 100_000_000
_ODD_BYTES = 1 << 30  # of memory
_ODD_RATIO = 200  # pixels to a byte of the file, where they are many
_MANY_PIXELS = 25_000_000
_ODD_RLE_BYTES = 4 << 20  # Pillow decodes run lengths in Python

_UNFOLDED_TEXT = 128 << 20  # more than Pillow lets compressed text become

UNKNOWN_BYTES_PER_PIXEL = 32


@dataclass(frozen=True, slots=True)
class Header:
    """What a file's structure says. All zero where it says nothing: then it is no image, or damaged."""

    form: str = ""  # as DecodedImage.format
    width: int = 0
    height: int = 0
    bytes_per_pixel: float = 0.0  # most memory that decoding takes, for each pixel; measured, see tests/ingest/test_headers.py
    extra_bytes: int = 0  # and what does not grow with the pixels
    odd: str = ""  # why it is out of the ordinary; "" when it is not

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def decode_bytes(self) -> int:
        """The most memory that decoding takes, in bytes, the result among them and the file itself not."""
        return int(self.pixels * self.bytes_per_pixel) + self.extra_bytes

    def prepare_bytes(self, network: tuple[int, int]) -> int:
        """The most memory that the way to the network's input takes: decoding, or resizing what was decoded to `network`."""
        long, short = max(network), min(network)
        # Rows of float32 as many as the network has, three times; of 64 of those the source's rows (inference/preprocessing.py).
        rows = 3 * 12 * max(max(self.width, self.height) * short, min(self.width, self.height) * long)
        strip = 12 * 64 * self.pixels // max(1, short)
        return max(self.decode_bytes, 7 * self.pixels + rows + min(strip, 12 * self.pixels))


class LargerError(Exception):
    """A decoder found a larger picture than the header told; it has not decoded it. `header`: what it found."""

    def __init__(self, header: Header) -> None:
        super().__init__("the picture is larger than its header says")
        self.header = header


def agree(header: Header, size: tuple[int, int]) -> None:
    """Raises LargerError when a decoder is about to make more pixels than were counted on."""
    if size[0] * size[1] > header.pixels:
        raise LargerError(
            Header(header.form, *size, UNKNOWN_BYTES_PER_PIXEL, header.extra_bytes, "its header contradicts itself")
        )


def inspect(data: bytes) -> Header:
    """What the structure of a file says, without decoding. Never slow: counting stops at the limits.

    Raises ImageError(TOO_MANY_PIXELS) where a count is absurd: such a file is made to keep a decoder busy.
    """
    look = next((look for starts, look in _LOOKS if starts(data)), None)
    if look is None:
        return Header()
    try:
        found = look(data)
    except (struct.error, IndexError):  # ends early: a decoder will say so; what it finds all the same, `agree` judges
        return Header()
    return found if found.odd else _judged(found, len(data))


def _judged(found: Header, size: int) -> Header:
    odd = ""
    if found.pixels > _ODD_PIXELS:
        odd = f"{found.pixels:,} pixels"
    elif found.decode_bytes > _ODD_BYTES:
        odd = f"{found.decode_bytes / 2**30:.1f} GiB to decode"
    elif found.pixels > _MANY_PIXELS and found.pixels > _ODD_RATIO * size:
        odd = f"{found.pixels:,} pixels in {size:,} bytes"
    if not odd:
        return found
    return Header(found.form, found.width, found.height, found.bytes_per_pixel, found.extra_bytes, odd)


def _odd_chunks(chunks: int, metadata: int) -> str:
    """Why a file of so many chunks, and so many bytes that are no pixels, is out of the ordinary; "" when it is not."""
    if chunks > _ODD_BLOCKS:
        return f"{chunks:,} chunks"
    return f"{metadata:,} bytes of metadata" if metadata > _ODD_METADATA else ""


def _absurd(what: str, most: int) -> ImageError:
    return ImageError(ErrorKind.TOO_MANY_PIXELS, f"a decompression bomb: more than {most:,} {what}")


# -- JPEG -----------------------------------------------------------------------------------------------------------------

_SCAN = re.compile(rb"\xff\xda")
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in pixels, 255 is followed by 0 or a restart
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)


def _jpeg(data: bytes) -> Header:
    width = height = components = 0
    progressive = foreign = False
    segments = 0
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            return Header()
        marker = data[at + 1]
        if marker in (0x00, 0xFF) or 0xD0 <= marker <= 0xD8:
            at += 1
            continue
        if marker == 0xD9:
            return Header()
        segments += 1
        if segments > MOST_BLOCKS:
            raise _absurd("segments before the pixels", MOST_BLOCKS)
        if marker == 0xDA:
            break
        if marker in _FRAMES:
            height, width, components = unpack_from(">HHB", data, at + 5)
            progressive = marker in _PROGRESSIVE
        elif marker == 0xE2 and data[at + 4 : at + 15] == b"ICC_PROFILE":
            foreign = True
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    scans = _scans(data, at) if progressive or data[at + 4] < components else 1
    odd = ""
    if scans > _ODD_SCANS or scans * width * height > _ODD_SCANNED_PIXELS:
        odd = f"{scans:,} scans"
    elif segments > _ODD_BLOCKS:
        odd = f"{segments:,} segments"
    # The result and a turned copy; else Pillow's 4 bytes a pixel, again in another colour space, and two copies of the result.
    plain = components in (1, 3) and not foreign and data[-2:] == b"\xff\xd9"
    coefficients = 2 * components if scans > 1 else 0
    return Header("jpeg", width, height, max(6.2, 3.1 + coefficients) if plain else max(18.2, 10.2 + coefficients), 0, odd)


def _scans(data: bytes, at: int) -> int:
    """How many scans a JPEG has, or a few more where that is not many. `at`: of the first."""
    most = len(_SCAN.findall(data, at))  # an upper bound, found fast: what stands in other segments counts too
    if most <= _ODD_SCANS:
        return most
    scans = 0
    while True:
        marker = data[at + 1]
        if marker == 0xD9:
            return scans
        if marker == 0xDA:
            scans += 1
            if scans > MOST_SCANS:
                raise _absurd("scans", MOST_SCANS)
        following = _MARKER.search(data, at + 2 + int.from_bytes(data[at + 2 : at + 4], "big"))
        if following is None or following.end() + 2 > len(data):
            return scans
        at = following.start()


# -- PNG ------------------------------------------------------------------------------------------------------------------


def _png(data: bytes) -> Header:
    width = height = chunks = metadata = packed = 0
    colours = set()
    transparent = deep = passes = False
    at, end = 8, len(data) - 8
    while at <= end:
        length, kind = unpack_from(">I4s", data, at)
        chunks += 1
        if chunks > MOST_BLOCKS:
            raise _absurd("chunks", MOST_BLOCKS)
        if kind == b"IDAT" or kind == b"fdAT":
            pass
        elif kind == b"IHDR":
            wide, high, bits, colour = unpack_from(">IIBB", data, at + 8)
            width, height = max(width, wide), max(height, high)
            colours.add(colour)
            deep |= bits > 8
            passes |= data[at + 20] != 0  # each a picture of its own until it is in its place
        elif kind == b"IEND":
            break
        else:
            metadata += length
            transparent |= kind == b"tRNS"
            if kind in (b"iCCP", b"zTXt", b"iTXt"):
                packed += length
        at += length + 12
    transparent |= bool(colours & {4, 6})
    odd = _odd_chunks(chunks, metadata)
    per_pixel = 27.0 if deep and passes else 18.0 if transparent else 16.2 if deep else 14.2
    return Header("png", width, height, per_pixel, min(1000 * packed, _UNFOLDED_TEXT), odd)


# -- GIF and BMP ----------------------------------------------------------------------------------------------------------


def _gif(data: bytes) -> Header:
    width, height, flags = unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    blocks = 0
    transparent = False
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
            transparent |= data[at + 1] == 0xF9
            at += 2
            while data[at]:
                at += 1 + data[at]
                blocks += 1
                if blocks > MOST_BLOCKS:
                    break
            at += 1
        if blocks > MOST_BLOCKS:
            raise _absurd("blocks before the pixels", MOST_BLOCKS)
    odd = f"{blocks:,} blocks before the pixels" if blocks > _ODD_COMMENT_BLOCKS else ""
    return Header("gif", width, height, 18.0 if transparent else 14.2, 0, odd)


def _bmp(data: bytes) -> Header:
    size = unpack_from("<I", data, 14)[0]
    compression = 0
    if size == 12:
        width, height, _, bits = unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression = unpack_from("<iiHHI", data, 18)
    runs = compression in (1, 2)
    odd = f"run lengths of {len(data):,} bytes" if runs and len(data) > _ODD_RLE_BYTES else ""
    return Header("bmp", abs(width), abs(height), 18.0 if bits in (16, 32) else 14.2, 0, odd)


# -- TIFF -----------------------------------------------------------------------------------------------------------------

_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_ONLY_BYTES = (1, 2, 6, 7)


def _tiff(data: bytes) -> Header:
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in (data[2], data[3])
    counter, entry, first = ("Q", f"{order}HHQ", 8) if big else ("H", f"{order}HHI", 4)
    at = unpack_from(f"{order}{'Q' if big else 'I'}", data, first)[0]
    entries = unpack_from(f"{order}{counter}", data, at)[0]
    if entries > MOST_BLOCKS:
        raise _absurd("tags", MOST_BLOCKS)
    at += struct.calcsize(counter)
    tags: dict[int, int] = {}
    values = 0
    for _ in range(entries):
        tag, kind, count = unpack_from(entry, data, at)
        if kind not in _ONLY_BYTES and count > MOST_VALUES:
            raise _absurd(f"values of the tag {tag}", MOST_VALUES)
        values = max(values, count if kind not in _ONLY_BYTES else 0)
        tags[tag] = max(tags.get(tag, 0), _tiff_value(data, order, big, kind, count, at + struct.calcsize(entry)))
        at += 20 if big else 12
    width, height, bits, samples = tags.get(256, 0), tags.get(257, 0), tags.get(258, 1), tags.get(277, 1)
    sample = max(1, bits) * max(1, samples) / 8
    rows = tags.get(323, 0) or min(height, tags.get(278, 0) or height)
    unit = int((tags.get(322, 0) or width) * rows * max(sample, 4))  # one tile or strip, as decoded
    if bits > 16 or tags.get(339, 1) == 3:
        per_pixel = 31.0 * max(1, samples)
    elif bits == 16:
        per_pixel = 16.2 if samples == 1 else 18.0 + 2 * samples
    else:
        per_pixel = 18.0 if samples > 3 or tags.get(262) == 8 or 338 in tags else 14.2
    odd = f"a tag of {values:,} values" if values > _ODD_VALUES else ""
    return Header("tiff", width, height, per_pixel, max(0, unit - int(6 * width * height)) + 100 * values, odd)


def _tiff_value(data: bytes, order: str, big: bool, kind: int, count: int, at: int) -> int:
    """The largest of the first few numbers of a tag; 0 of other kinds of values."""
    if kind not in _NUMBERS or not count:
        return 0
    if count * _TIFF_SIZES[kind] > (8 if big else 4):
        at = unpack_from(f"{order}{'Q' if big else 'I'}", data, at)[0]
    return int(max(unpack_from(f"{order}{min(count, 8)}{_NUMBERS[kind]}", data, at)))


# -- WebP and AVIF --------------------------------------------------------------------------------------------------------


def _webp(data: bytes) -> Header:
    width = height = chunks = metadata = 0
    transparent = False
    at, end = 12, len(data) - 8
    while at <= end:
        kind, length = unpack_from("<4sI", data, at)
        chunks += 1
        if chunks > MOST_BLOCKS:
            raise _absurd("chunks", MOST_BLOCKS)
        wide = high = 0
        if kind == b"VP8X":
            wide, high = (int.from_bytes(data[at + n : at + n + 3], "little") + 1 for n in (12, 15))
            transparent |= bool(data[at + 8] & 0x10)
        elif kind == b"VP8L":
            numbers = unpack_from("<I", data, at + 9)[0]
            wide, high = (numbers & 0x3FFF) + 1, (numbers >> 14 & 0x3FFF) + 1
            transparent |= bool(numbers >> 28 & 1)
        elif kind == b"VP8 ":
            wide, high = (side & 0x3FFF for side in unpack_from("<HH", data, at + 14))
        elif kind == b"ALPH":
            transparent = True
        elif kind != b"ANMF":
            metadata += length
        width, height = max(width, wide), max(height, high)
        at += 8 + length + (length & 1)
    odd = _odd_chunks(chunks, metadata)
    return Header("webp", width, height, 27.0 if transparent else 23.0, 0, odd)


_BOX_LIMIT = 1 << 20  # boxes that say sizes stand at the beginning
_ISPE = re.compile(rb"ispe\0\0\0\0(....)(....)", re.DOTALL)
_SAMPLE_ENTRY = re.compile(rb"stsd.{12}av01.{24}(..)(..)", re.DOTALL)  # of sequences
_AV1C = re.compile(rb"av1C..(.)", re.DOTALL)


def _avif(data: bytes) -> Header:
    sizes = [
        (int.from_bytes(wide, "big"), int.from_bytes(high, "big"))
        for shape in (_ISPE, _SAMPLE_ENTRY)
        for wide, high in shape.findall(data, 0, _BOX_LIMIT)
    ]
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    deep = any(flags[0] & 0x40 for flags in _AV1C.findall(data, 0, _BOX_LIMIT))
    return Header("avif", width, height, 34.0 if deep else 24.0)


def is_avif(data: bytes) -> bool:
    """By any of its brands: the first may be that of HEIF's family."""
    brands = data[8 : min(128, int.from_bytes(data[:4], "big"))]
    return data[4:8] == b"ftyp" and (b"avif" in brands or b"avis" in brands)


_LOOKS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes], Header]], ...] = (
    (lambda data: data.startswith(b"\xff\xd8\xff"), _jpeg),
    (lambda data: data.startswith(b"\x89PNG\r\n\x1a\n"), _png),
    (lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP", _webp),
    (lambda data: data.startswith((b"GIF87a", b"GIF89a")), _gif),
    (lambda data: data.startswith((b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+")), _tiff),
    (is_avif, _avif),
    (lambda data: data.startswith(b"BM"), _bmp),
)
