"""Commands of `depthline` in this process: starting a program takes seconds, and most tests are of what it does."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType

from click.testing import Result
from typer.testing import CliRunner

from depth_core.cli.commands import app

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(*arguments: str, meanwhile: Callable[[], object] = lambda: None) -> Result:
    """Runs a command to its end. `meanwhile`: what goes on beside it, in a thread; may `interrupt` it, and does when it fails."""

    def act() -> None:
        try:
            meanwhile()
        except BaseException:
            interrupt()
            raise

    with _signals_for_the_command_alone(), ThreadPoolExecutor(1) as beside:
        acted = beside.submit(act)
        result = CliRunner().invoke(app, list(arguments))
        acted.result()
    return result


def interrupt(number: int = signal.SIGTERM) -> None:
    """Sends a signal to the command that runs, as the system does."""
    os.kill(os.getpid(), number)


@contextmanager
def _signals_for_the_command_alone() -> Iterator[None]:
    """A signal that the command does not take is an error of it, and not the end of pytest."""

    def refuse(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"the command takes no signal {number}")

    before = {number: signal.signal(number, refuse) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
