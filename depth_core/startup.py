"""What a program does before its slow imports, and at its end. Imports next to nothing itself."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


def end_in_one_line() -> None:
    """From here on Ctrl-C and SIGTERM end the process with one line and exit status 130 or 143, also in the middle of an import.

    Until somebody sets other handlers, as `terminal.interruptible` does for its block. For the main thread.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, b"interrupted: run again to go on\n")
    os._exit(128 + number)


@contextmanager
def quick_end() -> Iterator[None]:
    """The block is a whole program, entered before its slow imports: once it has ended, nothing is taken apart.

    Threads are waited for and what is registered with atexit is done, as ever; then the process is gone. Python would first free
    every module and object one by one, which takes half a second with torch, a second with transformers. A block that ends by an
    exception other than SystemExit ends as Python has it.
    """
    status: int | None = None

    def leave() -> None:
        if status is None:
            return
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
        except (OSError, ValueError):  # Python's own end tries again, and reports it
            return
        os._exit(status & 0xFF)

    atexit.register(leave)  # the first to be registered is the last to be called
    try:
        yield
        status = 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            status = end.code or 0
        raise


@contextmanager
def without_collecting(*, for_good: bool = False) -> Iterator[None]:
    """The block imports and loads: no garbage is looked for meanwhile, which would take a fifth of its time and find nothing.

    `for_good`: what there is at its end stays until the process ends, and is never looked through: for programs, at their start.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if for_good:
            gc.freeze()
        if was_enabled:
            gc.enable()
