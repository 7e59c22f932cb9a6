"""Decoding in a process of its own, with limits of memory and time: for files that are out of the ordinary, and for those that
were at work when a run died. Neither a decoder's crash nor the kernel's out-of-memory killer reaches the run then.

The process is isolated_worker.py: a thread keeps one for its ordinary pictures; one that is out of the ordinary has a new one to
itself. What does not belong here: which files need it (headers/), pixels (decoders.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from depth_core.display import printable
from depth_core.errors import ErrorKind, ImageError

if TYPE_CHECKING:
    from depth_core.ingest.images.headers import Header
    from depth_core.settings import Settings

_SETTINGS = ("max_image_pixels", "min_image_side", "strict_extension")  # all that decoders.py reads of them
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT")
_PROGRAM = ("-P", "-S", "-m", "depth_core.ingest.images.isolated_worker")  # -S: PYTHONPATH has every folder to import from
_SLACK = 256 << 20  # address space for threads' stacks and the allocator's reserves
MAX_MESSAGES = 1 << 20  # bytes that the libraries' warnings may take
_WALL_SECONDS_PER_CPU_SECOND = 4  # a busy machine may take so much longer
_SLOTS = threading.BoundedSemaphore(max(1, min(4, os.cpu_count() or 1)))  # pictures decoded at once
_OF_THREAD = threading.local()  # the process that this thread keeps

Check = Callable[[int, int], object]
Decoded = tuple[dict[str, Any], npt.NDArray[np.uint8]]


def decode(data: bytes, header: Header, *, name: str, settings: Settings, check: Check | None) -> Decoded:
    """The fields of DecodedImage without its pixels, and the pixels: the same that decoders.decode returns in this process.

    Raises ImageError as that does, and OUT_OF_MEMORY, or WORKER_LOST when the process crashed or took longer than
    DEPTH_DECODE_SECONDS. macOS does not enforce the limit of memory.
    """
    memory = max(header.second_try_bytes, 64 << 20)
    request = {
        "bytes": len(data),
        "name": name,
        "settings": {key: getattr(settings, key) for key in _SETTINGS},
        "has_check": check is not None,
        "memory": memory,
        "address_space": len(data) + memory + _SLACK,
        "seconds": settings.decode_seconds,
    }
    with _SLOTS:
        process = _Process() if header.unusual else _process_of_thread()
        answer = process.ask(request, data, check)
        if process.died and process.pictures > 1:  # pictures before this one may have done the harm
            process = _Process()
            answer = process.ask(request, data, check)
        if header.unusual:
            process.end()
        elif process.end.alive:
            _OF_THREAD.process = process
    if isinstance(answer, ImageError):
        raise answer
    return answer


def _process_of_thread() -> _Process:
    """The process that this thread keeps; a new one when it has none. The caller puts it back."""
    process: _Process | None = _OF_THREAD.__dict__.pop("process", None)
    return process if process is not None and process.parent == os.getpid() else _Process()


class _Process:
    """A decoding process. It ends when it is no longer referenced, and with the thread that started it."""

    def __init__(self) -> None:
        self.parent = os.getpid()
        self.pictures = 0  # how many it was given
        self.died = False  # by itself, while it had a picture
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - what it says of the picture that it has; `_end` closes it
        self._running = _start(self._messages)
        self.end = weakref.finalize(self, _end, self._running, self._messages, self.parent)

    def ask(self, request: dict[str, Any], data: bytes, check: Check | None) -> Decoded | ImageError:
        """The decoded picture, or why there is none. The process has ended when it crashed, and when `check` raised."""
        self.pictures += 1
        self._messages.seek(0)  # the process shares this position
        self._messages.truncate()
        late, running = threading.Event(), self._running

        def kill_late() -> None:
            late.set()
            running.kill()

        clock = threading.Timer(request["seconds"] * _WALL_SECONDS_PER_CPU_SECOND, kill_late)
        clock.daemon = True
        clock.start()
        answer = None
        try:
            answer = _exchange(running, request, data, check)
            if answer is None:
                code = running.wait()  # its exit code says why; the timer still runs
                self.died = not late.is_set()
                return _failure(code, request, self._messages, late=late.is_set())
            return answer
        finally:
            clock.cancel()
            if answer is None:
                self.end()


def _start(messages: IO[bytes]) -> subprocess.Popen[bytes]:
    environment = {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ}
    root = str(Path(__file__).resolve().parents[3])
    environment["PYTHONPATH"] = os.pathsep.join([root, *(os.path.abspath(place) for place in sys.path if place)])
    # Each thread's arena and stack is address space, which is what the limit counts.
    environment |= {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, *_PROGRAM]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages, env=environment, cwd=os.path.abspath(os.sep)
    )


def _end(process: subprocess.Popen[bytes], messages: IO[bytes], parent: int) -> None:
    if parent != os.getpid():  # a copy of the process that started it
        return
    process.kill()
    with suppress(BrokenPipeError), process:  # closes its pipes and waits
        pass
    messages.close()


def _exchange(
    process: subprocess.Popen[bytes], request: dict[str, Any], data: bytes, check: Check | None
) -> Decoded | ImageError | None:
    """The response of the process; None when it ended without one. Raises what `check` raises."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.write(json_line(request))
        process.stdin.write(data)
        process.stdin.flush()
    while line := process.stdout.readline(MAX_MESSAGES):
        try:
            answer = json.loads(line)
        except ValueError:  # it ended while it wrote
            return None
        if "size" in answer:
            assert check is not None
            check(*answer["size"])
            with suppress(BrokenPipeError):
                process.stdin.write(b"\n")
                process.stdin.flush()
        elif "error" in answer:
            kind, message = answer["error"]
            return ImageError(ErrorKind(kind), message)
        else:
            height, width = answer["shape"]
            if width * height != answer["image"]["width"] * answer["image"]["height"]:
                return None
            pixels = np.empty((height, width, 3), np.uint8)
            left = pixels.reshape(-1).data
            while left and (count := process.stdout.readinto(left)):  # type: ignore[attr-defined]
                left = left[count:]
            return None if left else (answer["image"], pixels)
    return None


def json_line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _failure(code: int, request: dict[str, Any], messages: IO[bytes], *, late: bool) -> ImageError:
    """Why the process ended without a response."""
    if late or code == -signal.SIGXCPU:
        return ImageError(
            ErrorKind.WORKER_LOST,
            f"decoding took longer than {request['seconds']:g} s (DEPTH_DECODE_SECONDS)",
        )
    if code in (-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP):
        return ImageError(ErrorKind.INTERNAL, f"the decoding process was ended from outside ({_name(code)})")
    if code == -signal.SIGKILL:
        return ImageError(
            ErrorKind.OUT_OF_MEMORY,
            f"the system killed the decoding process, probably for its memory use of up to {request['memory'] >> 20:,} MiB",
        )
    messages.seek(0)
    output = printable(messages.read().decode(errors="replace").strip()[-300:])
    return ImageError(ErrorKind.WORKER_LOST, f"the decoding process crashed ({_name(code)}){': ' if output else ''}{output}")


def _name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"
