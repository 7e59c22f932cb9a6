"""Files that are small and ask for much: each built from a few bytes, scaled to what a test can afford."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image


def encoded(mode: str, size: tuple[int, int], form: str, **options: Any) -> bytes:
    """A picture of one colour in a format."""
    file = BytesIO()
    Image.new(mode, size).save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# Adam7: first row and column, step of rows and columns.
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def png(size: tuple[int, int], bits: int, colour: int, *, before: bytes = b"", interlaced: bool = False) -> bytes:
    """A PNG of zeros. `colour` as in its header: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA. `before`: chunks."""
    width, height = size
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    parts = [(len(range(x, width, dx)), len(range(y, height, dy))) for y, x, dy, dx in PASSES] if interlaced else [size]
    rows = zlib.compress(b"".join(bytes(1 + (wide * bits * samples + 7) // 8) * high for wide, high in parts))
    palette = chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + head + palette + before + chunk(b"IDAT", rows) + chunk(b"IEND")


def many_chunks(count: int) -> bytes:
    return png((16, 16), 8, 2, before=chunk(b"teSt") * count)


def many_scans(count: int, size: tuple[int, int] = (64, 64)) -> bytes:
    """A progressive JPEG with `count` scans more than it needs."""
    data = encoded("RGB", size, "JPEG", progressive=True)
    starts = [found.start() for found in re.finditer(rb"\xff\xda", data)]
    first = next(n for n, at in enumerate(starts) if data[at + 4] == 1 and data[at + 7] > 0)  # of AC coefficients
    again = data[starts[first] : starts[first + 1]]
    return data[: starts[-1]] + again * count + data[starts[-1] :]


def jpeg_with_segments(count: int, length: int) -> bytes:
    """A JPEG with so many segments of EXIF, each of so many bytes, its length of two among them."""
    data = encoded("RGB", (64, 64), "JPEG")
    return (
        data[:2]
        + (b"\xff\xe1" + struct.pack(">H", length) + b"Exif\0\0".ljust(length - 2, b"\0")[: length - 2]) * count
        + data[2:]
    )


def webp_of_one_colour(size: tuple[int, int]) -> bytes:
    """A lossless WebP of some forty bytes, whatever its size."""
    data = bytearray(encoded("RGB", (8, 8), "WEBP", lossless=True))
    at = data.index(b"VP8L") + 9
    numbers = struct.unpack_from("<I", data, at)[0] & ~0xFFFFFFF
    struct.pack_into("<I", data, at, numbers | size[0] - 1 | size[1] - 1 << 14)
    return bytes(data)


def gif_with_blocks(count: int) -> bytes:
    """A GIF with a comment of `count` blocks before its picture."""
    data = encoded("P", (16, 16), "GIF")
    at = data.index(b",", 13 + 3 * (2 << (data[10] & 7)))
    return data[:at] + b"!\xfe" + b"\x01x" * count + b"\0" + data[at:]


def run_lengths(size: tuple[int, int]) -> bytes:
    """A BMP of run lengths."""
    width, height = size
    row = b"".join(bytes((min(255, width - x), 7)) for x in range(0, width, 255)) + b"\0\0"
    pixels, offset = row * height + b"\0\1", 14 + 40 + 1024
    head = struct.pack("<IHHI", offset + len(pixels), 0, 0, offset)
    return (
        b"BM" + head + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 0, 0, 256, 0) + bytes(1024) + pixels
    )


def tiff_with_strips(count: int) -> bytes:
    """A TIFF whose picture says that it has `count` strips."""
    tags = [(256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, count, 8)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", 8 + 4 * count) + bytes(4 * count) + struct.pack("<H", len(tags)) + entries + bytes(4)


def varieties(size: tuple[int, int], *only: str) -> dict[str, bytes]:
    """Every format in the modes that take different memory; `only` those, where names are given."""
    width, height = size
    upright = Image.Exif()
    upright[0x112] = 6

    def deep() -> bytes:
        file = BytesIO()
        Image.fromarray(np.zeros((height, width), np.uint16)).save(file, "TIFF", compression="tiff_lzw")
        return file.getvalue()

    made: dict[str, Callable[[], bytes]] = {
        **{f"png {bits} bits colour {colour}": partial(png, size, bits, colour) for bits, colour in PNGS},
        **{f"tiff {mode}": partial(encoded, mode, size, "TIFF", compression="tiff_lzw") for mode in TIFFS},
        **{f"png interlaced {bits} {colour}": partial(png, size, bits, colour, interlaced=True) for bits, colour in PNGS},
        "png transparent": partial(png, size, 8, 3, before=chunk(b"tRNS", bytes(9))),
        "jpeg": partial(encoded, "RGB", size, "JPEG"),
        "jpeg turned": partial(encoded, "RGB", size, "JPEG", exif=upright.tobytes()),
        "jpeg progressive": partial(encoded, "RGB", size, "JPEG", progressive=True, subsampling=0),
        "jpeg grey": partial(encoded, "L", size, "JPEG"),
        "jpeg cmyk": partial(encoded, "CMYK", size, "JPEG"),
        "jpeg cmyk progressive": partial(encoded, "CMYK", size, "JPEG", progressive=True),
        "webp lossless": partial(webp_of_one_colour, size),
        "webp": partial(encoded, "RGB", size, "WEBP", method=0),
        "webp alpha": partial(encoded, "RGBA", size, "WEBP", method=0),
        "gif": partial(encoded, "P", size, "GIF"),
        "gif transparent": partial(encoded, "P", size, "GIF", transparency=3),
        "bmp": partial(encoded, "RGB", size, "BMP"),
        "bmp run lengths": partial(run_lengths, size),
        "tiff 16 bits": deep,
        "tiff one bit": partial(encoded, "1", size, "TIFF", compression="group4"),
        "avif": partial(encoded, "RGB", size, "AVIF", speed=10),
        "avif alpha": partial(encoded, "RGBA", size, "AVIF", speed=10),
    }
    return {name: made[name]() for name in only or made}


PNGS = [(1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (1, 3), (8, 3), (8, 4), (16, 4), (8, 6), (16, 6)]
TIFFS = ["L", "P", "RGB", "RGBA", "CMYK", "LAB", "I", "F"]
