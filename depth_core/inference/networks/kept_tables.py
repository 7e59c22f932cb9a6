"""Tables that depend on a batch's size alone, kept on the device. Imports torch: load it inside functions only.

A copy to a GPU at every batch would wait for the batch before. Who records work that reads such tables has to keep them as long
as the recording: `reading` says which.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, TypeVarTuple, Unpack

_Args = TypeVarTuple("_Args")
_T = TypeVar("_T")
_read: ContextVar[list[Any] | None] = ContextVar("_read", default=None)


def kept(most: int) -> Callable[[Callable[[Unpack[_Args]], _T]], Callable[[Unpack[_Args]], _T]]:
    """Keeps the results of the last `most` different calls."""

    def keep(make: Callable[[Unpack[_Args]], _T]) -> Callable[[Unpack[_Args]], _T]:
        cached = functools.lru_cache(maxsize=most)(make)

        @functools.wraps(make)
        def table(*args: *_Args) -> _T:
            found = cached(*args)
            if (read := _read.get()) is not None:
                read.append(found)
            return found

        return table

    return keep


@contextmanager
def reading() -> Iterator[list[Any]]:
    """The tables that this thread reads in the block."""
    read: list[Any] = []
    token = _read.set(read)
    try:
        yield read
    finally:
        _read.reset(token)
