"""Every call into a library that the work of one row makes, as the interpreter tells it, and each of them made to raise, once.

Nobody lists the calls: what the code of a boundary calls tomorrow is tried tomorrow.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import depth_core

ROOT = str(Path(depth_core.__file__).parent)
_at_work: ContextVar[bool] = ContextVar("the marked row is at work", default=False)


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
    armed: Call | None
    seen: dict[Call, None] = field(default_factory=dict)
    raised: bool = False

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if event not in ("call", "c_call") or not _at_work.get():
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
        elif call == self.armed and not self.raised:
            self.raised = True
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


@contextmanager
def _marked(at_work: bool) -> Iterator[None]:
    token, before = _at_work.set(at_work), sys.getprofile()
    if at_work:
        sys.setprofile(_profile)
    try:
        yield
    finally:
        if at_work:  # else it may be another row's, that came meanwhile
            sys.setprofile(before)
        _at_work.reset(token)


def marking(function: Callable[..., Any], is_marked: Callable[..., bool]) -> Callable[..., Any]:
    """A boundary's function that says when it is the marked row that it works on."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def asynchronous(*args: Any, **kwargs: Any) -> Any:
            with _marked(is_marked(*args)):
                return await function(*args, **kwargs)

        return asynchronous

    @functools.wraps(function)
    def synchronous(*args: Any, **kwargs: Any) -> Any:
        with _marked(is_marked(*args)):
            return function(*args, **kwargs)

    return synchronous


def following(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that runs in a thread of its own, for whatever row is at work where it was called."""
    return marking(function, lambda *args: _at_work.get())


def each_raising(files: tuple[str, ...], work: Callable[[], Any]) -> Iterator[tuple[Call, Any]]:
    """Does the work once to see which calls the marked row makes from these files, then once for each, which raises OddError.

    Yields the call and what the work returned. What the work raises is raised.
    """
    global _profile
    try:
        looking = _profile = _Profile(files, None)
        work()
        for call in looking.seen:
            armed = _profile = _Profile(files, call)
            result = work()
            if armed.raised:  # else it was one that is made now and then only
                yield call, result
    finally:
        _profile = None
