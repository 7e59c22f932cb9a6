"""TIFF: a camera's raw data is no picture, a file that lacks a part is damaged; what samples mean is in test_decode_corpus.py."""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from support import photos

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.images.decode import decode
from depth_core.settings import Settings

pytestmark = pytest.mark.usefixtures("one_process")

Encode = Callable[..., bytes]
Write = dict[str, Any]

PICTURE = photos.noise(48, 64)
SENSOR = np.random.default_rng(1).integers(0, 4096, (96, 128), dtype=np.uint16)
CFA: Write = {"photometric": 32803, "extratags": [(33421, 3, 2, (2, 2), True), (33422, 1, 4, b"\0\1\1\2", True)]}
PREVIEW: Write = {"photometric": "rgb", "subfiletype": 1, "subifds": 1}
DNG_VERSION = (50706, 1, 4, b"\1\4\0\0", True)


def tiff(*pages: tuple[np.ndarray, Write]) -> bytes:
    buffer = BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for samples, options in pages:
            file.write(samples, metadata=None, **options)
    return buffer.getvalue()


def made_by(maker: str) -> tuple[Any, ...]:
    return (271, 2, 0, maker, True)


def failure(data: bytes, settings: Settings) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, settings=settings)
    return caught.value


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (tiff((PICTURE, PREVIEW | {"extratags": [DNG_VERSION]}), (SENSOR, CFA)), "DNG"),
        (tiff((PICTURE, {"photometric": "rgb", "extratags": [DNG_VERSION]})), "DNG"),
        (tiff((PICTURE, PREVIEW | {"extratags": [made_by("NIKON CORPORATION")]}), (SENSOR, CFA)), "NEF"),
        (tiff((PICTURE, PREVIEW | {"subfiletype": 0, "extratags": [made_by("SONY")]}), (SENSOR, CFA)), "ARW"),
        (tiff((SENSOR, CFA | {"extratags": [made_by("PENTAX Corporation")]})), "PEF"),
        (tiff((PICTURE, PREVIEW), (SENSOR, CFA)), "TIFF"),
        (tiff((PICTURE, {"photometric": "rgb", "extratags": [made_by("Mamiya")]}), (SENSOR, CFA)), "MEF"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(4) + tiff((PICTURE, {}))[16:], "CR2"),
        (b"IIRO\x08\0\0\0" + bytes(100), "ORF"),
        (b"IIU\0\x18\0\0\0" + bytes(100), "RW2"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(100), "RAF"),
        (b"\0\0\0\x18ftypcrx " + bytes(100), "CR3"),
    ],
)
def test_a_cameras_raw_file_is_not_read_as_its_preview(data: bytes, named: str, settings: Settings) -> None:
    error = failure(data, settings)
    assert error.kind is ErrorKind.NOT_AN_IMAGE
    assert f"a camera's raw file ({named}), which is not read" in error.message


def test_the_preview_of_any_other_picture_is_not_read(settings: Settings) -> None:
    small, whole = PICTURE[::2, ::2], (PICTURE, {"photometric": "rgb"})
    for preview in (PREVIEW, PREVIEW | {"subifds": 0}, {"photometric": "rgb", "extratags": [(255, 3, 1, 2, True)]}):
        error = failure(tiff((small, preview), whole), settings)
        assert (error.kind, "preview" in error.message) == (ErrorKind.NOT_AN_IMAGE, True)


def test_a_preview_of_which_the_picture_was_cut_off_is_damaged(settings: Settings) -> None:
    data = tiff((PICTURE[::2, ::2], PREVIEW), (PICTURE, {"photometric": "rgb"}))
    with tifffile.TiffFile(BytesIO(data)) as file:
        inner = file.pages.first.pages
        assert inner is not None
        end = inner[0].offset
    assert failure(data[:end], settings).kind is ErrorKind.TRUNCATED_IMAGE


def test_a_picture_with_thumbnails_or_further_pages_is_read(settings: Settings) -> None:
    rgb: Write = {"photometric": "rgb"}
    thumbnail = (PICTURE[::4, ::4], rgb | {"subfiletype": 1})
    for data in (
        tiff((PICTURE, rgb | {"subifds": 1}), thumbnail),
        tiff((PICTURE, rgb), thumbnail),
        tiff((PICTURE, rgb), (PICTURE[::-1], rgb)),
        tiff((PICTURE, rgb | {"extratags": [made_by("NIKON CORPORATION")]})),  # a scanner, or a converted photo
    ):
        np.testing.assert_array_equal(decode(data, settings=settings).rgb, PICTURE)


DAMAGED: list[Write] = [
    {"rowsperstrip": 9, "compression": compression, "dtype": dtype}
    for compression in (None, "lzw", "zlib", "packbits", "zstd", "jpeg")
    for dtype in ("uint8", "uint16")
    if (compression, dtype) != ("jpeg", "uint16")
] + [{"tile": (16, 16), "compression": "zlib", "dtype": "uint16"}, {"planarconfig": "separate", "dtype": "uint8"}]


def varieties() -> list[bytes]:
    files = []
    for options in DAMAGED:
        options = dict(options)
        samples = PICTURE.astype(options.pop("dtype")) * (257 if options.get("dtype") == "uint16" else 1)
        if options.get("planarconfig"):
            samples = np.moveaxis(samples, 2, 0)
        files.append(tiff((np.ascontiguousarray(samples), {"photometric": "rgb"} | options)))
    return files


@pytest.mark.parametrize("data", varieties(), ids=[str(options) for options in DAMAGED])
def test_a_tiff_that_lacks_a_part_is_damaged(data: bytes, settings: Settings) -> None:
    whole = decode(data, settings=settings).rgb
    with tifffile.TiffFile(BytesIO(data)) as file:
        tags = file.pages.first.tags
        offsets, counts = (tags[324], tags[325]) if 324 in tags else (tags[273], tags[279])
    for tag, share in ((offsets, 0.0), (counts, 0.0), (counts, 0.4), (counts, 0.9)):
        for part in {0, tag.count // 2, tag.count - 1}:
            damaged = bytearray(data)
            value = tag.value if isinstance(tag.value, int) else tag.value[part]
            form = {3: "<H", 4: "<I", 16: "<Q"}[int(tag.dtype)]
            struct.pack_into(form, damaged, tag.valueoffset + part * struct.calcsize(form), int(value * share))
            try:
                rgb = decode(bytes(damaged), settings=settings).rgb
            except ImageError as error:
                said = error.kind
            else:  # bytes that are there, wrongly counted
                said = ErrorKind.TRUNCATED_IMAGE if share and (rgb == whole).all() else None
            assert said is ErrorKind.TRUNCATED_IMAGE, (tag.name, share, part)
    for cut in (len(data) // 3, len(data) * 2 // 3, len(data) - 40):
        assert failure(data[:cut], settings).kind is ErrorKind.TRUNCATED_IMAGE, cut


def test_a_tiff_whose_tags_end_early_is_damaged(encode: Encode, settings: Settings) -> None:
    # Pillow writes tags behind pixels, the bits of a sample last: without them a picture would be read with one bit.
    data = encode(Image.fromarray(PICTURE), "TIFF", compression="tiff_lzw")
    for cut in range(1, 5):
        assert failure(data[:-cut], settings).kind is ErrorKind.TRUNCATED_IMAGE


def test_programs_that_write_tiffs_number_the_wrong_way_round_are_understood(settings: Settings) -> None:
    data = tiff((PICTURE, {"photometric": "rgb"}))
    np.testing.assert_array_equal(decode(b"II\0*" + data[4:], settings=settings).rgb, PICTURE)


@pytest.mark.parametrize(
    ("samples", "options"),
    [
        (np.zeros((40, 60), np.complex64), {}),
        (np.zeros((40, 60, 3), np.uint16), {"photometric": "cielab"}),
        (np.zeros((20, 40, 64), np.uint8), {"volumetric": True, "tile": (16, 16, 16)}),
    ],
)
def test_varieties_that_are_not_read_say_so(samples: np.ndarray, options: Write, settings: Settings) -> None:
    error = failure(tiff((samples, options)), settings)
    assert error.kind is ErrorKind.NOT_AN_IMAGE
    assert "not read" in error.message


def by_hand(body: bytes, size: tuple[int, int], tags: dict[int, tuple[int, ...]]) -> bytes:
    """A TIFF of one strip with the tags that are asked for and no others, numbers of 16 bits all."""
    at = 8 + len(body) + len(body) % 2
    given = {256: size[:1], 257: size[1:], 273: (8,), 278: size[1:], 279: (len(body),)} | tags
    entries, rest = b"", b""
    behind = at + 2 + 12 * len(given) + 4
    for tag, values in sorted(given.items()):
        packed = struct.pack(f"<{len(values)}H", *values)
        where = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", behind + len(rest))
        rest += packed if len(packed) > 4 else b""
        entries += struct.pack("<HHI", tag, 3, len(values)) + where
    return (
        b"II*\0" + struct.pack("<I", at) + body + bytes(len(body) % 2) + struct.pack("<H", len(given)) + entries + bytes(4) + rest
    )


GRAY = PICTURE[..., 0]
TABLE = np.random.default_rng(2).integers(0, 256, (3, 256))


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (by_hand(GRAY.tobytes(), (64, 48), {258: (8,), 277: (1,)}), np.dstack([GRAY] * 3)),
        (by_hand(PICTURE.tobytes(), (64, 48), {258: (8, 8, 8), 277: (3,)}), PICTURE),
        (by_hand(GRAY.tobytes(), (64, 48), {258: (8,), 262: (3,), 320: tuple(map(int, TABLE.ravel()))}), TABLE.T[GRAY]),
        (
            by_hand(GRAY.tobytes(), (64, 48), {258: (8,), 262: (3,), 320: tuple(257 * int(n) for n in TABLE.ravel())}),
            TABLE.T[GRAY],
        ),
        (tiff((PICTURE, {"photometric": "rgb", "compression": "webp", "compressionargs": {"lossless": True}})), PICTURE),
    ],
    ids=["gray that is not said to be", "RGB that is not said to be", "a table of 8 bits", "a table of 16 bits", "WebP"],
)
def test_what_writers_leave_out_or_do_otherwise_is_read_as_libtiff_does(
    data: bytes, shown: np.ndarray, settings: Settings
) -> None:
    np.testing.assert_array_equal(decode(data, settings=settings).rgb, shown)


def test_colour_differences_of_fewer_samples_are_read(settings: Settings) -> None:
    smooth = np.asarray(Image.fromarray(PICTURE[:3, :4]).resize((64, 48), Image.Resampling.BICUBIC))
    ycc = np.asarray(Image.fromarray(smooth).convert("YCbCr"))
    body = b""
    for top in range(0, 48, 2):
        for left in range(0, 64, 2):
            part = ycc[top : top + 2, left : left + 2]
            body += part[..., 0].tobytes() + bytes(part[..., 1:].mean(axis=(0, 1)).astype(int).tolist())
    data = by_hand(body, (64, 48), {258: (8, 8, 8), 259: (1,), 262: (6,), 277: (3,), 530: (2, 2)})
    assert np.abs(decode(data, settings=settings).rgb.astype(int) - smooth).mean() < 4
    assert failure(by_hand(body[:-99], (64, 48), {258: (8, 8, 8), 259: (1,), 262: (6,), 277: (3,), 530: (2, 2)}), settings)


@pytest.mark.parametrize("tags", [{332: (2,), 277: (4,)}, {334: (6,), 277: (6,)}, {277: (3,)}])
def test_other_inks_than_those_of_cmyk_are_not_read(tags: dict[int, tuple[int, ...]], settings: Settings) -> None:
    count = tags[277][0]
    error = failure(by_hand(bytes(64 * 48 * count), (64, 48), {258: (8,) * count, 262: (5,)} | tags), settings)
    assert (error.kind, "inks" in error.message) == (ErrorKind.NOT_AN_IMAGE, True)


def test_a_picture_without_its_table_of_colours_is_damaged(settings: Settings) -> None:
    for tags in ({}, {320: tuple(range(300))}):
        error = failure(by_hand(GRAY.tobytes(), (64, 48), {258: (8,), 262: (3,)} | tags), settings)
        assert error.kind is ErrorKind.TRUNCATED_IMAGE


@pytest.mark.parametrize("compression", ["group4", "group3", "tiff_ccitt"])
def test_a_fax_whose_code_ends_early_is_damaged_though_its_strips_are_all_there(
    compression: str, encode: Encode, settings: Settings
) -> None:
    page = Image.fromarray(np.add.outer(np.arange(120) ** 2 // 30, np.arange(160)) // 9 % 2 > 0)
    for options in ({}, {"tiffinfo": {278: 16}}):
        data = encode(page, "TIFF", compression=compression, **options)
        np.testing.assert_array_equal(decode(data, settings=settings).rgb[..., 0], np.asarray(page) * np.uint8(255))
        with tifffile.TiffFile(BytesIO(data)) as file:
            counts = file.pages.first.tags[279]
        form = {3: "<H", 4: "<I"}[int(counts.dtype)]
        first = counts.value[0] if isinstance(counts.value, tuple) else counts.value
        for lost in (10, 20, first // 4, first * 3 // 4):
            damaged = bytearray(data)
            struct.pack_into(form, damaged, counts.valueoffset, first - lost)
            assert failure(bytes(damaged), settings).kind is ErrorKind.TRUNCATED_IMAGE, lost
