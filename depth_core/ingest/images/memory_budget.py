"""A budget of memory for decoding, in bytes, shared by all threads of this process: requests wait in order of arrival.

How much there is comes from the settings, else from what the machine or its container has free. What does not belong here: what
one image takes (headers.py).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from depth_core.errors import ErrorKind, ImageError
from depth_core.free_memory import free_memory

if TYPE_CHECKING:
    from depth_core.settings import Settings

_LEAST = 512 << 20  # even when less is free: ordinary photos must be possible
_SHARE = 0.5  # of free memory: the rest is for the network, the encoders and other programs


class Budget:
    """Bytes that threads reserve. Nested reservations of one thread are not counted twice."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._mine = threading.local()

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Waits until `size` bytes are free and reserves them; at most all of them: see `check`."""
        held = self._mine.held = getattr(self._mine, "held", 0)
        self._grow(min(size, self.total))
        outer, _thread.budget = getattr(_thread, "budget", None), self
        try:
            yield
        finally:
            _thread.budget = outer
            self.give(self._mine.held - held)
            self._mine.held = held

    def _grow(self, wanted: int) -> None:
        held: int = self._mine.held
        if wanted > held:
            self.give(held)  # before waiting for more: holding while waiting could deadlock
            self._mine.held = 0
            self._take(wanted)
            self._mine.held = wanted

    def take(self, size: int, given_up: Callable[[], bool] = lambda: False) -> int:
        """As `room`, to be given back by any thread. Returns the argument for `give`; 0 when `given_up` while it waited."""
        wanted = min(size, self.total)
        return wanted if self._take(wanted, given_up) else 0

    def give(self, size: int) -> None:
        """Gives back what `take` returned. With 0, waiting threads only check again whether they have given up."""
        with self._changed:
            self._free += size
            if self._waiting:
                self._changed.notify_all()

    def _take(self, size: int, given_up: Callable[[], bool] = lambda: False) -> bool:
        ticket = object()
        with self._changed:
            if not self._waiting and self._free >= size:
                self._free -= size
                return True
            self._waiting.append(ticket)
            try:
                # First come, first served: large requests must not starve.
                self._changed.wait_for(lambda: given_up() or (self._waiting[0] is ticket and self._free >= size))
                if given_up():
                    return False
                self._free -= size
                return True
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def check(self, size: int, what: str) -> None:
        """Raises ImageError(TOO_MANY_PIXELS) when the whole budget is smaller. `what`: the subject of the message."""
        if size > self.total:
            raise ImageError(
                ErrorKind.TOO_MANY_PIXELS,
                f"{what} {_gib(size)} of memory, and only {_gib(self.total)} are available (DEPTH_DECODE_MEMORY)",
            )


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


_thread = threading.local()


def grow(size: int, what: str) -> None:
    """Grows this thread's reservation to at least `size` bytes, waiting until they are free. Without a reservation it does
    nothing. Call it while nothing large is held. Raises ImageError(TOO_MANY_PIXELS), naming `what`, if that can never be free."""
    memory: Budget | None = getattr(_thread, "budget", None)
    if memory is not None:
        memory.check(size, what)
        memory._grow(size)


def of(settings: Settings) -> Budget:
    """The budget that all threads of this process share under these settings."""
    return _budget(settings.decode_memory)


_lock = threading.Lock()
_budgets: dict[int, Budget] = {}


def _budget(size: int) -> Budget:
    with _lock:  # asked of the machine once, when the network is loaded already
        if size not in _budgets:
            _budgets[size] = Budget(size or max(_LEAST, int(_SHARE * free_memory())))
        return _budgets[size]
