"""What a header tells: the size that decoding finds, no less memory than decoding takes, and what is out of the ordinary."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import hostile
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest import headers
from depth_core.ingest.decode import decode
from depth_core.settings import Settings

PHOTOS = Path(__file__).parents[2] / "data" / "photos"
SIZE = (1300, 1200)


# Decodes each file in a process of its own, all alike at their beginning, and says the most memory that took beyond what it had.
MEASURE = """
import json, os, resource, sys
from pathlib import Path
from depth_core.ingest import decode, headers
from depth_core.settings import Settings

def most(line):
    return next(int(text.split()[1]) for text in open("/proc/self/status") if text.startswith(line)) * 1024

settings = Settings()
taken = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    data = path.read_bytes()
    reading, writing = os.pipe()
    if not os.fork():
        Path("/proc/self/clear_refs").write_text("5")
        before = most("VmRSS")
        decode.here(data, headers.inspect(data), name="", settings=settings, wanted=None, reduce=True)
        os.write(writing, str(most("VmHWM") - before).encode())
        os._exit(0)
    os.close(writing)
    taken[path.name] = int(os.read(reading, 100) or -1)
    os.close(reading)
    os.wait()
print(json.dumps(taken))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the most memory that one step took is told by Linux alone")
def test_decoding_takes_no_more_memory_than_the_header_tells(tmp_path: Path) -> None:
    files = hostile.varieties(SIZE)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    measured = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    taken = json.loads(measured.stdout)
    assert set(taken) == set(files)
    loaded = 3 << 20  # a decoder's own code and tables, when it is used for the first time
    told = {name: headers.inspect(data).decode_bytes for name, data in files.items()}
    assert {name: (size, told[name]) for name, size in taken.items() if not 0 < size <= told[name] + loaded} == {}


def test_a_header_tells_the_size_that_decoding_finds(settings: Settings) -> None:
    for name, data in hostile.varieties((60, 40)).items():
        header, image = headers.inspect(data), decode(data, settings=settings)
        assert header.form == image.format, name
        assert {header.width, header.height} == {image.width, image.height} == {60, 40}, name
        assert not header.odd, name


def test_ordinary_photos_are_ordinary() -> None:
    told = [headers.inspect(path.read_bytes()) for path in sorted(PHOTOS.iterdir())]
    assert {header.form for header in told} == {"jpeg", "png", "webp", ""}  # "": the one that is no photo
    assert [header.odd for header in told if header.odd] == []


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (hostile.many_scans(1_100), "1,000 scans"),
        (hostile.many_chunks(200_001), "200,000 chunks"),
        (hostile.gif_with_blocks(200_001), "200,000 blocks"),
        (hostile.tiff_with_strips(1_000_001), "1,000,000 values"),
        (b"\xff\xd8" + b"\xff\xe0\0\2" * 200_001 + b"\xff\xda\0\2", "200,000 segments"),
        (b"RIFF\0\0\0\0WEBP" + b"ANMF\0\0\0\0" * 200_001, "200,000 chunks"),
    ],
    ids=["scans", "chunks", "GIF", "strips", "segments", "WebP"],
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
        (hostile.webp_of_one_colour((16_000, 16_000)), "pixels"),
        (hostile.webp_of_one_colour((6_000, 6_000)), "pixels in"),
        (hostile.png((16, 16), 8, 2, before=hostile.chunk(b"teXt", bytes(9 << 20))), "metadata"),
    ],
    ids=["scans", "chunks", "GIF", "strips", "pixels", "ratio", "text"],
)
def test_what_is_far_from_ordinary_is_odd(data: bytes, why: str) -> None:
    assert why in headers.inspect(data).odd


def test_a_picture_larger_than_its_header_tells_is_decoded_in_a_process_of_its_own(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = hostile.encoded("RGB", (80, 60), "PNG")
    told = headers.Header("png", 8, 8, 14)
    monkeypatch.setattr(headers, "inspect", lambda data: told)
    image = decode(data, settings=settings)
    assert (image.width, image.height) == (80, 60)


@given(name=st.sampled_from(sorted(hostile.varieties((24, 16)))), data=st.data())
def test_damaged_files_tell_something_or_nothing(name: str, data: st.DataObject) -> None:
    whole = bytearray(hostile.varieties((24, 16))[name])
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    told = headers.Header()
    with suppress(ImageError):  # of an absurd count
        told = headers.inspect(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    assert told.decode_bytes >= 0
