"""What a program does before its slow imports. Imports next to nothing itself."""

from __future__ import annotations

import os
import signal
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
