"""Commands of `depthline` in this process: starting a program takes seconds, and most tests are of what it does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from types import FrameType

from click.testing import Result
from typer.testing import CliRunner

from depth_core.cli.commands import app

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LAST_STEPS_SECONDS = 5.0  # what goes on beside a command may end a little after it


def run(*arguments: str, meanwhile: Callable[[], object] = lambda: None) -> Result:
    """Runs a command to its end. `meanwhile`: what goes on beside it, in a thread; may `interrupt` it, and does when it fails.

    Raises AssertionError with what the command printed when that ends before `meanwhile` does.
    """
    ended = threading.Event()
    acted: Future[object] = Future()

    def act() -> None:
        try:
            acted.set_result(meanwhile())
        except BaseException as error:  # noqa: BLE001 - it is raised below
            acted.set_exception(error)
            if not ended.is_set():
                interrupt()

    with _signals_for_the_command_alone():
        threading.Thread(target=act, daemon=True).start()
        result = CliRunner().invoke(app, list(arguments))
        ended.set()
        done, _ = wait([acted], LAST_STEPS_SECONDS)
    assert done, f"the command ended too early: {result.exception!r}\n{result.output}"
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
