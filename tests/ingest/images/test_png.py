"""PNG: what lacks pixels fails whatever its checksums say, what is healthy is read whatever it carries beside its pixels."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import hostile
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.images import png as png_reader
from depth_core.ingest.images.decode import decode
from depth_core.settings import Settings

Encode = Callable[..., bytes]

WIDTH, HEIGHT = 60, 40
SIGNATURE = b"\x89PNG\r\n\x1a\n"
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))  # Adam7


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(stream: bytes, *extra: bytes, first: bytes = b"", interlaced: bool = False, end: bool = True, pieces: int = 1) -> bytes:
    """RGB, 8 bits, with a zlib stream that is the caller's."""
    header = chunk(b"IHDR", struct.pack(">2I5B", WIDTH, HEIGHT, 8, 2, 0, 0, interlaced))
    size = -(-len(stream) // pieces) or 1
    data = b"".join(chunk(b"IDAT", stream[at : at + size]) for at in range(0, len(stream), size))
    return SIGNATURE + first + header + b"".join(extra) + data + (chunk(b"IEND", b"") if end else b"")


def rows(interlaced: bool = False) -> bytes:
    """What the stream of a picture unfolds to, no two rows alike."""
    picture = np.arange(WIDTH * HEIGHT * 3).reshape(HEIGHT, WIDTH, 3).astype(np.uint8)
    parts = [picture[y::dy, x::dx] for y, x, dy, dx in PASSES] if interlaced else [picture]
    return b"".join(b"\0" + row.tobytes() for part in parts for row in part)


def kind_of_failure(data: bytes, settings: Settings) -> ErrorKind:
    with pytest.raises(ImageError) as caught:
        decode(data, settings=settings)
    return caught.value.kind


@given(share=st.floats(0, 0.999), interlaced=st.booleans(), pieces=st.integers(1, 5))
@example(share=0.5, interlaced=True, pieces=1)
@hypothesis_settings(max_examples=60)
def test_pixels_that_end_early_are_damage_though_every_checksum_is_right(
    settings: Settings, share: float, interlaced: bool, pieces: int
) -> None:
    whole = rows(interlaced)
    assert decode(png(zlib.compress(whole), interlaced=interlaced, pieces=pieces), settings=settings).width == WIDTH
    short = zlib.compress(whole[: int(share * len(whole))])
    assert kind_of_failure(png(short, interlaced=interlaced, pieces=pieces), settings) is ErrorKind.TRUNCATED_IMAGE
    cut = zlib.compress(whole)
    cut = cut[: int(share * (len(cut) - 4))]  # the last four are a checksum
    assert kind_of_failure(png(cut, interlaced=interlaced, pieces=pieces), settings) is ErrorKind.TRUNCATED_IMAGE


@pytest.mark.parametrize("stream", [b"no zlib stream at all", b"", zlib.compress(b"")])
def test_a_png_without_pixels_is_damaged(stream: bytes, settings: Settings) -> None:
    for end in (True, False):
        assert kind_of_failure(png(stream, end=end), settings) is ErrorKind.TRUNCATED_IMAGE


def test_a_png_cut_between_two_chunks_of_pixels_is_damaged(settings: Settings) -> None:
    data = png(zlib.compress(rows()), pieces=3)
    third = data.rindex(b"IDAT") - 4
    assert kind_of_failure(data[:third], settings) is ErrorKind.TRUNCATED_IMAGE
    assert kind_of_failure(data[:third] + chunk(b"IEND", b""), settings) is ErrorKind.TRUNCATED_IMAGE


def test_apples_own_png_is_named_and_not_read(settings: Settings) -> None:
    bare = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = png(bare.compress(rows()) + bare.flush(), first=chunk(b"CgBI", b"\x50\x00\x20\x02"))
    with pytest.raises(ImageError, match="CgBI") as caught:
        decode(data, settings=settings)
    assert caught.value.kind is ErrorKind.NOT_AN_IMAGE


TEXT = zlib.compress(b"history of an editor " * 200_000)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"Comment\0\0" + TEXT),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + TEXT),
        chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
        chunk(b"zTXt", b"Comment\0\0" + TEXT) * 20,
        chunk(b"zTXt", b"Raw profile type exif\0\0" + TEXT),
        chunk(b"zTXt", b"Comment\0\0no zlib stream"),
        chunk(b"iCCP", b"large\0\0" + zlib.compress(b"no profile" * 200_000)),
        chunk(b"iCCP", b"a bomb\0\0" + zlib.compress(bytes(40_000_000))),
        chunk(b"eXIf", b"II*\0" + b"\xff" * 100_000),
    ],
    ids=["zTXt", "iTXt", "tEXt", "twenty zTXt", "EXIF", "no zTXt", "ICC", "ICC bomb", "rubbish EXIF"],
)
def test_what_stands_beside_the_pixels_does_not_matter(extra: bytes, settings: Settings) -> None:
    stream = zlib.compress(rows())
    plain = decode(png(stream), settings=settings).rgb
    np.testing.assert_array_equal(decode(png(stream, extra), settings=settings).rgb, plain)
    behind = png(stream)[: -len(chunk(b"IEND", b""))] + extra + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode(behind, settings=settings).rgb, plain)


def test_a_large_colour_profile_counts(encode: Encode, settings: Settings) -> None:
    from PIL import ImageCms

    swapped = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()) + bytes(3_000_000)
    struct.pack_into(">I", swapped, 0, len(swapped))
    red, blue = swapped.index(b"rXYZ"), swapped.index(b"bXYZ")
    swapped[red : red + 4], swapped[blue : blue + 4] = b"bXYZ", b"rXYZ"
    data = encode(Image.new("RGB", (20, 20), "red"), "PNG", icc_profile=bytes(swapped))
    assert np.abs(decode(data, settings=settings).rgb[5, 5] - np.array([0, 0, 255])).max() <= 4


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()[6:]


@pytest.mark.parametrize("where", ["eXIf in front", "eXIf behind", "tEXt", "zTXt"])
def test_orientation_is_found_wherever_programs_keep_it(where: str, settings: Settings) -> None:
    digits = b"\nexif\n      99\n" + exif_of(6).hex().encode() + b"\n"
    extra = {
        "tEXt": chunk(b"tEXt", b"Raw profile type exif\0" + digits),
        "zTXt": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(digits)),
    }.get(where, chunk(b"eXIf", exif_of(6)))
    data = png(zlib.compress(rows()), *([] if where == "eXIf behind" else [extra]))
    if where == "eXIf behind":
        data = data.replace(chunk(b"IEND", b""), extra + chunk(b"IEND", b""))
    image = decode(data, settings=settings)
    assert (image.width, image.height, image.rgb.shape) == (HEIGHT, WIDTH, (WIDTH, HEIGHT, 3))


def test_orientation_in_xmp_alone_turns_nothing_as_in_browsers(settings: Settings, encode: Encode) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    data = png(zlib.compress(rows()), chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    assert decode(data, settings=settings).rgb.shape == (HEIGHT, WIDTH, 3)
    for form in ("JPEG", "WEBP", "TIFF"):
        options: dict[str, Any] = {"tiffinfo": {700: xmp}} if form == "TIFF" else {"xmp": xmp}
        picture = encode(Image.new("RGB", (WIDTH, HEIGHT)), form, **options)
        assert b"tiff:Orientation" in picture
        assert decode(picture, settings=settings).rgb.shape == (HEIGHT, WIDTH, 3), form


def chunks_of(data: bytes) -> list[bytes]:
    found, at = [], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        found.append(data[at:end])
        at = end
    return found


@pytest.mark.parametrize("interlaced", [False, True])
def test_damage_is_found_however_the_rows_are_ordered(interlaced: bool, settings: Settings) -> None:
    header, pixels, end = chunks_of(png(zlib.compress(rows(interlaced)), interlaced=interlaced))
    of_palette = chunk(b"IHDR", struct.pack(">2I5B", WIDTH, HEIGHT, 8, 3, 0, 0, interlaced))
    palette = chunk(b"PLTE", bytes(range(30)))
    indices = np.zeros((HEIGHT, WIDTH), np.uint8)
    parts = [indices[y::dy, x::dx] for y, x, dy, dx in PASSES] if interlaced else [indices]
    of_indices = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for part in parts for row in part)))
    wrong = bytes([header[-1] ^ 1])
    for damaged in (
        (header, pixels[:-1] + wrong, end),
        (header[:-1] + wrong, pixels, end),
        (header, chunk(b"IDAT", pixels[8:-8]), end),  # without the stream's own checksum
        (of_palette, of_indices, end),
        (of_palette, of_indices, palette, end),
    ):
        assert kind_of_failure(SIGNATURE + b"".join(damaged), settings) is ErrorKind.TRUNCATED_IMAGE
    decode(SIGNATURE + of_palette + palette + of_indices + end, settings=settings)


def of_level(level: int, *extra: bytes, colour: int = 2, bits: int = 8) -> bytes:
    """A picture of one level, opaque."""
    sample = level.to_bytes(bits // 8, "big")
    samples = {0: sample, 2: 3 * sample, 4: sample + b"\xff" * (bits // 8), 6: 3 * sample + b"\xff" * (bits // 8)}[colour]
    header = chunk(b"IHDR", struct.pack(">2I5B", 20, 20, bits, colour, 0, 0, 0))
    stream = zlib.compress((b"\0" + samples * 20) * 20)
    return SIGNATURE + header + b"".join(extra) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def gama(gamma: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(gamma * 100_000)))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_gamma_counts_as_in_browsers(colour: int, bits: int, settings: Settings) -> None:
    level = 55 if bits == 8 else 55 * 257

    def shown(*extra: bytes) -> int:
        return int(decode(of_level(level, *extra, colour=colour, bits=bits), settings=settings).rgb[9, 9, 1])

    assert abs(shown(gama(1)) - 128) <= 1
    assert abs(shown(gama(1 / 1.8)) - 71) <= 1
    for same in ((), (gama(0.45455),), (gama(0.46),), (gama(0),), (chunk(b"gAMA", b"\1"),), (chunk(b"sRGB", b"\0"), gama(1))):
        assert shown(*same) == 55, same
    assert shown(gama(1), chunk(b"cICP", b"\1\x0d\0\1")) == 55


P3 = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"cHRM", struct.pack(">8I", *(round(part * 100_000) for part in P3))) + gama(0.45455),
        chunk(b"cICP", b"\x0c\x0d\0\1"),
        chunk(b"iCCP", b"wrong\0\0" + zlib.compress(b"no profile")) + chunk(b"cICP", b"\x0c\x0d\0\1"),
    ],
)
def test_primaries_count(extra: bytes, settings: Settings) -> None:
    def light(level: float) -> float:
        return float(((level / 255 + 0.055) / 1.055) ** 2.4)

    def level(light: float) -> float:
        return float(255 * (1.055 * light ** (1 / 2.4) - 0.055))

    header, pixels, end = chunks_of(png(zlib.compress(b"".join(b"\0" + bytes([100, 150, 150]) * WIDTH for _ in range(HEIGHT)))))
    rgb = decode(SIGNATURE + header + extra + pixels + end, settings=settings).rgb[5, 5]
    # Display P3's red in sRGB's primaries is 1.2249 of red and -0.2249 of green (and of blue, nearly).
    assert abs(rgb[0] - level(1.2249 * light(100) - 0.2249 * light(150))) <= 2
    assert rgb[0] < 85


def test_high_dynamic_range_has_its_reference_white_as_white(settings: Settings) -> None:
    pq, hlg = (chunk(b"cICP", bytes([9, transfer, 0, 1])) for transfer in (16, 18))
    for tag, signal, level in (
        *((pq, 0.0, 0), (pq, 0.4403, 136), (pq, 0.59, 255), (pq, 1.0, 255)),  # 50 cd/m2, 203
        *((hlg, 0.0, 0), (hlg, 0.5, 137), (hlg, 0.75, 255), (hlg, 1.0, 255)),
    ):
        rgb = decode(of_level(round(signal * 65535), tag, bits=16), settings=settings).rgb[9, 9].astype(int)
        assert np.abs(rgb - level).max() <= 3, (tag, signal, rgb)


def test_of_many_packed_profiles_one_is_unfolded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(png_reader, "_profile", lambda body: seen.append(body))
    bomb = hostile.chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 16)))
    assert decode(hostile.png((64, 64), 8, 2, before=bomb * 500), settings=settings).rgb.shape == (64, 64, 3)
    assert len(seen) == 1
