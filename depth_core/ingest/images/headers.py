"""What a file says before it is decoded: its size, the memory that decoding takes, and whether it is out of the ordinary.

Counts what costs time (scans, chunks, blocks, values) and refuses absurd numbers. Reads structure alone, in microseconds for an
ordinary photo (benchmarks/decode_limits.py). What does not belong here: how much memory there
is (memory_budget.py), pixels (decode.py).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from struct import unpack_from

from depth_core.errors import ErrorKind, ImageError

# Refused: no program writes so many, and each costs time before the first pixel.
MOST_SCANS = 1_000  # of a JPEG; ten are usual, the format's rules allow some hundred
MOST_BLOCKS = 200_000  # chunks, segments and blocks; 8 kB a chunk, as libpng writes, is 1.6 GB
MOST_VALUES = 1_000_000  # of one TIFF tag, strips and tiles among them

# Out of the ordinary: decoded in a process of its own.
_ODD_SCANS = 50
_ODD_SCANNED_PIXELS = 3_000_000_000  # pixels x scans
_ODD_BLOCKS = 20_000
_ODD_COMMENT_BLOCKS = 5_000  # of a GIF: Pillow's time grows with their square
_ODD_VALUES = 100_000
_ODD_METADATA = 8 << 20  # bytes that are no pixels
_ODD_BYTES = 4 << 30  # of memory: all that may be had on a machine of 8 GiB
_ODD_RATIO = 200  # pixels to a byte of the file, where they are many
_MANY_PIXELS = 25_000_000
_ODD_RLE_BYTES = 4 << 20  # Pillow decodes run lengths in Python

# Memory, measured: tests/ingest/images/test_headers.py fails where a decoder takes more, and where it takes far less.
_UNFOLDED_PROFILE = 32 << 20  # twice as much as png.py takes of a compressed one
_PIECE = 1 << 18  # pixels that are converted at once (pixels.py)
_READ_AT_ONCE = 16 << 20  # bytes of a TIFF's file, held twice (tiff.py)

UNKNOWN_BYTES_PER_PIXEL = 32
_MEBI = 1 << 20


@dataclass(frozen=True, slots=True)
class Header:
    """What a file's structure says. All zero where it says nothing: then it is no image, or damaged."""

    form: str = ""  # as DecodedImage.format
    width: int = 0
    height: int = 0
    bytes_per_pixel: float = 0.0  # most memory that decoding takes, for each pixel
    extra_bytes: int = 0  # and what does not grow with the pixels
    odd: str = ""  # why it is out of the ordinary; "" when it is not
    second_try: float = 0.0  # for each pixel, where the first way to read it fails and another decoder is tried; 0: none

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def decode_bytes(self) -> int:
        """The most memory that decoding takes, in bytes, the result among them and the file itself not."""
        return int(self.pixels * self.bytes_per_pixel) + self.extra_bytes

    @property
    def second_try_bytes(self) -> int:
        """As `decode_bytes`, where a second decoder may be tried."""
        return max(self.decode_bytes, int(self.pixels * self.second_try) + self.extra_bytes)

    def prepare_bytes(self, network: tuple[int, int]) -> int:
        """The most memory that the way to the network's input takes: decoding, or resizing what was decoded to `network`."""
        long, short = max(network), min(network)
        # Rows of float32 as many as the network has; the source's rows of 64 of those (inference/preprocessing.py).
        rows = 12 * max(max(self.width, self.height) * short, min(self.width, self.height) * long)
        strip = min(12 * 64 * self.pixels // max(1, short), 12 * self.pixels)
        resizing = rows + max(rows, strip) + 48 * long * short
        # The allocator keeps small blocks that lie between others.
        return max(self.decode_bytes, 3 * self.pixels + resizing + min(rows, 64 << 20))


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
    if found.decode_bytes > _ODD_BYTES:
        odd = f"{found.decode_bytes / 2**30:.1f} GiB to decode"
    elif found.pixels > _MANY_PIXELS and found.pixels > _ODD_RATIO * size:
        odd = f"{found.pixels:,} pixels in {size:,} bytes"
    return replace(found, odd=odd) if odd else found


def _odd_chunks(chunks: int, metadata: int, name: str = "chunks") -> str:
    """Why a file of so many chunks, and so many bytes that are no pixels, is out of the ordinary; "" when it is not."""
    if chunks > _ODD_BLOCKS:
        return f"{chunks:,} {name}"
    return f"{metadata:,} bytes of metadata" if metadata > _ODD_METADATA else ""


def _absurd(what: str, most: int) -> ImageError:
    return ImageError(ErrorKind.TOO_MANY_PIXELS, f"a decompression bomb: more than {most:,} {what}")


# -- JPEG -----------------------------------------------------------------------------------------------------------------

_SCAN = re.compile(rb"\xff\xda")
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in pixels, 255 is followed by 0 or a restart
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)


def _jpeg(data: bytes) -> Header:
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
                raise _absurd("stray bytes before the pixels", MOST_BLOCKS)
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
            blocks = [(data[at + n] >> 4) * (data[at + n] & 15) for n in range(11, 11 + 3 * components, 3)]
            coefficients = 2.0 * sum(blocks) / max(1, *blocks, 1)
        elif marker == 0xE2 and data[at + 4 : at + 15] == b"ICC_PROFILE":
            plain = False
        elif marker == 0xE1 and data[at + 4 : at + 8] == b"Exif":
            plain = plain and not _may_be_turned(data[at + 10 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    scans = _scans(data, at) if progressive or data[at + 4] < components else 1
    odd = _odd_chunks(segments + strays, at, "segments and stray bytes")
    if scans > _ODD_SCANS or scans * width * height > _ODD_SCANNED_PIXELS:
        odd = f"{scans:,} scans"
    stored = coefficients if scans > 1 else 0.0
    inks = components == 4
    # The result, and a second one where it is turned or has a profile of its own; or Pillow's 4 bytes, then both.
    first = 4.1 + max(3.3, stored) if inks else max(3.2 if plain else 6.5, 3.2 + stored)
    kept = 0 if plain else min(int(stored * width * height), 16 * _MEBI)  # by the allocator, of small pictures
    extra = 8 * _MEBI + kept + (0 if data.endswith(b"\xff\xd9") else len(data))
    return Header("jpeg", width, height, first, extra, odd, second_try=4.1 + max(3.3, 4.1 + stored))


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
    except struct.error:
        return True
    return False


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


_PNG_SAMPLES = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # of each colour type, as decoded


def _png(data: bytes) -> Header:
    width = height = chunks = metadata = profile = samples = 0
    transparent = interlaced = foreign = False
    at, end = 8, len(data) - 8
    while at <= end:
        length, kind = unpack_from(">I4s", data, at)
        chunks += 1
        if chunks > MOST_BLOCKS:
            raise _absurd("chunks", MOST_BLOCKS)
        if kind == b"IDAT" or kind == b"fdAT":
            pass
        elif kind == b"IHDR":
            wide, high, bits, colour, _, _, passes = unpack_from(">IIBBBBB", data, at + 8)
            width, height = max(width, wide), max(height, high)
            samples = max(samples, _PNG_SAMPLES.get(colour, 4) * (2 if bits > 8 else 1))
            interlaced |= bool(passes)
        elif kind == b"IEND":
            break
        else:
            metadata += length
            transparent |= kind == b"tRNS"
            foreign |= kind in (b"iCCP", b"gAMA", b"cHRM", b"cICP", b"eXIf", b"tEXt", b"zTXt")  # texts may be EXIF
            if kind == b"iCCP":
                profile += length
        at += length + 12
    if transparent:
        samples += 1 if samples != 6 else 2
    # A copy of the file; its samples, which are the result where nothing is to be done to them.
    extra = len(data) + min(1000 * profile, _UNFOLDED_PROFILE) + 8 * _MEBI
    per_pixel = samples + (0.2 if samples == 3 and not foreign else 3.2)
    if interlaced:  # the last pass, half of the picture, is packed anew, and decoded beside the others
        per_pixel = max(samples + 3.2, 4.4 * samples)
    return Header("png", width, height, per_pixel, extra, _odd_chunks(chunks, metadata))


# -- GIF and BMP ----------------------------------------------------------------------------------------------------------


def _gif(data: bytes) -> Header:
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
            raise _absurd("blocks before the pixels", MOST_BLOCKS)
    odd = f"{blocks:,} blocks before the pixels" if blocks > _ODD_COMMENT_BLOCKS else ""
    return Header("gif", width, height, 5.2, 6 * _MEBI, odd)


def _bmp(data: bytes) -> Header:
    size = unpack_from("<I", data, 14)[0]
    compression = 0
    if size == 12:
        width, height, _, bits = unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression = unpack_from("<iiHHI", data, 18)
    runs = compression in (1, 2)
    odd = f"run lengths of {len(data):,} bytes" if runs and len(data) > _ODD_RLE_BYTES else ""
    return Header("bmp", abs(width), abs(height), 7.2 if bits > 8 or runs else 4.2, 6 * _MEBI, odd)


# -- TIFF -----------------------------------------------------------------------------------------------------------------

_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_ONLY_BYTES = (1, 2, 6, 7)
_PLAIN_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}  # the others may be bombs within their parts


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
    width, height, bits, samples = tags.get(256, 0), tags.get(257, 0), max(1, tags.get(258, 1)), max(1, tags.get(277, 1))
    compression = tags.get(259, 1)
    stored = samples * next((size for size in (1, 2, 4, 8) if bits <= 8 * size), 16)
    rows = tags.get(323, 0) or min(height, tags.get(278, 0) or height)
    unit = (tags.get(322, 0) or width) * rows * stored  # one tile or strip, as decoded
    unit *= 1 if compression in _PLAIN_COMPRESSIONS else 8  # JPEG 2000 has 4 bytes for each of its samples
    pieces = 2 * min(len(data), _READ_AT_ONCE)
    if compression == 1:  # read to where they belong
        unit, pieces = unit if rows < height else 0, 0
    stretched = bits > 16 or tags.get(339, 1) != 1  # in floats, a piece at a time
    by_tifffile = int(stored * width * height) + max(int(3.2 * width * height) + 30 * _MEBI * stretched, 2 * unit) + pieces
    pillow = 1 if samples == 1 else 4
    twice = pillow if tags.get(274, 1) != 1 else 0
    by_pillow = int((pillow + twice) * width * height) + max(int((3.2 - twice) * width * height), unit)
    odd_planes = tags.get(284) == 2 or tags.get(262) == 3 or samples == 5
    most = by_tifffile if bits > 8 or stretched else max(by_pillow, by_tifffile) if odd_planes else by_pillow
    odd = f"a tag of {values:,} values" if values > _ODD_VALUES else ""
    if compression not in _PLAIN_COMPRESSIONS:
        odd = odd or f"a TIFF of compression {compression}"
    return Header("tiff", width, height, most / max(1, width * height), 100 * values + 10 * _MEBI, odd)


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
    transparent = lossless = animated = foreign = False
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
    odd = _odd_chunks(chunks, metadata)
    # The result, libwebp's own copy of it where it is lossless, and a second one where something is to be done to the first.
    per_pixel = (8.2 if transparent else 7.2) if lossless else 7.2 if transparent else 6.3 if foreign else 3.2
    if animated:  # by Pillow: the canvas, the frame, and both again
        return Header("webp", width, height, 16.3, 6 * _MEBI + len(data), odd)
    return Header("webp", width, height, per_pixel, (18 if transparent else 6) * _MEBI, odd)


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
    coded = [flags[0] for flags in _AV1C.findall(data, 0, _BOX_LIMIT)]
    deep = any(flags & 0x40 for flags in coded)
    whole = any(not flags & 0x1C for flags in coded)  # colours as many as lightness
    per_pixel = (14.0 if deep else 11.4 if whole else 9.8) + (3.0 if deep else 2.2) * (b"auxiliary:alpha" in data[:_BOX_LIMIT])
    return Header("avif", width, height, per_pixel, 14 * _MEBI)


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
