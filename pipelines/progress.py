"""How far the ops of this process are, for whoever runs them in it and wants to show it.

Ops report here beside their log; without a listener that costs nothing. What does not belong here: lines of the log
(metadata.py) and how progress is shown (depth_core/terminal.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[int, int], None]  # images done, of how many

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Ops that run inside the block, in this thread, tell `listener` how far they are."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(done: int, total: int) -> None:
    """So many images of so many are done."""
    listener = _listener.get()
    if listener is not None:
        listener(done, total)
