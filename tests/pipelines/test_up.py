"""`make up` with stand-ins for the door and Dagster: what is told to stop stops, with all that it has started."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

UP = """
import signal, sys
from pipelines import up

signal.signal(signal.SIGHUP, getattr(signal, sys.argv[2]))  # what it would inherit from a shell, or from nohup
sys.executable, up.PATIENCE_SECONDS = sys.argv[1], 0.5
sys.exit(up.main([]))
"""
DEAF = "#!/bin/sh\ntrap '' INT TERM HUP\nsleep 60 &\necho started\nwait\n"


@pytest.fixture
def deaf(tmp_path: Path) -> Path:
    program = tmp_path / "deaf"
    program.write_text(DEAF)
    program.chmod(0o755)
    return program


def started(deaf: Path, hangup: str) -> subprocess.Popen[bytes]:
    up = subprocess.Popen([sys.executable, "-c", UP, str(deaf), hangup], stdout=subprocess.PIPE)
    assert up.stdout is not None
    assert [up.stdout.readline() for _ in range(2)] == [b"started\n"] * 2
    return up


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_programs_that_do_not_listen_are_killed_with_their_children_however_it_is_told_to_stop(
    deaf: Path, number: signal.Signals
) -> None:
    with started(deaf, "SIG_DFL") as up:
        up.send_signal(number)
        # The output ends when the last process that could write to it has ended.
        assert up.communicate(timeout=30) == (b"", None)
    assert up.returncode == 0


def test_under_nohup_it_stays_when_the_terminal_closes_and_still_ends_when_told_to(deaf: Path) -> None:
    with started(deaf, "SIG_IGN") as up:
        up.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            up.wait(1)
        up.terminate()
        assert up.communicate(timeout=30) == (b"", None)
    assert up.returncode == 0
