"""What pixels mean: colour profiles by what they do, and how much memory the way to 8-bit sRGB takes."""

from __future__ import annotations

import dataclasses
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from support import photos

from depth_core.ingest.images import exif, pixels
from depth_core.ingest.images.decode import decode
from depth_core.settings import Settings

Encode = Callable[..., bytes]

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def profile(name: str, *, gamma: float | None = None, space: bytes = b"RGB ") -> bytes:
    """sRGB's profile under another name, and with another curve."""
    icc = bytearray(SRGB)
    tags = {icc[132 + 12 * n : 136 + 12 * n].decode(): 132 + 12 * n for n in range(struct.unpack_from(">I", icc, 128)[0])}

    def put(tag: str, body: bytes) -> None:
        struct.pack_into(">II", icc, tags[tag] + 4, len(icc), len(body))
        icc.extend(body + bytes(-len(body) % 4))

    put("desc", b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 2 * len(name), 28) + name.encode("utf-16-be"))
    if gamma is not None:
        curve = len(icc)
        put("rTRC", b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)))
        for tag in ("gTRC", "bTRC"):
            struct.pack_into(">II", icc, tags[tag] + 4, curve, 14)
    if space == b"GRAY":
        # A gray profile has its curve under a name of its own.
        struct.pack_into(">4s", icc, tags["rTRC"], b"kTRC")
        struct.pack_into(">4s", icc, 16, space)
    struct.pack_into(">I", icc, 0, len(icc))
    return bytes(icc)


@pytest.mark.parametrize("name", ["Linear Rec709", "GIMP built-in Linear sRGB", "sRGB linear light", "sRGB"])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_linear_profile_counts_whatever_its_name(name: str, form: str, encode: Encode, settings: Settings) -> None:
    options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    data = encode(Image.new("RGB", (20, 20), (55, 55, 55)), form, icc_profile=profile(name, gamma=1.0), **options)
    assert np.abs(decode(data, settings=settings).rgb[9, 9].astype(int) - 128).max() <= 2


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_a_linear_profile_of_gray_counts_too(form: str, encode: Encode, settings: Settings) -> None:
    icc = profile("sGray, sRGB", gamma=1.0, space=b"GRAY")
    data = encode(Image.new("L", (20, 20), 55), form, icc_profile=icc)
    assert np.abs(decode(data, settings=settings).rgb[9, 9].astype(int) - 128).max() <= 2


@pytest.mark.parametrize("alpha", ["", "straight", "premultiplied"])
@pytest.mark.parametrize(("samples", "bits"), [(np.uint8, 8), (np.uint16, 16), (np.float32, 32)])
def test_a_profile_of_gray_counts_beside_transparency(alpha: Any, samples: Any, bits: int) -> None:
    most = 1 if samples is np.float32 else 2**bits - 1
    gray = np.full((9, 9, 2), most, samples)
    gray[..., 0] = most * 0.2
    gray[0, 0, 0] = 0
    deep = pixels.Deep(gray if alpha else gray[..., :1], bits, 1, alpha)
    assert np.abs(pixels.from_deep(deep, profile("gray", gamma=1.0, space=b"GRAY"), 1)[5, 5].astype(int) - 124).max() <= 1
    if samples is np.uint8 and alpha != "premultiplied":
        rgb = pixels.from_array(deep.samples, profile("gray", gamma=1.0, space=b"GRAY"), 1)
        assert np.abs(rgb[5, 5].astype(int) - 124).max() <= 1


@pytest.mark.parametrize("samples", [np.uint16, np.float32])
def test_a_linear_profile_is_applied_before_deep_samples_become_eight_bits(samples: Any) -> None:
    levels = np.linspace(0, 1, 4096).reshape(64, 64, 1).repeat(3, axis=2)
    right = np.where(levels <= 0.0031308, 12.92 * levels, 1.055 * np.maximum(levels, 1e-9) ** (1 / 2.4) - 0.055) * 255
    stored = levels if samples is np.float32 else np.round(levels * 65535)
    rgb = pixels.from_deep(pixels.Deep(stored.astype(samples), 8 * np.dtype(samples).itemsize, 3), profile("x", gamma=1.0), 1)
    assert np.abs(rgb - right).max() <= 1.1


def test_sixteen_bits_are_rounded_to_eight() -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    for colours, samples in ((1, levels), (3, levels.repeat(3, axis=2))):
        rgb = pixels.from_deep(pixels.Deep(samples, 16, colours), None, 1)  # type: ignore[arg-type]
        np.testing.assert_array_equal(rgb[..., 1], np.round(levels[..., 0] / 257))


@pytest.mark.parametrize(
    ("dtype", "ends", "shown"),
    [
        (np.uint32, (0, 3000), (0, 255)),  # an instrument's counts
        (np.uint32, (2**30, 2**31), (64, 128)),  # a photo
        (np.uint32, (2**31, 2**31), (128, 128)),
        (np.int16, (-400, 8800), (0, 255)),  # heights
        (np.int16, (-8192, 24575), (96, 223)),
        (np.int8, (-100, 0), (28, 128)),
    ],
)
def test_integers_span_their_type_where_they_reach_its_outer_half_else_what_the_picture_has(
    dtype: Any, ends: tuple[int, int], shown: tuple[int, int]
) -> None:
    samples = np.array(ends, dtype).repeat(50).reshape(10, 10, 1)
    rgb = pixels.from_deep(pixels.Deep(samples, 8 * samples.itemsize, 1), None, 1)
    assert (rgb[0, 0, 0], rgb[-1, -1, 0]) == shown


@pytest.mark.parametrize(
    ("deep", "shown"),
    [
        (pixels.Deep(np.array([200, 100, 50, 0, 0], np.uint8), 8, 4, "straight"), (255, 255, 255)),
        (pixels.Deep(np.array([200, 100, 50, 0, 102], np.uint8), 8, 4, "straight"), (175, 215, 235)),
        (pixels.Deep(np.array([80, 40, 20, 0, 102], np.uint8), 8, 4, "premultiplied"), (175, 215, 235)),
        (pixels.Deep(np.array([0, 0, 255, 100, 128], np.uint8), 8, 4, "straight"), (205, 205, 127)),
        (pixels.Deep(np.array([200, 102], np.uint8), 8, 1, "straight", white_is_zero=True), (175, 175, 175)),
        (pixels.Deep(np.array([80, 102], np.uint8), 8, 1, "premultiplied", white_is_zero=True), (175, 175, 175)),
        (pixels.Deep(np.array([55, 102], np.uint8), 8, 1, "straight"), (175, 175, 175)),
        (pixels.Deep(np.array([22, 102], np.uint8), 8, 1, "premultiplied"), (175, 175, 175)),
        (pixels.Deep(np.array([22 * 257, 102 * 257], np.uint16), 16, 1, "premultiplied"), (175, 175, 175)),
        (pixels.Deep(np.array([0.2157, 0.4], np.float32), 32, 1, "straight"), (175, 175, 175)),
    ],
)
def test_transparent_inks_and_light_come_out_alike_over_white(deep: pixels.Deep, shown: tuple[int, ...]) -> None:
    samples = np.tile(deep.samples, (2, 2, 1))
    rgb = pixels.from_deep(dataclasses.replace(deep, samples=samples), None, 1)
    assert tuple(map(int, rgb[1, 1])) == shown


@pytest.mark.parametrize("icc", [SRGB, profile("sRGB IEC61966-2.1"), profile("sRGB of some camera", gamma=2.2)])
def test_profiles_of_srgb_leave_every_pixel_as_it_is(icc: bytes, encode: Encode, settings: Settings) -> None:
    picture = photos.noise(40, 60)
    np.testing.assert_array_equal(
        decode(encode(Image.fromarray(picture), "PNG", icc_profile=icc), settings=settings).rgb, picture
    )
    assert pixels.foreign(icc, "RGB") is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_way_to_srgb_turns_alike(orientation: int) -> None:
    picture = photos.noise(9, 14)
    turned = exif.TURNS[orientation](picture) if orientation > 1 else picture
    swapped = profile("linear", gamma=1.0)
    for rgb in (
        pixels.from_array(picture, None, orientation),
        pixels.from_image(Image.fromarray(picture), None, orientation),
        pixels.from_deep(pixels.Deep(picture.astype(np.uint16) * 257, 16, 3), None, orientation),
    ):
        np.testing.assert_array_equal(rgb, turned)
        assert (rgb.flags.c_contiguous, rgb.flags.writeable) == (True, True)
    straight = pixels.from_array(picture, swapped, 1)
    np.testing.assert_array_equal(
        pixels.from_array(picture, swapped, orientation), exif.TURNS[orientation](straight) if orientation > 1 else straight
    )


def test_strips_meet_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.linspace(-3, 5, 50 * 40 * 3).reshape(50, 40, 3)
    deep = pixels.Deep(samples, 64, 3)
    whole = pixels.from_deep(deep, None, 6)
    monkeypatch.setattr(pixels, "_STRIP", 40 * 7)
    np.testing.assert_array_equal(pixels.from_deep(deep, None, 6), whole)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.int32])
def test_deep_samples_are_not_copied_whole_on_the_way(dtype: Any) -> None:
    samples = np.ones((3000, 2000, 3), dtype)
    samples[0] = 0
    tracemalloc.start()
    try:
        rgb = pixels.from_deep(pixels.Deep(samples, samples.itemsize * 8, 3), None, 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rgb.nbytes <= peak < rgb.nbytes + samples.nbytes
