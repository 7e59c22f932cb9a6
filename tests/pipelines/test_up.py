"""`make up` with stand-ins for the API and Dagster: what is told to stop stops, with all that it has started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from support.http_server import HttpServer

from pipelines import up

UP = """
import signal, sys
from pipelines import up

signal.signal(signal.SIGHUP, getattr(signal, sys.argv[2]))  # what it would inherit from a shell, or from nohup
sys.executable, up.PATIENCE_SECONDS = sys.argv[1], 0.5
sys.exit(up.main(["-p", "0"]))
"""
DEAF = "#!/bin/sh\ntrap '' INT TERM HUP\nsleep 60 &\necho started\nwait\n"


@pytest.fixture
def deaf(tmp_path: Path) -> Path:
    program = tmp_path / "deaf"
    program.write_text(DEAF)
    program.chmod(0o755)
    return program


def started(deaf: Path, hangup: str) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"} | {"DEPTH_API_PORT": "0"}
    up = subprocess.Popen([sys.executable, "-c", UP, str(deaf), hangup], stdout=subprocess.PIPE, env=environment)
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


def test_when_one_program_ends_all_end_and_it_is_said_which(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\ncase $* in *depth_api*) echo no memory >&2; exit 3;; *) exec sleep 600;; esac\n")
    program.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"} | {"DEPTH_API_PORT": "0"}
    command = [sys.executable, "-c", UP, str(program), "SIG_DFL"]
    # Returns once no process holds its output.
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 1
    assert done.stderr == "no memory\ndepthline: the API has ended (status 3); ending the rest\n"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which somebody listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.fixture
def nothing_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*args: object, **kwargs: object) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr(subprocess, "Popen", start)


@pytest.mark.usefixtures("nothing_may_start")
@pytest.mark.parametrize(("args", "cure"), [(["--no-api"], "UI_PORT"), ([], "UI_PORT")])
def test_a_port_that_is_taken_ends_it_before_anything_is_started(
    taken: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, args: list[str], cure: str
) -> None:
    monkeypatch.setenv("DEPTH_API_PORT", "0")
    assert up.main(["-p", str(taken), *args]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"depthline: port {taken} of 127.0.0.1 is taken: ")
    assert cure in said
    assert said.count("\n") == 1


@pytest.mark.usefixtures("nothing_may_start")
def test_the_port_of_the_api_is_checked_too(
    taken: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPTH_API_PORT", str(taken))
    assert up.main(["-p", "0"]) == 1
    assert f"port {taken} of 127.0.0.1 is taken" in (said := capsys.readouterr().err)
    assert "DEPTH_API_PORT" in said


@pytest.mark.usefixtures("nothing_may_start")
def test_one_home_has_one_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with FileLock(tmp_path / "up.lock"):
        assert up.main(["-p", "0", "--no-api"]) == 1
    assert f"runs already with DAGSTER_HOME={tmp_path}" in capsys.readouterr().err


@pytest.mark.usefixtures("nothing_may_start")
@pytest.mark.parametrize(("option", "said"), [("--help", "usage: python -m pipelines.up"), ("--version", "depthline 0.")])
def test_help_and_version_are_said_and_nothing_started(capsys: pytest.CaptureFixture[str], option: str, said: str) -> None:
    with pytest.raises(SystemExit) as end:
        up.main([option])
    assert end.value.code == 0
    assert said in capsys.readouterr().out


@pytest.mark.usefixtures("nothing_may_start")
def test_a_port_that_is_none_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        up.main(["-p", "70000"])
    assert end.value.code == 2
    assert "'70000' is no port" in capsys.readouterr().err


LATE = """
import sys
from pipelines import up

up.ports.Place.check = lambda place: None  # the port is taken after it was checked
sys.executable, up.PATIENCE_SECONDS = sys.argv[1], 0.5
sys.exit(up.main(["--no-api", "-p", sys.argv[2]]))
"""


def test_a_port_that_is_taken_while_dagster_starts_ends_all(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    with HttpServer() as other:
        port = other.url.rpartition(":")[2]
        command = [sys.executable, "-c", LATE, str(program), port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith(f"depthline: port {port} of 127.0.0.1 is taken: ")
    assert done.stderr.endswith("; ending the rest\n")
    assert done.stderr.count("\n") == 1
