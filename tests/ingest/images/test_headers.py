"""What a header tells: the size that decoding finds, no less memory than decoding takes, and what is out of the ordinary."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import hostile
import pytest
import textured
from hypothesis import given
from hypothesis import strategies as st

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.images import headers
from depth_core.ingest.images.decode import decode
from depth_core.settings import Settings

PHOTOS = Path(__file__).parents[3] / "data" / "photos"
SIZE = (1600, 1072)
NETWORK = (784, 518)
MEBI = 1 << 20

# Decodes each file in a process of its own, all alike at their beginning, and says the most memory that took beyond what it had,
# and what the header says. With the size of a network: decodes and resizes for one of the second and of the third version.
MEASURE = """
import ctypes, json, os, sys
from pathlib import Path
import numpy as np
from depth_core.ingest.images import decoders, headers
from depth_core.settings import Settings

def most(line):
    return next(int(text.split()[1]) for text in open("/proc/self/status") if text.startswith(line)) * 1024

def decoded(data, header):
    return decoders.decode(data, header, name="", settings=settings, check=None).rgb

folder, network = Path(sys.argv[1]), json.loads(sys.argv[2])
settings, taken, ways = Settings(), {}, {"decode": None}
if network:
    import torch
    from depth_core.inference.preprocessing import area_or_cubic, cubic, normalised
    torch.set_num_threads(1)
    ways = {"v2": cubic, "v3": area_or_cubic}
    for way in ways.values():
        normalised(way(np.zeros((900, 1200, 3), np.uint8), network))
for path in (folder / "small").iterdir():  # a decoder's own code and tables are there then
    decoded(path.read_bytes(), headers.inspect(path.read_bytes()))
for path in sorted((folder / "large").iterdir()):
    for name, resize in ways.items():
        reading, writing = os.pipe()
        if not os.fork():
            data = path.read_bytes()
            header = headers.inspect(data)
            ctypes.CDLL(None).malloc_trim(0)  # what is free already is taken without being seen
            Path("/proc/self/clear_refs").write_text("5")
            before = most("VmRSS")
            rgb = decoded(data, header)
            if resize is not None:
                normalised(resize(rgb, network))
            inspected = header.decode_bytes if resize is None else header.prepare_bytes(network)
            os.write(writing, json.dumps([most("VmHWM") - before, inspected]).encode())
            os._exit(0)
        os.close(writing)
        taken[f"{path.stem}, {name}"] = json.loads(os.read(reading, 100) or "[0, 0]")
        os.close(reading)
        os.wait()
print(json.dumps(taken))
"""


def measured(
    folder: Path, large: Iterable[tuple[str, bytes]], small: Iterable[tuple[str, bytes]], network: tuple[int, int] | None = None
) -> dict[str, tuple[int, int]]:
    """Of each large file the bytes that it took, and those that its header tells. Decoding the small ones loads the decoders."""
    for kind, files in (("large", large), ("small", small)):
        (folder / kind).mkdir()
        for name, data in files:
            (folder / kind / name).write_bytes(data)
    command = [sys.executable, "-c", MEASURE, str(folder), json.dumps(network)]
    # An allocator that gives back what is free at once: what is asked for is measured, and not what it keeps by its habits.
    habits = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | habits)
    return {name: (taken, inspected) for name, (taken, inspected) in json.loads(ended.stdout).items()}


@pytest.mark.skipif(sys.platform != "linux", reason="the most memory that one step took is told by Linux alone")
def test_a_header_tells_the_memory_that_decoding_takes_and_hardly_more(tmp_path: Path) -> None:
    sizes = measured(tmp_path, textured.files(SIZE), textured.files((48, 32)))
    assert len(sizes) == len(list((tmp_path / "large").iterdir())) > 50
    assert {name: size for name, size in sizes.items() if size[0] < 2 * SIZE[0] * SIZE[1]} == {}, "is not seen"
    assert {name: size for name, size in sizes.items() if size[0] > size[1] + MEBI} == {}, "takes more"
    # Beside what grows with the pixels, pieces of files and pictures are counted that not every file needs.
    pieces = {name: 38 * MEBI if name.startswith(("tiff float", "tiff I")) else 19 * MEBI for name in sizes}
    assert {name: size for name, size in sizes.items() if size[1] > 1.3 * size[0] + pieces[name]} == {}, "takes far less"


@pytest.mark.skipif(sys.platform != "linux", reason="the most memory that one step took is told by Linux alone")
def test_the_whole_way_of_a_photo_to_the_network_takes_what_its_header_tells(tmp_path: Path) -> None:
    large = [(f"{size}", hostile.encoded("RGB", size, "JPEG")) for size in ((1600, 1200), (3000, 4000), (6000, 4000))]
    sizes = measured(tmp_path, large, [("jpeg", hostile.encoded("RGB", (48, 32), "JPEG"))], NETWORK)
    assert len(sizes) == 6
    assert {name: size for name, size in sizes.items() if not 0 < size[0] <= size[1] + MEBI} == {}, "takes more"
    assert {name: size for name, size in sizes.items() if size[1] > 1.3 * size[0] + 24 * MEBI} == {}, "takes far less"


def test_a_second_decoder_has_room_before_it_is_tried(settings: Settings) -> None:
    data = hostile.encoded("RGB", (800, 600), "JPEG").replace(b"JFIF\0\1", b"JFIF\0\5", 1)  # libjpeg warns of it
    header = headers.inspect(data)
    assert header.decode_bytes < header.second_try_bytes
    with pytest.raises(ImageError, match=r"800 x 600 pixels of this jpeg need .* \(DEPTH_DECODE_MEMORY\)") as caught:
        decode(data, settings=settings.model_copy(update={"decode_memory": header.decode_bytes}))
    assert caught.value.kind is ErrorKind.TOO_MANY_PIXELS
    enough = settings.model_copy(update={"decode_memory": header.second_try_bytes})
    assert decode(data, settings=enough).rgb.shape == (600, 800, 3)
    assert decode(data, settings=enough, isolate=True).rgb.shape == (600, 800, 3)


def test_a_header_tells_the_size_that_decoding_finds(settings: Settings) -> None:
    for name, data in hostile.varieties((60, 40)).items():
        header, image = headers.inspect(data), decode(data, settings=settings)
        assert header.format == image.format, name
        assert {header.width, header.height} == {image.width, image.height} == {60, 40}, name
        assert not header.unusual, name


def test_ordinary_photos_are_ordinary() -> None:
    inspected = [headers.inspect(path.read_bytes()) for path in sorted(PHOTOS.iterdir())]
    assert {header.format for header in inspected} == {"jpeg", "png", "webp", ""}  # "": the one that is no photo
    assert [header.unusual for header in inspected if header.unusual] == []


def test_large_photos_and_scans_that_a_laptop_can_hold_are_ordinary() -> None:
    jpeg = bytearray(hostile.encoded("RGB", (64, 64), "JPEG"))
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, 12_288, 16_384)  # 200 megapixels, as telephones make
    phone = headers.inspect(bytes(jpeg[:-2]) + bytes(40_000_000) + b"\xff\xd9")
    scan = struct.pack(">IIBBBBB", 8_000, 12_500, 8, 2, 0, 0, 0)
    deep = struct.pack(">IIBBBBB", 10_000, 8_000, 16, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n"
    others = [
        headers.inspect(start + hostile.chunk(b"IHDR", head) + hostile.chunk(b"IDAT", bytes(60_000_000)) + hostile.chunk(b"IEND"))
        for head in (scan, deep)
    ]
    for header, pixels in zip((phone, *others), (201_326_592, 100_000_000, 80_000_000), strict=True):
        assert (header.pixels, header.unusual) == (pixels, "")
        assert header.prepare_bytes((784, 518)) < 2 << 30  # half of what such a machine has free


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (hostile.many_scans(1_100), "1,000 scans"),
        (hostile.many_chunks(200_001), "200,000 chunks"),
        (hostile.gif_with_blocks(200_001), "200,000 blocks"),
        (hostile.tiff_with_strips(1_000_001), "1,000,000 values"),
        (b"\xff\xd8" + b"\xff\xe0\0\2" * 200_001 + b"\xff\xda\0\2", "200,000 segments"),
        (b"\xff\xd8" + b"\xff" * 200_002 + b"\xff\xda\0\2", "200,000 stray bytes"),
        (b"RIFF\0\0\0\0WEBP" + b"ANMF\0\0\0\0" * 200_001, "200,000 chunks"),
    ],
    ids=["scans", "chunks", "GIF", "strips", "segments", "fill", "WebP"],
)
def test_an_absurd_count_is_a_bomb(data: bytes, what: str, settings: Settings) -> None:
    with pytest.raises(ImageError, match=f"a decompression bomb: more than {what}") as caught:
        decode(data, settings=settings)
    assert caught.value.kind is ErrorKind.TOO_MANY_PIXELS


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (hostile.many_scans(60), "scans"),
        (hostile.many_chunks(20_001), "chunks"),
        (hostile.gif_with_blocks(5_001), "blocks"),
        (hostile.tiff_with_strips(100_001), "values"),
        (hostile.webp_of_one_colour((16_000, 16_000)), "pixels in"),
        (hostile.webp_of_one_colour((6_000, 6_000)), "pixels in"),
        (hostile.png((16, 16), 8, 2, before=hostile.chunk(b"teXt", bytes(9 << 20))), "metadata"),
        (hostile.jpeg_with_segments(140, 65_000), "metadata"),
        (hostile.jpeg_with_segments(20_001, 2), "segments"),
        (hostile.encoded("L", (64, 64), "TIFF", compression="lzma"), "compression 34925"),
    ],
    ids=["scans", "chunks", "GIF", "strips", "pixels", "ratio", "text", "EXIF", "segments", "LZMA"],
)
def test_what_is_far_from_ordinary_is_odd(data: bytes, why: str) -> None:
    assert why in headers.inspect(data).unusual


def test_a_picture_larger_than_its_header_tells_is_decoded_in_a_process_of_its_own(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = hostile.encoded("RGB", (80, 60), "PNG")
    inspected = headers.Header("png", 8, 8, 14)
    monkeypatch.setattr(headers, "inspect", lambda data: inspected)
    image = decode(data, settings=settings)
    assert (image.width, image.height) == (80, 60)


SMALL = hostile.varieties((24, 16))


@given(name=st.sampled_from(sorted(SMALL)), data=st.data())
def test_damaged_files_tell_something_or_nothing(name: str, data: st.DataObject) -> None:
    whole = bytearray(SMALL[name])
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    inspected = headers.Header()
    with suppress(ImageError):  # of an absurd count
        inspected = headers.inspect(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    assert inspected.decode_bytes >= 0
