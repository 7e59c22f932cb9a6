"""Threads whose end can be relied on, also when a signal interrupts the thread that gives them work."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

_BIRTH_SECONDS = 1.0  # a thread that has not begun by then never will: the interrupt came before the system made it


class Pool(ThreadPoolExecutor):
    """A pool that waits at its end for all of its threads.

    Python's own waits for those that it has noted. The KeyboardInterrupt of a signal may come in `submit` when a new thread has
    started and is not noted yet: that one would work on, and write, after everybody believes that nothing does.
    """

    _numbers = itertools.count()

    def __init__(self, threads: int, name: str) -> None:
        self._names = f"{name}-{next(self._numbers)}"
        super().__init__(threads, thread_name_prefix=self._names)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=wait, cancel_futures=cancel_futures)
        if wait:
            for thread in threading.enumerate():
                if thread.name.startswith(f"{self._names}_"):
                    _join(thread)


def _join(thread: threading.Thread) -> None:
    until = time.monotonic() + _BIRTH_SECONDS
    while thread.ident is None and time.monotonic() < until:
        time.sleep(0.001)
    if thread.ident is not None:
        thread.join()
