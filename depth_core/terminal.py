"""What programs print at a terminal: safe text, one line for an error, progress with its units, and a quiet end when interrupted.

For `depthline` and the programs of `pipelines`. What does not belong here: the messages, and masking secrets (display.py).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from depth_core.display import printable, shown_text
from depth_core.errors import DepthlineError

SECONDS_BETWEEN_LINES = 10.0  # of progress, where there is no terminal to draw a bar on


def consoles() -> tuple[Console, Console]:
    """Where results go, and where errors go."""
    return Console(highlight=False), Console(highlight=False, stderr=True)


def name(text: object) -> str:
    """A path or a name from outside, for a console's `print`: printable, and never taken for markup."""
    return escape(printable(str(text)))


def message(text: object) -> str:
    """A message that may carry text of strangers, for a console's `print`: as `name`, and secrets of URLs in it are masked."""
    return escape(shown_text(str(text)))


def print_error(errors: Console, error: object) -> None:
    """One line, whatever the error carries."""
    errors.print(f"[red]error[/red] {message(error)}", soft_wrap=True)


# -- interrupts -----------------------------------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM. `status` is the exit status that shells expect: 130 or 143."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


_signal_pipes: list[int] = []  # read ends of pipes to which Python writes the numbers of signals, whoever handles them


@contextmanager
def interruptible() -> Iterator[None]:
    """Turns Ctrl-C and SIGTERM in the block into `Interrupted`, raised once the block has unwound. For the main thread only.

    The code inside the block finishes or undoes its own work in progress; a second signal ends the process at once.
    """

    def note(number: int, frame: FrameType | None) -> NoReturn:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    _signal_pipes.append(reader)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in before:
        signal.signal(number, note)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(128 + (_last_signal() or signal.SIGINT)) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        _signal_pipes.remove(reader)
        os.close(reader)
        os.close(writer)


def raise_if_interrupted() -> None:
    """Raises KeyboardInterrupt when a signal came inside `interruptible`, also one that another library's handler took."""
    if number := _last_signal():
        signal.raise_signal(number)


def _last_signal() -> int | None:
    """The signal that asked to end, if there was one."""
    with suppress(BlockingIOError):
        for number in os.read(_signal_pipes[-1], 512) if _signal_pipes else b"":
            if number in (signal.SIGINT, signal.SIGTERM):
                return number
    return None


@contextmanager
def plain_end(errors: Console, status: int) -> Iterator[None]:
    """Ends the program in one line: with `status` for an error that has a cure, with 130 or 143 for Ctrl-C or SIGTERM."""
    try:
        with interruptible():
            yield
    except DepthlineError as error:
        print_error(errors, error)
        raise SystemExit(status) from None
    except Interrupted as interrupted:
        errors.print("interrupted: run again to go on", soft_wrap=True)
        raise SystemExit(interrupted.status) from None


# -- progress -------------------------------------------------------------------------------------------------------------------


class Meter(Protocol):
    """Shows how far a piece of work is."""

    def start(self, label: str, total: int) -> None:
        """Begins another piece of work: `total` things to do."""

    def at(self, done: int) -> None:
        """So many of them are done."""


class NoMeter:
    """For those who want the outcome alone."""

    def start(self, label: str, total: int) -> None: ...

    def at(self, done: int) -> None: ...


@contextmanager
def meter(console: Console, noun: str) -> Iterator[Meter]:
    """A bar on a terminal, elsewhere a line now and then: so many of so many `noun` done, images a second, time left."""
    if not console.is_terminal:
        yield _Lines(console, noun)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), TextColumn("{task.fields[facts]}"))
    with Progress(*columns, console=console, expand=True, transient=True) as progress:
        yield _Bar(progress, noun)


class _Pace:
    """Images a second, counted from the first that was done: what comes before, loading a model for example, is none of it."""

    def __init__(self, total: int, noun: str) -> None:
        self._total, self._noun = total, noun
        self._first: tuple[float, int] | None = None

    def facts(self, done: int) -> str:
        at = time.monotonic()
        counted = f"{done:,}/{self._total:,} {self._noun}"
        if self._first is None:
            if done:
                self._first = at, done
            return counted
        since, already = self._first
        if done <= already or at <= since:
            return counted
        rate = (done - already) / (at - since)
        return f"{counted}  {rate:,.1f} images/s  {_duration((self._total - done) / rate)} left"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class _Bar:
    def __init__(self, progress: Progress, noun: str) -> None:
        self._progress, self._noun = progress, noun
        self._task = progress.add_task("", total=None, facts="", visible=False)
        self._pace = _Pace(0, noun)

    def start(self, label: str, total: int) -> None:
        self._pace = _Pace(total, self._noun)
        self._progress.reset(self._task, description=label, total=total, visible=True, facts=self._pace.facts(0))

    def at(self, done: int) -> None:
        self._progress.update(self._task, completed=done, facts=self._pace.facts(done))


class _Lines:
    def __init__(self, console: Console, noun: str) -> None:
        self._console, self._noun = console, noun
        self.start("", 0)

    def start(self, label: str, total: int) -> None:
        self._label, self._total = label, total
        self._pace = _Pace(total, self._noun)
        self._last = time.monotonic()

    def at(self, done: int) -> None:
        facts = self._pace.facts(done)
        at = time.monotonic()
        if at - self._last >= SECONDS_BETWEEN_LINES and done < self._total:
            self._last = at
            self._console.print(f"{self._label}: {facts}", soft_wrap=True, markup=False)
