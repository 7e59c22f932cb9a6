"""Waiting for what another thread, process or server does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

from support.programs import Program

Found = TypeVar("Found")


def eventually(
    condition: Callable[[], Found], what: str | Callable[[], str] = "", *, within: float = 120, every: float = 0.02
) -> Found:
    """What `condition` returns once that is true; it is tried every `every` seconds.

    Raises AssertionError with `what` (or what that returns, such as the end of a log) after `within` seconds.
    """
    deadline = time.monotonic() + within
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError((what() if callable(what) else what) or f"not true within {within:g} s: {condition}")
        time.sleep(every)
    return found


def eventually_of(
    process: subprocess.Popen[str] | Program, condition: Callable[[], Found], what: str = "", *, within: float = 120
) -> Found:
    """`eventually` of what a program does. Raises AssertionError with what it printed when it ends before."""

    def found() -> Found:
        ended, result = process.poll() is not None, condition()
        assert result or not ended, (process.returncode, *(process.communicate()))
        return result

    return eventually(found, what, within=within)
