"""Python programs for tests that kill them, interrupt them or run two at once, without the seconds that their imports take.

They are forked from a process that has imported what they need and has done nothing else, and end without the interpreter's own
end. What starts and ends as people's programs do stays with `subprocess`: every program does so in some test, and is interrupted.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

IMPORTED = [  # what runs and commands need
    "torch",
    "depth_core.cli.commands",
    "depth_core.inference.predictor",
    "pipelines.definitions",
    "pipelines.materialize.command",
]
_context = multiprocessing.get_context("forkserver")


@contextmanager
def piped(code: str, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Python code with pipes to and from it, of lines. It and all that it has started are killed when the test is done with it,
    and when pytest's time limit ends the test."""
    command, pipe = [sys.executable, "-c", code, *arguments], subprocess.PIPE
    with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True, bufsize=1, start_new_session=True) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


class Program:
    """A program that runs; as far as tests use it, what subprocess.Popen is. Its output goes to a file, both streams together."""

    def __init__(self, arguments: list[str], *, cwd: Path, env: Mapping[str, str], output: Path) -> None:
        """`arguments`: Python's own, ["-m", MODULE, ...] or ["-c", CODE, ...]."""
        _context.set_forkserver_preload(IMPORTED)
        with patch.dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"):  # read when torch and NumPy are imported
            forkserver.ensure_running()
        self._output = output
        self._process = _context.Process(target=_run, args=(arguments, str(cwd), dict(env), str(output)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it and all that it has started."""
        with suppress(ProcessLookupError):  # too early: it has no group of its own yet
            os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()

    def wait(self, timeout: float = 240) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self._process.name, timeout, self._output.read_text())
        return self._process.exitcode

    def communicate(self, timeout: float = 240) -> tuple[str, None]:
        self.wait(timeout)
        return self._output.read_text(), None


def _run(arguments: list[str], cwd: str, env: dict[str, str], output: str) -> None:
    """The new process: makes itself what a start from a shell would have made it, and runs the program."""
    os.setsid()
    with open(output, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    kind, what, *rest = arguments
    sys.argv = [kind, *rest]
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()  # multiprocessing would leave them out
