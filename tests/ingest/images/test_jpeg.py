"""JPEG: what lacks its end but no pixel is read, with a note; what lacks pixels fails, however its end was mended."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from support import photos

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.images import jpeg
from depth_core.ingest.images.decode import decode
from depth_core.settings import Settings

pytestmark = pytest.mark.usefixtures("one_process")

Encode = Callable[..., bytes]

END = b"\xff\xd9"
TRAILER = b"\0\0\x01\x0a\x0e\0\0\0Image_UTC_Data1600000000000SEFHj\0\0\0\1\0\0\0\0\0\1\x0a" + b"SEFT"
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("RGB", {}),
    "progressive": ("RGB", {"progressive": True}),
    "gray": ("L", {}),
    "gray progressive": ("L", {"progressive": True}),
    "CMYK": ("CMYK", {}),
    "restarts": ("RGB", {"restart_marker_blocks": 3}),
}


@lru_cache
def photo(kind: str) -> bytes:
    mode, options = KINDS[kind]
    return photos.photo(160, 120, mode=mode, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trailer", [b"", TRAILER], ids=["nothing", "a phone's trailer"])
def test_a_jpeg_without_its_end_is_read_whole_and_that_is_noted(kind: str, trailer: bytes, settings: Settings) -> None:
    whole = decode(photo(kind), settings=settings)
    assert whole.note == ""
    lacking = decode(photo(kind)[:-2] + trailer, settings=settings)
    np.testing.assert_array_equal(lacking.rgb, whole.rgb)
    assert lacking.note == jpeg.NOTE


@given(
    kind=st.sampled_from(sorted(KINDS)),
    lost=st.floats(0.001, 1),
    mended=st.sampled_from([b"", END, bytes(700)]),
    junk=st.sampled_from([b"", b"junk"]),
)
@hypothesis_settings(max_examples=150)
def test_a_jpeg_that_lacks_pixels_never_gives_another_picture(
    settings: Settings, kind: str, lost: float, mended: bytes, junk: bytes
) -> None:
    table = photo(kind).index(b"\xff\xdb")  # of what libjpeg warns, it says the first alone
    data = photo(kind)[:table] + junk + photo(kind)[table:]
    start = data.rindex(b"\xff\xda") if "progressive" not in kind else data.index(b"\xff\xda")
    cut = len(data) - 2 - max(3, int(lost * (len(data) - 2 - start)))
    with suppress(ImageError):
        image = decode(data[:cut] + mended, settings=settings)
        np.testing.assert_array_equal(image.rgb, decode(data, settings=settings).rgb)


@pytest.mark.parametrize("end", [b"", END])
@pytest.mark.parametrize("junk", [b"", b"junk"])
def test_a_progressive_jpeg_that_lacks_whole_scans_is_damaged(end: bytes, junk: bytes, settings: Settings) -> None:
    data = photo("progressive")
    data = data[: data.index(b"\xff\xdb")] + junk + data[data.index(b"\xff\xdb") :]
    starts = [at for at in range(len(data)) if data.startswith(b"\xff\xda", at)]
    assert len(starts) > 5
    for start in starts[1:]:
        # Each scan has its tables in front.
        table = data.rfind(b"\xff\xc4", 0, start)
        cut = table if int.from_bytes(data[table + 2 : table + 4], "big") + table + 2 == start else start
        with pytest.raises(ImageError) as caught:
            decode(data[:cut] + end, settings=settings)
        assert caught.value.kind is ErrorKind.TRUNCATED_IMAGE


@pytest.mark.parametrize("junk", [b"", b"junk"])
def test_lost_or_mixed_up_restarts_are_damage(junk: bytes, settings: Settings) -> None:
    data = photo("restarts")
    table = data.index(b"\xff\xdb")
    data = data[:table] + junk + data[table:]
    at = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", data)]
    np.testing.assert_array_equal(decode(data, settings=settings).rgb, decode(photo("restarts"), settings=settings).rgb)
    for damaged in (
        data[: at[3]] + data[at[4] :],
        data[: at[3]] + data[at[4] : at[5]] + data[at[3] : at[4]] + data[at[5] :],
        data[: at[3]] + data[at[11] :],
        data[: at[-3]] + END,
    ):
        with pytest.raises(ImageError) as caught:
            decode(damaged, settings=settings)
        assert caught.value.kind is ErrorKind.TRUNCATED_IMAGE


def test_deep_jpegs_are_named_and_not_read(settings: Settings) -> None:
    deep = np.random.default_rng(0).integers(0, 4096, (40, 60), dtype=np.uint16)
    for data in (imagecodecs.jpeg8_encode(deep, bitspersample=12), imagecodecs.ljpeg_encode(deep, bitspersample=12)):
        with pytest.raises(ImageError, match="a JPEG of 12 bits a sample") as caught:
            decode(data, settings=settings)
        assert caught.value.kind is ErrorKind.NOT_AN_IMAGE


def test_a_lossless_jpeg_of_eight_bits_is_read(settings: Settings) -> None:
    picture = photos.noise(40, 60)
    np.testing.assert_array_equal(decode(imagecodecs.jpeg8_encode(picture, lossless=True), settings=settings).rgb, picture)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_between_segments_are_no_damage(kind: str, settings: Settings) -> None:
    data = photo(kind)
    table = data.index(b"\xff\xc4")
    right = decode(data, settings=settings).rgb
    for odd in (data[:table] + b"\0\0\0" + data[table:], data[:-2] + b"\0\0junk" + END):
        image = decode(odd, settings=settings)
        np.testing.assert_array_equal(image.rgb, right)
        assert image.note == ""
    assert decode(data[:table] + b"junk" + data[table:-2], settings=settings).note == jpeg.NOTE


def test_pictures_and_videos_behind_the_first_picture_do_not_matter(settings: Settings, encode: Encode) -> None:
    first = decode(photo("baseline"), settings=settings).rgb
    for tail in (photo("progressive"), b"\0\0\0\x18ftypmp42" + bytes(500), bytes(10), encode(Image.new("L", (9, 9)), "PNG")):
        image = decode(photo("baseline") + tail, settings=settings)
        np.testing.assert_array_equal(image.rgb, first)
        assert image.note == ""
