"""How far the ops of this process are: lines in a run's log, and calls to whoever runs the ops and wants to show it.

What does not belong here: how progress is drawn at a terminal (depth_core/terminal.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import dagster as dg

Listener = Callable[[str, int, int], None]  # a chunk, its images that are done, of how many

SECONDS_BETWEEN_LINES = 5.0

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Calls `listener` with the progress of every op that runs inside the block, in this thread."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def reporter(log: dg.DagsterLogManager, *, chunk: str, total: int, verb: str) -> Callable[[int], None]:
    """A function to call with how many images of a chunk are done. Logs a line now and then: done/total, images/s, time left."""
    started = last = time.monotonic()
    listener = _listener.get()

    def report(done: int) -> None:
        nonlocal last
        if listener is not None:
            listener(chunk, done, total)
        at = time.monotonic()
        if at - last < SECONDS_BETWEEN_LINES:
            return
        last = at
        rate = done / (at - started)
        left = f"{(total - done) / rate:,.0f} s left" if rate else "no estimate yet"
        log.info(f"{verb} {done:,}/{total:,} images, {rate:,.2f} images/s, {left}")

    return report
