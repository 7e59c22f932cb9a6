"""Every call into a library that the work of one row makes, as the interpreter tells it, and each of them made to raise, once.

Nobody lists the calls: what the code of a boundary calls tomorrow is tried tomorrow.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import depth_core

Row = TypeVar("Row", bound=Hashable)
ROOT = str(Path(depth_core.__file__).parent)
_at_work: ContextVar[Hashable] = ContextVar("which marked row is at work", default=None)


class OddError(Exception):
    """What no code can have foreseen."""


@dataclass(frozen=True)
class Call:
    """Where one of our functions calls into a library, and what it calls."""

    file: str  # below depth_core
    line: int
    function: str
    name: str


@dataclass
class _Profile:
    files: tuple[str, ...]
    armed: Mapping[Hashable, Call] | None  # by row; None: nothing is raised
    seen: dict[Call, None] = field(default_factory=dict)
    raised: set[Hashable] = field(default_factory=set)  # rows

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        row = _at_work.get()
        if event not in ("call", "c_call") or not row:
            return
        caller = frame.f_back if event == "call" else frame
        if caller is None or not caller.f_code.co_filename.startswith(ROOT):
            return
        file = caller.f_code.co_filename[len(ROOT) + 1 :]
        name = _library_function(frame, event, arg)
        if not name or file not in self.files:
            return
        call = Call(file, caller.f_lineno, caller.f_code.co_name, name)
        if self.armed is None:
            self.seen[call] = None
        elif call == self.armed.get(row) and row not in self.raised:
            self.raised.add(row)
            raise OddError(f"from {name}")


def _library_function(frame: FrameType, event: str, arg: Any) -> str:
    """The name of what is called; empty for our own functions, what belongs to the language, and what the collector calls."""
    if event == "call":
        code = frame.f_code
        ours = code.co_filename.startswith(ROOT) or code.co_filename in ("<string>", __file__)
        collector = code.co_name == "__del__" or Path(code.co_filename).name in ("weakref.py", "_weakrefset.py")
        return "" if ours or collector else code.co_qualname
    owner = getattr(arg, "__self__", None)
    if inspect.ismodule(owner) or owner is None:
        module = arg.__module__
    else:
        module = owner.__module__ if isinstance(owner, type) else type(owner).__module__
    return "" if module in (None, "builtins") else f"{module}.{arg.__qualname__}"


_profile: _Profile | None = None


class _Thread(threading.local):
    rows = 0  # marked ones at work
    before: Any = None  # the profile function without them


_thread = _Thread()


@contextmanager
def _marked(row: Hashable) -> Iterator[None]:
    token = _at_work.set(row)
    if row:
        if not _thread.rows:
            _thread.before = sys.getprofile()
            sys.setprofile(_profile)
        _thread.rows += 1
    try:
        yield
    finally:
        if row:
            _thread.rows -= 1
            sys.setprofile(_profile if _thread.rows else _thread.before)  # the interpreter takes one off that raises
        _at_work.reset(token)


def marking(function: Callable[..., Any], row_of: Callable[..., Hashable]) -> Callable[..., Any]:
    """A boundary's function that says on which marked row it works: True where there is one alone, nothing for others."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def asynchronous(*args: Any, **kwargs: Any) -> Any:
            with _marked(row_of(*args)):
                return await function(*args, **kwargs)

        return asynchronous

    @functools.wraps(function)
    def synchronous(*args: Any, **kwargs: Any) -> Any:
        with _marked(row_of(*args)):
            return function(*args, **kwargs)

    return synchronous


def following(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that runs in a thread of its own, for whatever row is at work where it was called."""
    return marking(function, lambda *args: _at_work.get())


def each_raising(files: tuple[str, ...], work: Callable[[], Any]) -> Iterator[tuple[Call, Any]]:
    """Does the work once to see which calls the marked row makes from these files, then once for each, which raises OddError.

    Yields the call and what the work returned. What the work raises is raised.
    """
    return ((call, result) for call, _, result in all_raising(files, lambda rows: work(), [True]))


def all_raising(
    files: tuple[str, ...], work: Callable[[Sequence[Row]], Any], rows: Sequence[Row]
) -> Iterator[tuple[Call, Row, Any]]:
    """As `each_raising`, with as many calls at a time as there are rows, each of which meets another one.

    The work gets the rows to do. Yields the call, its row, and what the work returned.
    """
    global _profile
    try:
        looking = _profile = _Profile(files, None)
        work(rows[:1])
        calls = list(looking.seen)
        batches = [dict(zip(rows, calls[n:], strict=False)) for n in range(0, len(calls), len(rows))]
        for batch in batches:
            armed = _profile = _Profile(files, batch)
            result = work(list(batch))
            yield from ((call, row, result) for row, call in batch.items() if row in armed.raised)
            if len(batch) > 1:  # beside others a row may do without: it uses their connections, for one
                batches += [{row: call} for row, call in batch.items() if row not in armed.raised]
    finally:
        _profile = None
