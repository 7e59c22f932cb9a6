"""Some hundred files of every format, depth, layout, colour and transparency, decoded as another reader, ImageMagick, shows them.

Where what we show differs on purpose (the span of floats and signed samples), the rule stands here in numpy.
"""

from __future__ import annotations

import itertools
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image

from depth_core.errors import ImageError
from depth_core.ingest.images.decode import decode
from depth_core.ingest.images.exif import TURNS
from depth_core.settings import Settings

WIDTH, HEIGHT = 61, 47


def _is_image_magick(program: str) -> bool:
    """Some systems have another program under one of its names."""
    return "ImageMagick" in subprocess.run([program, "-version"], capture_output=True, text=True).stdout


MAGICK = next((found for found in map(shutil.which, ("magick", "convert")) if found and _is_image_magick(found)), None)

Array = np.ndarray[Any, Any]


def _colours() -> Array:
    """uint16, height x width x 3: smooth, with edges, no channel or corner like another."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] / np.array([HEIGHT - 1, WIDTH - 1])[:, None, None]
    rgb = np.stack([x, y, (x + 1 - y) / 2], axis=2)
    rgb[8:16, 40:52] = (1, 0.25, 0)
    rgb[30:40, 5:20] = (0, 0.5, 1)
    return np.uint16(rgb * 65535 + 0.5)


RGB = _colours()
GRAY = RGB[..., 2:]
OPAQUE = np.uint16(np.abs(RGB[..., :1].astype(int) - RGB[..., 1:2]))  # transparent along a diagonal


@dataclass
class File:
    name: str
    data: bytes
    shown: Array | None = None  # uint8, where the rule is ours; else ImageMagick says
    within: int = 2


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def eight(samples: Array) -> Array:
    return np.uint8(samples >> 8)


def packed(samples: Array, bits: int) -> Array:
    """Rows of whole bytes, samples of so many bits side by side."""
    flat = np.ascontiguousarray(samples.reshape(len(samples), -1).astype(">u2"))
    apart = np.unpackbits(flat.view(np.uint8).reshape(*flat.shape, 2), axis=2)[..., 16 - bits :]
    return np.packbits(apart.reshape(len(samples), -1), axis=1)


# -- PNG ----------------------------------------------------------------------------------------------------------------

# Adam7: first row, first column, step of rows, step of columns.
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def png(samples: Array, depth: int, colour: int, *extra: tuple[bytes, bytes], interlaced: bool = False) -> bytes:
    def rows(part: Array) -> bytes:
        return b"".join(b"\0" + row.tobytes() for row in packed(part, depth))

    parts = [samples[y::dy, x::dx] for y, x, dy, dx in PASSES] if interlaced else [samples]
    pixels = b"".join(rows(part) for part in parts if part.size)
    header = struct.pack(">2I5B", WIDTH, HEIGHT, depth, colour, 0, 0, interlaced)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def pngs() -> Iterator[File]:
    for interlaced in (False, True):
        suffix = " interlaced" if interlaced else ""
        for depth in (1, 2, 4, 8, 16):
            gray = GRAY >> (16 - depth)
            yield File(f"gray {depth}{suffix}", png(gray, depth, 0, interlaced=interlaced))
            hole = (b"tRNS", struct.pack(">H", int(gray[20, 30, 0])))
            yield File(f"gray {depth} with a transparent level{suffix}", png(gray, depth, 0, hole, interlaced=interlaced))
            if depth < 16:
                palette = eight(RGB.reshape(-1, 3)[:: WIDTH * HEIGHT // 2**depth][: 2**depth])
                holes = (b"tRNS", bytes(range(0, 2**depth * 255 // 256, max(1, 255 // 2**depth)))[: 2**depth])
                for extra in ((), (holes,)):
                    name = f"palette {depth}{' with transparency' * len(extra)}{suffix}"
                    yield File(name, png(gray, depth, 3, (b"PLTE", palette.tobytes()), *extra, interlaced=interlaced))
        for depth in (8, 16):
            rgb, gray, opaque = RGB >> (16 - depth), GRAY >> (16 - depth), OPAQUE >> (16 - depth)
            yield File(f"RGB {depth}{suffix}", png(rgb, depth, 2, interlaced=interlaced))
            hole = (b"tRNS", struct.pack(">3H", *map(int, rgb[10, 45])))
            yield File(f"RGB {depth} with a transparent colour{suffix}", png(rgb, depth, 2, hole, interlaced=interlaced))
            yield File(f"gray and alpha {depth}{suffix}", png(np.dstack([gray, opaque]), depth, 4, interlaced=interlaced))
            yield File(f"RGBA {depth}{suffix}", png(np.dstack([rgb, opaque]), depth, 6, interlaced=interlaced))
    frames = [Image.fromarray(eight(RGB)), Image.new("RGB", (WIDTH, HEIGHT), "red")]
    yield File("animated", saved(frames[0], "PNG", save_all=True, append_images=frames[1:]))


# -- TIFF ---------------------------------------------------------------------------------------------------------------

LAYOUTS: tuple[dict[str, Any], ...] = (
    {"rowsperstrip": HEIGHT},
    {"rowsperstrip": 5, "compression": "lzw", "predictor": True},
    {"tile": (16, 32), "compression": "zlib", "byteorder": ">"},
    {"planarconfig": "separate", "rowsperstrip": 7, "byteorder": ">"},
    {"planarconfig": "separate", "tile": (32, 16), "compression": "packbits"},
    {"rowsperstrip": 9, "bigtiff": True, "compression": "zlib", "byteorder": ">"},
)


def tiff(samples: Array, **options: Any) -> bytes:
    if samples.shape[2] == 1:
        samples, options["planarconfig"] = samples[..., 0], None
    elif options.get("planarconfig") == "separate":
        samples = np.moveaxis(samples, 2, 0)
    if samples.dtype == bool:
        options.pop("predictor", None)
    buffer = BytesIO()
    bigtiff = options.pop("bigtiff", False)
    byteorder = options.pop("byteorder", "<")
    with tifffile.TiffWriter(buffer, bigtiff=bigtiff, byteorder=byteorder) as file:
        file.write(np.ascontiguousarray(samples), metadata=None, **options)
    return buffer.getvalue()


def packed_tiff(samples: Array, bits: int, photometric: int, *, fill_order: int = 1, palette: Array | None = None) -> bytes:
    """A TIFF by hand: tifffile writes no samples of 2 or 12 bits."""
    channels = samples.shape[2]
    body = samples.astype("<u2").tobytes() if bits == 16 else packed(samples, bits).tobytes()
    if fill_order == 2:
        body = bytes(int(f"{byte:08b}"[::-1], 2) for byte in body)
    where = 8 + len(body)
    table = b"" if palette is None else palette.astype("<u2").tobytes()
    tags = [(256, 4, 1, WIDTH), (257, 4, 1, HEIGHT), (258, 3, channels, bits if channels == 1 else where), (259, 3, 1, 1)]
    tags += [(262, 3, 1, photometric), (266, 3, 1, fill_order), (273, 4, 1, 8), (277, 3, 1, channels), (278, 4, 1, HEIGHT)]
    tags += [(279, 4, 1, len(body))] + ([(320, 3, len(table) // 2, where + 2 * channels)] if table else [])
    body += struct.pack(f"<{channels}H", *[bits] * channels) + table
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(body))
        + body
        + struct.pack("<H", len(tags))
        + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        + bytes(4)
    )


def packed_tiffs() -> Iterator[File]:
    for bits in (1, 2, 4, 8, 10, 12, 14, 16):
        levels = np.broadcast_to(np.uint8(np.round((GRAY >> (16 - bits)) * 255.0 / (2**bits - 1))), RGB.shape)
        for white_is_zero, fill_order in itertools.product((False, True), (1, 2)):
            data = packed_tiff(GRAY >> (16 - bits), bits, not white_is_zero, fill_order=fill_order)
            yield File(f"{bits} bits {white_is_zero=} {fill_order=}", data, 255 - levels if white_is_zero else levels, within=1)
        levels = np.uint8(np.round((RGB >> (16 - bits)) * 255.0 / (2**bits - 1)))
        yield File(f"RGB of {bits} bits", packed_tiff(RGB >> (16 - bits), bits, 2), levels, within=1)
        if bits <= 8:
            table = np.linspace([0, 65535, 9], [65535, 0, 50000], 2**bits).astype(np.uint16)
            data = packed_tiff(GRAY >> (16 - bits), bits, 3, palette=table.T)
            yield File(f"a palette of {bits} bits", data, eight(table)[GRAY[..., 0] >> (16 - bits)], within=1)


def over_white(colours: Array, opaque: Array) -> Array:
    share = opaque / 65535
    return np.uint8(np.round(colours / 65535 * share * 255 + (1 - share) * 255))


def tiffs() -> Iterator[File]:
    for (n, layout), (kind, samples) in itertools.product(enumerate(LAYOUTS), (("minisblack", GRAY), ("rgb", RGB))):
        for dtype in (np.uint8, np.uint16):
            shift = 16 - 8 * np.dtype(dtype).itemsize
            pixels, opaque = (samples >> shift).astype(dtype), (OPAQUE >> shift).astype(dtype)
            name = f"{kind} {pixels.dtype} layout {n}"
            yield File(name, tiff(pixels, photometric=kind, **layout))
            for alpha in ("unassalpha", "assocalpha"):
                colours = (
                    pixels if alpha == "unassalpha" else (samples.astype(np.uint64) * OPAQUE // 65535 >> shift).astype(dtype)
                )
                data = tiff(np.concatenate([colours, opaque], 2), photometric=kind, extrasamples=[alpha], **layout)
                yield File(f"{name} {alpha}", data, np.broadcast_to(over_white(samples, OPAQUE), RGB.shape), within=3)
            data = tiff(np.concatenate([pixels, opaque], 2), photometric=kind, extrasamples=["unspecified"], **layout)
            yield File(f"{name} and something else", data, np.broadcast_to(eight(samples), RGB.shape), within=1)
        unit = samples / 65535
        for dtype in (np.float16, np.float32, np.float64):
            if dtype is np.float16 and layout.get("predictor"):
                continue
            deep = {"predictor": None} if layout.get("predictor") else {}
            data = tiff(unit.astype(dtype), photometric=kind, **layout | deep)
            yield File(
                f"{kind} {np.dtype(dtype)} layout {n}", data, np.broadcast_to(np.uint8(unit * 255 + 0.5), RGB.shape), within=1
            )
            data = tiff((unit * 900 - 400).astype(dtype), photometric=kind, **layout | deep)
            yield File(
                f"{kind} wide {np.dtype(dtype)} {n}", data, np.broadcast_to(np.uint8(unit * 255 + 0.5), RGB.shape), within=1
            )
        spread = np.broadcast_to(np.uint8((unit - unit.min()) / np.ptp(unit) * 255 + 0.5), RGB.shape)
        for dtype in (np.int8, np.int16, np.int32, np.uint32):
            ends = np.iinfo(dtype)
            data = tiff(
                (unit * (ends.max - ends.min) + ends.min).round().clip(ends.min, ends.max).astype(dtype),
                photometric=kind,
                **layout,
            )
            yield File(f"{kind} {np.dtype(dtype)} layout {n}", data, spread, within=2)
    for n, layout in enumerate(LAYOUTS):
        for dtype in (np.uint8, np.uint16):
            pixels = (GRAY >> (16 - 8 * np.dtype(dtype).itemsize)).astype(dtype)
            yield File(f"white is zero {pixels.dtype} layout {n}", tiff(pixels, photometric="miniswhite", **layout))
            inks = np.dstack([RGB, GRAY // 3]) >> (16 - 8 * np.dtype(dtype).itemsize)
            yield File(f"CMYK {pixels.dtype} layout {n}", tiff(inks.astype(dtype), photometric="separated", **layout), within=4)
            colours = 2 ** (8 * np.dtype(dtype).itemsize)
            table = np.stack([np.linspace(0, 65535, colours), np.linspace(65535, 0, colours), np.linspace(9, 5e4, colours)])
            data = tiff(pixels, photometric="palette", colormap=table.astype(np.uint16), **layout | {"predictor": None})
            yield File(f"palette {pixels.dtype} layout {n}", data)
        unit = GRAY / 65535
        data = tiff(unit.astype(np.float32), photometric="miniswhite", **layout | {"predictor": None})
        yield File(
            f"white is zero float32 layout {n}", data, np.broadcast_to(255 - np.uint8(unit * 255 + 0.5), RGB.shape), within=1
        )
        for kind in ("minisblack", "miniswhite"):
            if "tile" not in layout:
                yield File(f"{kind} bilevel layout {n}", tiff(GRAY > 30000, photometric=kind, **layout | {"compression": None}))
    for compression in ("jpeg", "zstd", "lzma", "deflate"):
        yield File(f"RGB {compression}", tiff(eight(RGB), photometric="rgb", rowsperstrip=16, compression=compression), within=4)
    for turn in range(1, 9):
        for dtype in (np.uint8, np.uint16):
            samples = (RGB >> (16 - 8 * np.dtype(dtype).itemsize)).astype(dtype)
            yield File(
                f"{samples.dtype} orientation {turn}", tiff(samples, photometric="rgb", extratags=[(274, 3, 1, turn, True)])
            )
    buffer = BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(eight(RGB), photometric="rgb", subifds=1)
        file.write(eight(RGB)[::2, ::2], photometric="rgb", subfiletype=1)
        file.write(eight(RGB)[::-1], photometric="rgb")
    yield File("of several pages, with a thumbnail", buffer.getvalue())
    for options in ({"compression": "group4"}, {"compression": "group3"}, {"compression": "tiff_ccitt"}):
        yield File(
            f"a fax, {options['compression']}", saved(Image.fromarray(eight(GRAY[..., 0])).convert("1"), "TIFF", **options)
        )


# -- the others ---------------------------------------------------------------------------------------------------------


def jpegs() -> Iterator[File]:
    picture = Image.fromarray(eight(RGB))
    for progressive, subsampling in itertools.product((False, True), ("4:4:4", "4:2:2", "4:2:0")):
        options = {"quality": 90, "progressive": progressive, "subsampling": subsampling}
        yield File(f"{options}", saved(picture, "JPEG", **options))
        yield File(f"gray {options}", saved(picture.convert("L"), "JPEG", quality=90, progressive=progressive))
        yield File(f"CMYK {options}", saved(picture.convert("CMYK"), "JPEG", quality=90, progressive=progressive))
    yield File("restarts", saved(picture, "JPEG", restart_marker_blocks=2))
    yield File("RGB kept", saved(picture, "JPEG", keep_rgb=True))
    yield File("optimized", saved(picture, "JPEG", optimize=True))
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = turn
        yield File(f"orientation {turn}", saved(picture, "JPEG", exif=exif))


def bmp(bits: int, body: bytes, *, palette: bytes = b"", compression: int = 0, masks: bytes = b"", height: int = HEIGHT) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, compression, len(body), 0, 0, len(palette) // 4, 0)
    start = 14 + len(header) + len(masks) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + masks + palette + body


def bmp_rows(rows: Array) -> bytes:
    return b"".join(row.tobytes() + bytes(-row.nbytes % 4) for row in rows)


def bmps() -> Iterator[File]:
    bgr = eight(RGB)[..., ::-1]
    yield File("24 bits", bmp(24, bmp_rows(bgr[::-1].reshape(HEIGHT, -1))))
    yield File("24 bits from the top", bmp(24, bmp_rows(bgr.reshape(HEIGHT, -1)), height=-HEIGHT))
    padded = np.dstack([bgr, np.zeros((HEIGHT, WIDTH, 1), np.uint8)])
    yield File("32 bits", bmp(32, bmp_rows(padded[::-1].reshape(HEIGHT, -1))))
    r, g, b = np.moveaxis(RGB, 2, 0)
    for name, packed, masks in (
        ("16 bits, 5-5-5", r >> 11 << 10 | g >> 11 << 5 | b >> 11, b""),
        ("16 bits, 5-6-5", r >> 11 << 11 | g >> 10 << 5 | b >> 11, struct.pack("<3I", 0xF800, 0x7E0, 0x1F)),
    ):
        yield File(name, bmp(16, bmp_rows(packed[::-1].astype("<u2")), compression=3 if masks else 0, masks=masks), within=9)
    for bits in (1, 4, 8):
        levels = (GRAY[..., 0] >> (16 - bits)).astype(np.uint8)
        palette = bytes(value for n in range(2**bits) for value in (n * 255 // (2**bits - 1), 255 - n, n * 7 % 256, 0))
        unpacked = np.unpackbits(levels[..., None], axis=2)[..., 8 - bits :].reshape(HEIGHT, -1)
        yield File(f"{bits} bits", bmp(bits, bmp_rows(np.packbits(unpacked[::-1], axis=1)), palette=palette))
    runs = b"".join(b"".join(bytes([1, value]) for value in row) + b"\0\0" for row in levels[::-1]) + b"\0\1"
    yield File("8 bits in runs", bmp(8, runs, palette=palette, compression=1))


def webs() -> Iterator[File]:
    picture = Image.fromarray(eight(RGB))
    clear = Image.fromarray(np.dstack([eight(RGB), eight(OPAQUE)]))
    yield File("WEBP", saved(picture, "WEBP", quality=90), within=4)
    yield File("WEBP with alpha", saved(clear, "WEBP", quality=90), within=5)
    # Not every ImageMagick reads AVIF's transparency.
    exact = {"quality": 100, "subsampling": "4:4:4"}
    yield File("AVIF", saved(picture, "AVIF", **exact), eight(RGB), within=4)
    yield File("AVIF with alpha", saved(clear, "AVIF", **exact), over_white(RGB, OPAQUE), within=5)
    yield File("WEBP lossless", saved(picture, "WEBP", lossless=True))
    yield File("WEBP lossless with alpha", saved(clear, "WEBP", lossless=True, exact=True))
    yield File("WEBP animated", saved(picture, "WEBP", lossless=True, save_all=True, append_images=[picture.transpose(0)]))
    limited = picture.quantize(200)
    yield File("GIF", saved(limited, "GIF"))
    yield File("GIF interlaced", saved(limited, "GIF", interlace=True))
    yield File("GIF with a transparent colour", saved(limited, "GIF", transparency=5))
    yield File("GIF animated", saved(limited, "GIF", save_all=True, append_images=[limited.transpose(0)]))


def canvas(frame: Array) -> Array:
    """What a first frame at 6, 4 shows on the canvas: what was never painted is transparent, so white."""
    shown = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    shown[4 : 4 + frame.shape[0], 6 : 6 + frame.shape[1]] = frame
    return shown


def small_frames() -> Iterator[File]:
    frame = Image.fromarray(eight(RGB)).crop((0, 0, 30, 20))
    limited = frame.quantize(200)
    gif = bytearray(saved(limited, "GIF"))
    struct.pack_into("<HH", gif, 6, WIDTH, HEIGHT)
    struct.pack_into("<HH", gif, gif.rindex(b"\x2c\0\0\0\0\x1e\0\x14\0") + 1, 6, 4)
    yield File("GIF whose first frame is small", bytes(gif), canvas(np.asarray(limited.convert("RGB"))), within=0)
    pixels = saved(frame, "WEBP", lossless=True)[12:]
    sides = (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little")
    where = b"".join(number.to_bytes(3, "little") for number in (3, 2, 29, 19, 100))
    chunks = ((b"VP8X", b"\2\0\0\0" + sides), (b"ANIM", b"\0\0\xff\xff\0\0"), (b"ANMF", where + b"\0" + pixels))
    body = b"WEBP" + b"".join(kind + struct.pack("<I", len(part)) + part + bytes(len(part) % 2) for kind, part in chunks)
    shown = canvas(np.asarray(frame))
    yield File("WEBP whose first frame is small", b"RIFF" + struct.pack("<I", len(body)) + body, shown, within=0)


def avifs() -> Iterator[File]:
    picture = Image.fromarray(eight(RGB))
    exact: dict[str, Any] = {"quality": 100, "subsampling": "4:4:4"}
    data = saved(picture, "AVIF", **exact)
    yield File("AVIF that calls itself of HEIF's family", data.replace(b"ftypavif", b"ftypmif1"), eight(RGB), within=4)
    for turn in range(2, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = turn
        yield File(f"AVIF turned {turn}", saved(picture, "AVIF", exif=exif, **exact), TURNS[turn](eight(RGB)), within=4)
    at = data.index(b"colrnclx") + 8
    linear = eight(RGB) / 255
    curved = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)
    yield File("AVIF of linear light", data[:at] + b"\0\1\0\x08" + data[at + 4 :], np.uint8(np.round(255 * curved)), within=40)


# -- the comparison -----------------------------------------------------------------------------------------------------


def shown_by_magick(files: list[File], folder: Path) -> dict[str, Array]:
    """What ImageMagick makes of files, over white, upright; without those it does not read. One process for all."""
    assert MAGICK
    call = [MAGICK, "-background", "white"]
    for n, file in enumerate(files):
        (folder / f"{n}").write_bytes(file.data)
        call += [f"{folder / str(n)}[0]", "-auto-orient", "-alpha", "remove", "-colorspace", "sRGB", "-depth", "8"]
        call += ["-write", f"ppm:{folder / str(n)}.ppm", "+delete"]
    subprocess.run([*call, "null:"], check=False, capture_output=True, timeout=120)
    return {
        file.name: np.asarray(Image.open(folder / f"{n}.ppm").convert("RGB"))
        for n, file in enumerate(files)
        if (folder / f"{n}.ppm").exists()
    }


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("files", [pngs, tiffs, packed_tiffs, jpegs, bmps, webs, small_frames, avifs])
def test_files_are_decoded_as_another_reader_shows_them(
    files: Callable[[], Iterator[File]], tmp_path: Path, settings: Settings
) -> None:
    every = list(files())
    ours = [file for file in every if file.shown is not None]
    theirs = [file for file in every if file.shown is None]
    right = {file.name: file.shown for file in ours} | (shown_by_magick(theirs, tmp_path) if MAGICK else {})
    wrong = {}
    for file in every:
        expected = right.get(file.name)
        if expected is None:
            continue
        try:
            rgb = decode(file.data, settings=settings).rgb
        except ImageError as error:
            wrong[file.name] = str(error)
            continue
        if rgb.shape != expected.shape:
            wrong[file.name] = f"{rgb.shape} instead of {expected.shape}"
        elif (far := np.abs(rgb.astype(int) - expected).max()) > file.within:
            wrong[file.name] = f"off by {far}"
    assert wrong == {}
    if not MAGICK:
        pytest.skip("no ImageMagick here: only what our own rules say was compared")
    assert len(right) > 0.9 * len(every), "ImageMagick did not read them"
