"""How many cores torch uses for one operation. No torch at import. What does not belong here: threads of the engine."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager


@functools.cache
def threads_at_start() -> int:
    """The cores that torch or OMP_NUM_THREADS chose for one operation, asked before any thread sets its own."""
    import torch

    return torch.get_num_threads()


@contextmanager
def intra_op_threads(count: int) -> Iterator[None]:
    """This thread's operations use `count` cores. torch keeps the number per thread, so threads do not disturb each other."""
    import torch

    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
