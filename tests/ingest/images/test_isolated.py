"""Decoding in a process of its own: the same picture, the same failures, and no harm from what kills it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import IO

import hostile
import numpy as np
import pytest

from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.images import headers, isolated
from depth_core.ingest.images.decode import decode
from depth_core.settings import Settings

PHOTOS = Path(__file__).parents[3] / "data" / "photos"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes of this test: none is kept from another."""
    processes: list[subprocess.Popen[bytes]] = []
    start = isolated._start

    def watched(messages: IO[bytes]) -> subprocess.Popen[bytes]:
        processes.append(start(messages))
        return processes[-1]

    monkeypatch.setattr(isolated, "_start", watched)
    monkeypatch.setattr(isolated, "_OF_THREAD", threading.local())
    return processes


def failure(data: bytes, settings: Settings) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, settings=settings, isolate=True)
    return caught.value


@pytest.mark.parametrize("name", ["palace.jpg", "photographer.png", "room.webp"])
def test_it_is_the_same_picture(name: str, settings: Settings) -> None:
    data = (PHOTOS / name).read_bytes()
    here, there = decode(data, settings=settings), decode(data, settings=settings, isolate=True)
    assert all(getattr(here, field.name) == getattr(there, field.name) for field in fields(here) if field.name != "rgb")
    assert np.array_equal(here.rgb, there.rgb)
    assert there.rgb.flags.c_contiguous
    assert there.rgb.flags.writeable


def test_it_is_asked_whether_a_size_can_be_used(settings: Settings) -> None:
    data, asked = hostile.encoded("RGB", (800, 600), "JPEG"), []

    def check(width: int, height: int) -> None:
        asked.append((width, height))

    here, there = (decode(data, settings=settings, check=check, isolate=apart) for apart in (False, True))
    np.testing.assert_array_equal(here.rgb, there.rgb)
    assert asked == [(800, 600), (800, 600)]


def test_a_size_that_is_refused_is_that_failure(settings: Settings) -> None:
    def refuse(width: int, height: int) -> tuple[int, int]:
        raise ImageError(ErrorKind.NETWORK_TOO_LARGE, "too thin")

    with pytest.raises(ImageError, match="too thin"):
        decode(hostile.encoded("RGB", (800, 600), "JPEG"), settings=settings, check=refuse, isolate=True)


@pytest.mark.parametrize(
    "data", [b"<html>", b"", hostile.png((80, 60), 8, 2)[:-40], hostile.png((4, 4), 8, 2)], ids=["page", "empty", "cut", "small"]
)
def test_it_fails_as_it_would_here(data: bytes, settings: Settings) -> None:
    with pytest.raises(ImageError) as here:
        decode(data, settings=settings)
    there = failure(data, settings)
    assert (there.kind, there.message) == (here.value.kind, here.value.message)


def test_what_takes_too_long_is_ended(settings: Settings) -> None:
    slow = hostile.many_scans(900, (4000, 3000))
    error = failure(slow, settings.model_copy(update={"decode_seconds": 1.0}))
    assert (error.kind, error.kind.retryable) == (ErrorKind.WORKER_LOST, False)
    assert error.message == "decoding took longer than 1 s (DEPTH_DECODE_SECONDS)"


@pytest.mark.usefixtures("started")
def test_what_sleeps_is_ended_too(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "_PROGRAM", ("-c", "import signal; signal.pause()"))
    error = failure(hostile.png((80, 60), 8, 2), settings.model_copy(update={"decode_seconds": 0.1}))
    assert error.kind is ErrorKind.WORKER_LOST
    assert "DEPTH_DECODE_SECONDS" in error.message


@pytest.mark.parametrize(
    ("end", "kind", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", ErrorKind.WORKER_LOST, "crashed (SIGSEGV)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", ErrorKind.OUT_OF_MEMORY, "the system killed the decoding process"),
        ("os.kill(os.getpid(), signal.SIGTERM)", ErrorKind.INTERNAL, "ended from outside (SIGTERM)"),
        ("sys.exit('libtiff: assertion failed')", ErrorKind.WORKER_LOST, "crashed (exit status 1): libtiff: assertion failed"),
        ("os.write(1, b'{\"shape\": [60, 80], '); os._exit(0)", ErrorKind.WORKER_LOST, "crashed (exit status 0)"),
    ],
)
@pytest.mark.usefixtures("started")
def test_however_it_dies_one_image_fails_and_says_why(
    end: str, kind: ErrorKind, said: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = f"import os, signal, sys; sys.stdin.buffer.readline(); {end}"
    monkeypatch.setattr(isolated, "_PROGRAM", ("-c", program))
    error = failure(hostile.png((80, 60), 8, 2), settings)
    assert error.kind is kind
    assert said in error.message


# A decoder of which the test says what harms it: a picture named "kill" kills it, one named "harm" the picture after it.
FRAGILE = """
import os, signal, sys
sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
from depth_core.ingest.images import decoders, isolated_worker
ordinary, harmed = decoders.decode, []
def here(data, **kwargs):
    if kwargs["name"] == "kill" or harmed:
        os.kill(os.getpid(), signal.SIGSEGV)
    harmed.extend(["harm"] * (kwargs["name"] == "harm"))
    return ordinary(data, **kwargs)
decoders.decode = here
isolated_worker.main()
"""


def how_they_end(names: list[str], settings: Settings) -> list[str]:
    ends = []
    for name in names:
        try:
            decode(hostile.png((80, 60), 8, 2), name=name, settings=settings, isolate=True)
            ends.append("")
        except ImageError as error:
            ends.append(error.message)
    return ends


def test_ordinary_pictures_share_a_process_until_one_kills_it(settings: Settings, monkeypatch, started) -> None:
    monkeypatch.setattr(isolated, "_PROGRAM", ("-P", "-S", "-c", FRAGILE))
    crashed = "the decoding process crashed (SIGSEGV)"
    assert how_they_end(["a", "b", "kill", "c", "d"], settings) == ["", "", crashed, "", ""]
    assert [process.poll() for process in started] == [-signal.SIGSEGV, -signal.SIGSEGV, None]


def test_what_dies_of_the_picture_before_it_is_tried_in_a_new_process(settings: Settings, monkeypatch, started) -> None:
    monkeypatch.setattr(isolated, "_PROGRAM", ("-P", "-S", "-c", FRAGILE))
    assert how_they_end(["harm", "a", "b"], settings) == ["", "", ""]
    assert [process.poll() for process in started] == [-signal.SIGSEGV, None]


def test_a_picture_out_of_the_ordinary_has_a_new_process_to_itself(settings: Settings, started) -> None:
    ordinary, odd = hostile.png((80, 60), 8, 2), hostile.many_scans(120, (80, 60))
    assert headers.inspect(odd).unusual
    for data in (ordinary, odd, ordinary, odd):
        decode(data, settings=settings, isolate=True)
    assert [process.poll() for process in started] == [None, -signal.SIGKILL, -signal.SIGKILL]


def test_a_failure_is_no_reason_for_another_process(settings: Settings, started) -> None:
    for _ in range(3):
        failure(hostile.png((80, 60), 8, 2)[:-40], settings)
    assert len(started) == 1


def kind(data: bytes, header: headers.Header, settings: Settings) -> ErrorKind | None:
    try:
        isolated.decode(data, header, name="", settings=settings, check=None)
    except ImageError as error:
        return error.kind
    return None


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not keep a limit of memory")
def test_what_takes_more_memory_than_was_counted_on_fails_alone(settings: Settings, monkeypatch, started) -> None:
    monkeypatch.setattr(isolated, "_SLACK", 16 << 20)
    data = hostile.png((3_000, 3_000), 16, 6)
    true, lying = headers.Header("png", 3_000, 3_000, 18), headers.Header("png", 100, 100, 18)
    ends = [kind(data, header, settings) for header in (true, lying, true)]
    assert ends == [None, ErrorKind.OUT_OF_MEMORY, None]
    assert len(started) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="macOS does not keep a limit of memory")
def test_what_every_process_may_take_beside_is_too_little_for_a_large_picture(settings: Settings) -> None:
    large = hostile.webp_of_one_colour((12_000, 12_000))
    assert kind(large, headers.Header("webp", 100, 100, 18), settings) is ErrorKind.OUT_OF_MEMORY


def test_a_thread_takes_its_process_with_it(settings: Settings, started) -> None:
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            pool.submit(decode, hostile.png((80, 60), 8, 2), settings=settings, isolate=True).result()
        assert [process.poll() for process in started] == [None]
    assert [process.wait(60) for process in started] == [-signal.SIGKILL]


def test_a_size_that_is_refused_leaves_no_process_that_waits_for_an_answer(settings: Settings, started) -> None:
    def refuse(width: int, height: int) -> tuple[int, int]:
        raise ImageError(ErrorKind.NETWORK_TOO_LARGE, "too thin")

    data = hostile.encoded("RGB", (800, 600), "JPEG")
    with pytest.raises(ImageError, match="too thin"):
        decode(data, settings=settings, check=refuse, isolate=True)
    assert decode(data, settings=settings, isolate=True).rgb.shape == (600, 800, 3)
    assert [process.poll() for process in started] == [-signal.SIGKILL, None]


def test_several_at_once_are_kept_apart(settings: Settings) -> None:
    sizes = [(40 + n, 30) for n in range(3)]
    with ThreadPoolExecutor(3) as pool:
        images = list(pool.map(lambda size: decode(hostile.png(size, 8, 2), settings=settings, isolate=True), sizes))
    assert [(image.width, image.height) for image in images] == sizes


def test_every_variety_comes_through(settings: Settings) -> None:
    always = settings.model_copy(update={"decode_isolation": "all"})
    for name, data in list(hostile.varieties((60, 40)).items())[::9]:
        assert np.array_equal(decode(data, settings=always).rgb, decode(data, settings=settings).rgb), name


def test_it_sees_no_secret_and_loads_no_torch(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTH_API_KEYS", "me:secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    seen = "import os; print(sorted(name for name in os.environ if 'KEY' in name))"
    monkeypatch.setattr(isolated, "_PROGRAM", ("-P", "-S", "-c", seen))
    with open(os.devnull, "wb") as messages, isolated._start(messages) as asked:
        assert asked.communicate()[0] == b"[]\n"
    program = "import sys, depth_core.ingest.images.isolated_worker; print('torch' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout == "False\n"
