"""The program that isolated.py runs: decodes pictures from its standard input, one after another.

It loads no torch, sees no secret of the environment, has limits of memory and time, and ends with its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, cast

from depth_core.errors import ErrorKind, row_failure
from depth_core.ingest.images import decoders
from depth_core.ingest.images.isolated import MAX_MESSAGES, json_line

if TYPE_CHECKING:  # starts faster without
    from depth_core.settings import Settings


def main() -> None:
    """Reads requests, each with its file, from standard input until that ends; answers on standard output."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _end_with_parent()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of libraries does not belong to the response
    while line := sys.stdin.buffer.readline():
        _answer(json.loads(line), out)
        out.flush()
    os._exit(0)  # nothing is left to clean up


def _answer(request: dict[str, Any], out: IO[bytes]) -> None:
    def ask(width: int, height: int) -> None:
        out.write(json_line({"size": (width, height)}))
        out.flush()
        sys.stdin.buffer.readline()

    _limit(request["address_space"], request["seconds"])
    data = sys.stdin.buffer.read(request["bytes"])
    settings = cast("Settings", SimpleNamespace(**request["settings"]))
    try:
        image = decoders.decode(data, name=request["name"], settings=settings, check=ask if request["has_check"] else None)
    except MemoryError:
        out.write(json_line({"error": (ErrorKind.OUT_OF_MEMORY, "out of memory while decoding")}))
    except Exception as error:  # noqa: BLE001 - the parent handles it
        failure = row_failure(error)
        out.write(json_line({"error": (failure.kind, failure.message)}))
    else:
        facts = {field.name: getattr(image, field.name) for field in fields(image) if field.name != "rgb"}
        out.write(json_line({"image": facts, "shape": image.rgb.shape[:2]}))
        out.write(image.rgb.reshape(-1).data)


def _end_with_parent() -> None:
    """Ends this process with its parent; and makes the kernel kill it first when memory is short."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")


def _limit(memory: int, seconds: float) -> None:
    """Limits what this process may take from now on: more bytes of address space, more seconds of processor time."""
    import resource

    def limit_to(what: int, limit: int) -> None:
        hard = resource.getrlimit(what)[1]
        with suppress(ValueError, OSError):  # macOS refuses some
            resource.setrlimit(what, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))

    limit_to(resource.RLIMIT_CORE, 0)
    limit_to(resource.RLIMIT_FSIZE, MAX_MESSAGES)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    limit_to(resource.RLIMIT_CPU, max(1, round(spent.ru_utime + spent.ru_stime + seconds)))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit_to(resource.RLIMIT_AS, pages * os.sysconf("SC_PAGE_SIZE") + memory)


if __name__ == "__main__":
    main()
