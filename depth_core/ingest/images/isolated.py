"""Decoding in a process of its own, with limits of memory and time: for files that are out of the ordinary, and for those that
were at work when a run died. Neither a decoder's fault nor the kernel's killer reaches the run then.

python -m depth_core.ingest.images.isolated is that process: pictures through its pipes, one after another. It loads no torch,
sees no secret of the environment and ends with its parent. A thread keeps one for its ordinary pictures; one that is out of the
ordinary has a new one to itself. What does not belong here: which files need it (headers.py), pixels (decode.py).
"""

from __future__ import annotations

import ctypes
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
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from depth_core.display import printable
from depth_core.errors import ErrorKind, ImageError, row_failure

if TYPE_CHECKING:
    from depth_core.ingest.images.headers import Header
    from depth_core.settings import Settings

_SETTINGS = ("max_image_pixels", "min_image_side", "strict_extension")  # all that decode.py asks of them
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT")
_PROGRAM = ("-P", "-S", "-m", "depth_core.ingest.images.isolated")  # -S: it is told all places to import from
_SLACK = 256 << 20  # address space for threads' stacks and the allocator's reserves
_MESSAGES = 1 << 20  # bytes that the libraries' warnings may take
_PATIENCE = 4  # seconds by the clock for each of the processor's, on a machine that is busy with other things
_AT_ONCE = threading.BoundedSemaphore(max(1, min(4, os.cpu_count() or 1)))  # pictures
_MINE = threading.local()  # the process that this thread keeps

Check = Callable[[int, int], object]
Decoded = tuple[dict[str, Any], npt.NDArray[np.uint8]]


def decode(data: bytes, header: Header, *, name: str, settings: Settings, check: Check | None) -> Decoded:
    """The fields of decode.DecodedImage but for its pixels, and these: the same that decode.decode gives here.

    Raises ImageError as that does, and OUT_OF_MEMORY, or WORKER_LOST when the process crashed or took longer than
    DEPTH_DECODE_SECONDS. macOS does not keep the limit of memory; that of time holds everywhere.
    """
    memory = max(header.second_try_bytes, 64 << 20)
    request = {
        "bytes": len(data),
        "name": name,
        "settings": {key: getattr(settings, key) for key in _SETTINGS},
        "asks": check is not None,
        "memory": memory,
        "address_space": len(data) + memory + _SLACK,
        "seconds": settings.decode_seconds,
    }
    with _AT_ONCE:
        process = _Process() if header.odd else _mine()
        answer = process.ask(request, data, check)
        if process.died and process.pictures > 1:  # pictures before this one may have done the harm
            process = _Process()
            answer = process.ask(request, data, check)
        if header.odd:
            process.end()
        elif process.end.alive:
            _MINE.process = process
    if isinstance(answer, ImageError):
        raise answer
    return answer


def _mine() -> _Process:
    """The process that this thread keeps, until another picture has had it; a new one when there is none."""
    process: _Process | None = _MINE.__dict__.pop("process", None)
    return process if process is not None and process.parent == os.getpid() else _Process()


class _Process:
    """A process that decodes. It ends when nobody holds it, and with the thread that started it."""

    def __init__(self) -> None:
        self.parent = os.getpid()
        self.pictures = 0  # that it was given
        self.died = False  # by itself, while it had a picture
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 - what it says of the picture that it has; `_end` closes it
        self._running = _started(self._messages)
        self.end = weakref.finalize(self, _end, self._running, self._messages, self.parent)

    def ask(self, request: dict[str, Any], data: bytes, check: Check | None) -> Decoded | ImageError:
        """What it answers, or why it does not: then it has ended, as it has when this raises what `check` raises."""
        self.pictures += 1
        self._messages.seek(0)  # it writes where this is
        self._messages.truncate()
        late, running = threading.Event(), self._running

        def too_late() -> None:
            late.set()
            running.kill()

        clock = threading.Timer(request["seconds"] * _PATIENCE, too_late)
        clock.daemon = True
        clock.start()
        answer = None
        try:
            answer = _talk(running, request, data, check)
            if answer is None:
                code = running.wait()  # how it ended says why; the clock is still there
                self.died = not late.is_set()
                return _lost(code, request, self._messages, late=late.is_set())
            return answer
        finally:
            clock.cancel()
            if answer is None:
                self.end()


def _started(messages: IO[bytes]) -> subprocess.Popen[bytes]:
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


def _talk(
    process: subprocess.Popen[bytes], request: dict[str, Any], data: bytes, check: Check | None
) -> Decoded | ImageError | None:
    """What the process answers; None when it ended without. Raises what `check` raises."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.write(_line(request))
        process.stdin.write(data)
        process.stdin.flush()
    while line := process.stdout.readline(_MESSAGES):
        try:
            answer = json.loads(line)
        except ValueError:  # it ended while it spoke
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


def _line(words: object) -> bytes:
    return json.dumps(words).encode() + b"\n"


def _lost(code: int, request: dict[str, Any], messages: IO[bytes], *, late: bool) -> ImageError:
    """Why the process ended without an answer."""
    if late or code == -signal.SIGXCPU:
        return ImageError(
            ErrorKind.WORKER_LOST,
            f"decoding it took longer than {request['seconds']:g} s and was ended (DEPTH_DECODE_SECONDS)",
        )
    if code in (-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP):
        return ImageError(ErrorKind.INTERNAL, f"the process that decoded it was ended from outside ({_name(code)})")
    if code == -signal.SIGKILL:
        return ImageError(
            ErrorKind.OUT_OF_MEMORY,
            f"the system killed the process that decoded it, most likely for its memory, at most {request['memory'] >> 20:,} MiB",
        )
    messages.seek(0)
    said = printable(messages.read().decode(errors="replace").strip()[-300:])
    return ImageError(ErrorKind.WORKER_LOST, f"the process that decoded it crashed ({_name(code)}){': ' if said else ''}{said}")


def _name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


# -- the process ----------------------------------------------------------------------------------------------------------


def main() -> None:
    """Reads requests, each with its file, from standard input until that ends; answers on standard output."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _end_with_parent()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no part of the answer
    while line := sys.stdin.buffer.readline():
        _answer(json.loads(line), out)
        out.flush()
    os._exit(0)  # nothing is left to tidy up


def _answer(request: dict[str, Any], out: IO[bytes]) -> None:
    from depth_core.ingest.images import decode

    def ask(width: int, height: int) -> None:
        out.write(_line({"size": (width, height)}))
        out.flush()
        sys.stdin.buffer.readline()

    _limit(request["address_space"], request["seconds"])
    data = sys.stdin.buffer.read(request["bytes"])
    settings = cast("Settings", SimpleNamespace(**request["settings"]))
    try:
        image = decode.here(data, name=request["name"], settings=settings, check=ask if request["asks"] else None)
    except MemoryError:
        out.write(_line({"error": (ErrorKind.OUT_OF_MEMORY, "no memory left to decode it")}))
    except Exception as error:  # noqa: BLE001 - the parent judges
        failure = row_failure(error)
        out.write(_line({"error": (failure.kind, failure.message)}))
    else:
        facts = {field.name: getattr(image, field.name) for field in fields(image) if field.name != "rgb"}
        out.write(_line({"image": facts, "shape": image.rgb.shape[:2]}))
        out.write(image.rgb.reshape(-1).data)


def _end_with_parent() -> None:
    """So that a run that is killed leaves nobody behind; and the kernel, short of memory, takes this process first."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")


def _limit(memory: int, seconds: float) -> None:
    """From here on: so many bytes more than it has, so many more seconds of the processor."""
    import resource

    def most(what: int, limit: int) -> None:
        hard = resource.getrlimit(what)[1]
        with suppress(ValueError, OSError):  # macOS refuses some
            resource.setrlimit(what, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))

    most(resource.RLIMIT_CORE, 0)
    most(resource.RLIMIT_FSIZE, _MESSAGES)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    most(resource.RLIMIT_CPU, max(1, round(spent.ru_utime + spent.ru_stime + seconds)))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most(resource.RLIMIT_AS, pages * os.sysconf("SC_PAGE_SIZE") + memory)


if __name__ == "__main__":
    main()
