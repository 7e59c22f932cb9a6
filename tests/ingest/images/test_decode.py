"""Decoding: every usual format and variety, upright and in sRGB, and one error kind for each way a file can be wrong."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageOps
from support import photos

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.images.decode import DecodedImage, decode
from depth_core.settings import Settings

Make = Callable[..., Settings]
Encode = Callable[..., bytes]

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
pytestmark = pytest.mark.usefixtures("one_process")

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]


def corners(rgb: np.ndarray) -> list[tuple[int, ...]]:
    """Colours in the middle of the four quarters, row by row."""
    height, width = rgb.shape[:2]
    return [tuple(map(int, rgb[y, x])) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]


def assert_close(rgb: np.ndarray, colours: list[tuple[int, int, int]], within: int = 8) -> None:
    assert np.abs(np.array(corners(rgb)) - np.array(colours)).max() <= within, corners(rgb)


def failure(data: bytes, settings: Settings, **options: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, settings=settings, **options)
    return caught.value


# -- formats ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_becomes_rgb(form: str, quarters: Image.Image, encode: Encode, settings: Settings) -> None:
    image = decode(encode(quarters, form), settings=settings)
    assert (image.format, image.width, image.height, image.focal_px) == (form.lower(), 60, 40, None)
    assert (image.rgb.dtype, image.rgb.shape) == (np.uint8, (40, 60, 3))
    assert image.rgb.flags.c_contiguous
    assert image.rgb.flags.writeable
    assert_close(image.rgb, [RED, GREEN, BLUE, WHITE])


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_counts(form: str, quarters: Image.Image, encode: Encode, settings: Settings) -> None:
    data = encode(quarters, form, save_all=True, append_images=[Image.new("RGB", (60, 40), "black")] * 2)
    assert_close(decode(data, settings=settings).rgb, [RED, GREEN, BLUE, WHITE])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "RGBA"])
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_gray_palette_and_deep_pictures_are_read(mode: str, form: str, encode: Encode, settings: Settings) -> None:
    ramp = np.linspace(0, 255, 64).repeat(32).reshape(64, 32).T.astype(np.uint8)
    image = Image.fromarray(ramp.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(ramp).convert(mode)
    rgb = decode(encode(image, form), settings=settings).rgb.astype(int)
    assert (rgb[..., 0] == rgb[..., 1]).all()
    assert np.abs(rgb[..., 0] - (np.asarray(image.convert("L")) if mode in ("1", "P") else ramp)).max() <= 1


@pytest.mark.parametrize("interlaced", [False, True])
def test_16_bit_colour_png_is_read(interlaced: bool, settings: Settings) -> None:
    # Written by hand: Pillow writes none.
    row = b"\0" + struct.pack(">3H", 0x8000, 0xFFFF, 0) * 16
    parts = [b"IHDR" + struct.pack(">2I5B", 16, 16, 16, 2, 0, 0, 0), b"IDAT" + zlib.compress(row * 16), b"IEND"]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts
    )
    assert_close(decode(data, settings=settings).rgb, [(128, 255, 0)] * 4, within=1)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("kind", ["uint16", "int32", "float32"])
def test_deep_tiffs_are_scaled_to_eight_bits(byteorder: Any, kind: str, settings: Settings) -> None:
    ramp = np.linspace(0, 1, 40 * 60).reshape(40, 60)
    samples = ramp.astype(np.float32) if kind == "float32" else (ramp * 65535).astype(kind)
    buffer = BytesIO()
    tifffile.imwrite(buffer, samples, byteorder=byteorder)
    rgb = decode(buffer.getvalue(), settings=settings).rgb
    assert np.abs(rgb[..., 1].astype(int) - np.round(ramp * 255)).max() <= 1


def test_a_tiff_of_a_variety_that_is_not_read_says_so(settings: Settings) -> None:
    buffer = BytesIO()
    tifffile.imwrite(buffer, np.zeros((40, 60), np.complex64))
    error = failure(buffer.getvalue(), settings)
    assert error.kind is ErrorKind.NOT_AN_IMAGE
    assert "a variety that is not read" in error.message


def test_float_tiffs_with_holes_and_wide_ranges_are_sensible(settings: Settings) -> None:
    samples = np.linspace(-500, 1500, 40 * 60, dtype=np.float32).reshape(40, 60)
    samples[0, :3] = np.nan, np.inf, -np.inf
    buffer = BytesIO()
    tifffile.imwrite(buffer, samples)
    rgb = decode(buffer.getvalue(), settings=settings).rgb[..., 0]
    assert rgb[0, :3].tolist() == [0, 255, 0]
    assert (rgb[0, 3], rgb[-1, -1]) == (0, 255)


@pytest.mark.parametrize("samples", [np.full((16, 16), np.nan), np.full((16, 16), 7.0)])
def test_a_float_tiff_without_any_contrast_is_black(samples: np.ndarray, settings: Settings) -> None:
    buffer = BytesIO()
    tifffile.imwrite(buffer, samples.astype(np.float32))
    assert decode(buffer.getvalue(), settings=settings).rgb.max() == 0


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiffs_are_read(compression: str, quarters: Image.Image, encode: Encode, settings: Settings) -> None:
    assert_close(decode(encode(quarters, "TIFF", compression=compression), settings=settings).rgb, [RED, GREEN, BLUE, WHITE])


# -- colour -------------------------------------------------------------------------------------------------------------


def test_transparency_is_laid_over_white(encode: Encode, settings: Settings) -> None:
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    image.paste((255, 0, 0, 128), (10, 0, 20, 20))
    for form in ("PNG", "WEBP", "TIFF"):
        data = encode(image, form, **({"lossless": True} if form == "WEBP" else {}))
        assert_close(decode(data, settings=settings).rgb, [WHITE, (255, 127, 127)] * 2, within=1)


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_palette_colour_is_white(form: str, encode: Encode, settings: Settings) -> None:
    image = Image.new("P", (20, 20), 0)
    image.putpalette([9, 9, 9, 0, 0, 255])
    image.paste(1, (10, 0, 20, 20))
    assert_close(decode(encode(image, form, transparency=0), settings=settings).rgb, [WHITE, BLUE] * 2)


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(form: str, quarters: Image.Image, encode: Encode, settings: Settings) -> None:
    assert_close(decode(encode(quarters.convert("CMYK"), form), settings=settings).rgb, [RED, GREEN, BLUE, WHITE])


def test_a_foreign_colour_profile_is_converted_to_srgb(encode: Encode, settings: Settings) -> None:
    # A profile whose red and blue are swapped: Pillow has none, so sRGB's own is edited.
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {}
    for n in range(struct.unpack_from(">I", icc, 128)[0]):
        name, offset, size = struct.unpack_from(">4sII", icc, 132 + 12 * n)
        tags[name] = (132 + 12 * n, offset, size)
    for name, other in ((b"rXYZ", b"bXYZ"), (b"bXYZ", b"rXYZ")):
        struct.pack_into(">4s", icc, tags[name][0], other)
    description = tags[b"desc"][1]
    icc[description : description + tags[b"desc"][2]] = icc[description : description + tags[b"desc"][2]].replace(
        "sRGB".encode("utf-16-be"), "swap".encode("utf-16-be")
    )
    for form in ("PNG", "JPEG"):
        data = encode(Image.new("RGB", (20, 20), RED), form, icc_profile=bytes(icc))
        assert_close(decode(data, settings=settings).rgb, [BLUE] * 4, within=4)


@pytest.mark.parametrize("icc", [b"", b"not a profile", bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())])
def test_a_damaged_or_unfitting_profile_is_ignored(icc: bytes, quarters: Image.Image, encode: Encode, settings: Settings) -> None:
    assert_close(decode(encode(quarters, "PNG", icc_profile=icc), settings=settings).rgb, [RED, GREEN, BLUE, WHITE])
    assert_close(decode(encode(quarters, "JPEG", icc_profile=icc), settings=settings).rgb, [RED, GREEN, BLUE, WHITE])


# -- EXIF ---------------------------------------------------------------------------------------------------------------

UPRIGHT = {
    1: [RED, GREEN, BLUE, WHITE],
    2: [GREEN, RED, WHITE, BLUE],
    3: [WHITE, BLUE, GREEN, RED],
    4: [BLUE, WHITE, RED, GREEN],
    5: [RED, BLUE, GREEN, WHITE],
    6: [BLUE, RED, WHITE, GREEN],
    7: [WHITE, GREEN, BLUE, RED],
    8: [GREEN, WHITE, RED, BLUE],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied(form: str, orientation: int, quarters: Image.Image, encode: Encode, settings: Settings) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    seen: list[tuple[int, int]] = []

    def check(width: int, height: int) -> None:
        seen.append((width, height))

    image = decode(encode(quarters, form, exif=exif), settings=settings, check=check)
    assert_close(image.rgb, UPRIGHT[orientation])
    assert image.rgb.shape[:2] == (image.height, image.width) == ((40, 60) if orientation < 5 else (60, 40))
    assert image.rgb.flags.c_contiguous
    assert set(seen) == {(image.width, image.height)}


def test_orientation_agrees_with_pillows_own_rule(quarters: Image.Image, encode: Encode, settings: Settings) -> None:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        data = encode(quarters, "PNG", exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data))))
        np.testing.assert_array_equal(decode(data, settings=settings).rgb, expected)


def with_camera(encode: Encode, size: tuple[int, int], **tags: Any) -> bytes:
    exif = Image.Exif()
    camera = exif.get_ifd(ExifTags.IFD.Exif)
    for name, value in tags.items():
        camera[ExifTags.Base[name]] = value
    return encode(Image.new("RGB", size), "JPEG", exif=exif)


@pytest.mark.parametrize(
    ("tags", "focal_px"),
    [
        ({"FocalLengthIn35mmFilm": 28}, 28 * 500 / (36**2 + 24**2) ** 0.5),
        ({"FocalLength": 10.0, "FocalPlaneXResolution": 50.0, "FocalPlaneResolutionUnit": 4}, 500.0),
        ({"FocalLength": 10.0, "FocalPlaneXResolution": 1270.0}, 500.0),  # no unit: inches
        ({"FocalLength": 10.0, "FocalPlaneXResolution": 500.0, "FocalPlaneResolutionUnit": 3, "ExifImageWidth": 800}, 250.0),
        (
            {
                "FocalLength": 10.0,
                "FocalPlaneXResolution": 500.0,
                "FocalPlaneResolutionUnit": 3,
                "ExifImageWidth": 600,
                "ExifImageHeight": 800,
            },
            250.0,
        ),  # turned, and the numbers not
        ({"FocalLengthIn35mmFilm": 28, "ExifImageWidth": 4000, "ExifImageHeight": 3008}, 28 * 500 / (36**2 + 24**2) ** 0.5),
        ({"FocalLengthIn35mmFilm": 28, "ExifImageWidth": 800, "ExifImageHeight": 300}, None),  # cropped
        ({"FocalLength": 10.0}, None),
        ({"FocalLengthIn35mmFilm": 0}, None),
        ({"FocalLengthIn35mmFilm": 65535}, None),
        ({}, None),
    ],
)
def test_focal_length_comes_from_exif_in_pixels_of_the_source(
    tags: dict[str, Any], focal_px: float | None, encode: Encode, settings: Settings
) -> None:
    data = with_camera(encode, (400, 300), **tags)
    found = decode(data, settings=settings).focal_px
    assert found == (None if focal_px is None else pytest.approx(focal_px))


def test_a_focal_length_is_scaled_by_the_side_that_is_recorded_when_it_is_only_one(encode: Encode, settings: Settings) -> None:
    tags = {"FocalLength": 10.0, "FocalPlaneXResolution": 50.0, "FocalPlaneResolutionUnit": 4}
    for recorded in ({"ExifImageWidth": 300}, {"ExifImageHeight": 400}):
        upright = with_camera(encode, (300, 400), **tags, **recorded)
        assert decode(upright, settings=settings).focal_px == pytest.approx(500)


@pytest.mark.parametrize("size", [(400, 300), (401, 303)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_fast_jpeg_path_gives_what_pillow_gives(size: tuple[int, int], mode: str, settings: Settings) -> None:
    data = photos.photo(*size, mode=mode)
    ours = decode(data, settings=settings)
    np.testing.assert_array_equal(ours.rgb, np.asarray(Image.open(BytesIO(data)).convert("RGB")))


def test_errors_of_the_check_pass_through(quarters: Image.Image, encode: Encode, settings: Settings) -> None:
    def too_thin(width: int, height: int) -> None:
        raise ImageError(ErrorKind.NETWORK_TOO_LARGE, "a thin panorama")

    assert failure(encode(quarters, "JPEG"), settings, check=too_thin).kind is ErrorKind.NETWORK_TOO_LARGE


# -- what is no image ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "looks_like"),
    [
        (b"<!DOCTYPE html><html>404", "HTML"),
        (b"\n  <html lang='de'>", "HTML"),
        (b"<?xml version='1.0'?><svg xmlns='x'/>", "SVG"),
        (b"<svg/>", "SVG"),
        (b"<?xml version='1.0'?><Error/>", "XML"),
        (b'{"error": "not found"}', "JSON"),
        (b"404 page not found\n", "looks like text"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04....", "ZIP"),
        (b"\0\0\0\x20ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x20ftypisom\0\0\0\0", "video"),
        (b"8BPS\0\x01", "Photoshop"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%touch pwned) (w) file\n", "EPS"),
        (b"\xc5\xd0\xd3\xc6" + bytes(30), "EPS"),
        (b"\xff\x4f\xff\x51" + bytes(30), "JPEG 2000"),
        (b"qoif" + bytes(30), "QOI"),
        (b"DDS " + bytes(30), "DDS"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (bytes(range(200)), "unknown format"),
    ],
)
def test_what_is_no_image_is_named_for_what_it_looks_like(data: bytes, looks_like: str, settings: Settings) -> None:
    error = failure(data, settings, name="photo.jpg")
    assert error.kind is ErrorKind.NOT_AN_IMAGE
    assert looks_like in error.message


def test_an_empty_file_is_its_own_kind(settings: Settings) -> None:
    assert failure(b"", settings).kind is ErrorKind.EMPTY_FILE


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_a_failure_of_its_own_kind(form: str, share: float, encode: Encode, settings: Settings) -> None:
    noise = Image.fromarray(photos.noise(80, 80))
    data = encode(noise, form)
    assert failure(data[: int(len(data) * share)], settings).kind is ErrorKind.TRUNCATED_IMAGE


def chunks(png: bytes) -> list[tuple[bytes, int, int]]:
    """Kind, start and end of what each chunk of a PNG holds."""
    found, at = [], 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        found.append((png[at + 4 : at + 8], at + 8, at + 8 + length))
        at += length + 12
    return found


@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"save_all": True, "append_images": [Image.new("L", (64, 64))]}])
def test_one_wrong_byte_in_the_pixels_of_a_png_is_damage(options: dict[str, Any], encode: Encode, settings: Settings) -> None:
    smooth = Image.fromarray(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8))
    data = encode(smooth, "PNG", **options)
    assert decode(data, settings=settings).width == 64
    (start, end), *_ = [(start, end) for kind, start, end in chunks(data) if kind == b"IDAT"]
    for at in range(start + 2, end + 4, max(1, (end - start) // 40)):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        assert failure(bytes(damaged), settings).kind is ErrorKind.TRUNCATED_IMAGE, at


def test_a_png_with_something_odd_behind_its_pixels_is_read_all_the_same(encode: Encode, settings: Settings) -> None:
    data = encode(Image.new("L", (64, 64)), "PNG")
    (end,) = [end for kind, _, end in chunks(data) if kind == b"IDAT"]
    for rest in (b"", b"\0\0\0", b"\0\0\0\x04tEXtnote\0\0\0\0" + data[end + 4 :], data[end + 4 :] + b"padding of some archive"):
        assert decode(data[: end + 4] + rest, settings=settings).width == 64


def test_a_tracking_pixel_is_too_small(encode: Encode, make_settings: Make) -> None:
    for form in ("GIF", "PNG", "JPEG"):
        assert failure(encode(Image.new("RGB", (1, 1)), form), make_settings()).kind is ErrorKind.TOO_SMALL
    line = encode(Image.new("RGB", (500, 7)), "PNG")
    assert failure(line, make_settings()).kind is ErrorKind.TOO_SMALL
    assert decode(line, settings=make_settings(min_image_side=7)).width == 500


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be that large."""
    header = b"IHDR" + struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    parts = [header, b"IDAT" + zlib.compress(b""), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts
    )


def test_a_decompression_bomb_is_refused_by_its_header(make_settings: Make) -> None:
    error = failure(bomb(60_000, 60_000), make_settings())
    assert error.kind is ErrorKind.TOO_MANY_PIXELS
    assert "60000 x 60000" in error.message
    assert failure(bomb(100, 101), make_settings(max_image_pixels=10_000)).kind is ErrorKind.TOO_MANY_PIXELS
    assert failure(bomb(100, 100), make_settings(max_image_pixels=10_000)).kind is ErrorKind.TRUNCATED_IMAGE


def test_a_wrong_extension_fails_only_when_that_is_asked_for(quarters: Image.Image, encode: Encode, make_settings: Make) -> None:
    data = encode(quarters, "PNG")
    strict = make_settings(strict_extension=True)
    for name in ("a.jpg", "https://x/a.JPG?v=a.png", "s3://b/c.tiff"):
        assert decode(data, name=name, settings=make_settings()).format == "png"
        assert failure(data, strict, name=name).kind is ErrorKind.EXTENSION_MISMATCH
    for name in ("", "a.png", "https://x/photo?format=jpg", "a.jpg.png", "a.php"):
        assert decode(data, name=name, settings=strict).format == "png"


def _real_files() -> list[bytes]:
    files = []
    picture = Image.fromarray(photos.noise(24, 24, seed=1))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 28
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16))
    varieties = [deep, *map(picture.convert, ("RGB", "P", "L", "CMYK", "RGBA"))]
    for form in FORMATS:
        for variety in varieties:
            buffer = BytesIO()
            with suppress(OSError, ValueError, KeyError):  # not every format has every variety
                variety.save(buffer, form, exif=exif, icc_profile=icc)
                files.append(buffer.getvalue())
    buffer = BytesIO()
    picture.save(buffer, "TIFF", compression="tiff_lzw")
    return [*files, buffer.getvalue()]


@given(
    data=st.sampled_from(_real_files()),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=12),
    cut=st.floats(0, 1) | st.just(1.0),
    tail=st.binary(max_size=20),
)
@hypothesis_settings(max_examples=400)
def test_damaged_files_give_a_picture_or_an_image_error(
    settings: Settings, data: bytes, flips: list[tuple[float, int]], cut: float, tail: bytes
) -> None:
    damaged = bytearray(data)
    for place, value in flips:
        damaged[min(int(place * len(damaged)), len(damaged) - 1)] = value
    small = settings.model_copy(update={"max_image_pixels": 1_000_000})
    try:
        image = decode(bytes(damaged[: int(cut * len(damaged))]) + tail, settings=small)
    except ImageError:
        return
    assert isinstance(image, DecodedImage)
    assert image.rgb.ndim == 3


@given(st.binary(max_size=300))
def test_any_bytes_give_an_image_error(settings: Settings, data: bytes) -> None:
    failure(data, settings)


def without_a_share(webp: bytes, share: float) -> bytes:
    """A WebP whose pixels end early though every size in it is right."""
    parts, at = b"", 12
    while at + 8 <= len(webp):
        kind, size = webp[at : at + 4], int.from_bytes(webp[at + 4 : at + 8], "little")
        body = webp[at + 8 : at + 8 + size]
        if kind in (b"VP8 ", b"VP8L", b"ALPH"):
            body = body[: int(len(body) * (1 - share))]
        parts += kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
        at += 8 + size + size % 2
    return b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WEBP" + parts


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_pixels_that_end_early_are_damage_where_every_size_and_end_is_right(
    share: float, encode: Encode, settings: Settings
) -> None:
    noise = Image.fromarray(photos.noise(80, 80))
    for options in ({}, {"lossless": True}):
        assert failure(without_a_share(encode(noise, "WEBP", **options), share), settings).kind is ErrorKind.TRUNCATED_IMAGE
    gif = encode(noise, "GIF")
    cut = int(len(gif) - (len(gif) - 800) * share)
    assert failure(gif[:cut] + b"\0;", settings).kind is ErrorKind.TRUNCATED_IMAGE
    # A BMP in runs, each pixel one, that says where it ends.
    header = struct.pack("<IiiHHIIiiII", 40, 80, 80, 1, 8, 1, 0, 0, 0, 256, 0)
    runs = (b"\1\7" * 80 + b"\0\0") * int(80 * (1 - share)) + b"\0\1"
    bmp = b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + bytes(1024) + runs
    assert failure(bmp, settings).kind is ErrorKind.TRUNCATED_IMAGE


def test_a_file_of_text_is_never_quoted(settings: Settings) -> None:
    for secret in (b"root:x:0:0:root:/root:/bin/bash\n", b"\xe4\xf6\xfc pass word: hunter2\n", bytes(range(40))):
        message = failure(secret, settings).message
        assert not any(secret[at : at + 4].decode("latin-1") in message for at in range(len(secret) - 4))
        assert secret[:4].hex(" ") not in message
