"""Waiting for what another thread, process or server does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def eventually(
    condition: Callable[[], Found], what: str | Callable[[], str] = "", *, within: float = 60, every: float = 0.02
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
