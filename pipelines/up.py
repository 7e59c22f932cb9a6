"""`make up`: the HTTP API, Dagster's web server and its daemon side by side; `make ui`: the last two. When one ends, all end."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from depth_core import ports, settings
from depth_core.errors import ConfigurationError

PATIENCE_SECONDS = 30.0  # what has not ended by then is killed


def main(argv: list[str]) -> int:
    """Runs them until one ends or a signal comes; returns the exit status. Starts none of them when one could not run."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.up",
        add_help=False,
        description="Runs the HTTP API, Dagster's web server and its daemon side by side, until one ends or Ctrl-C.",
        epilog="Other arguments are passed to `dagster dev`.",
    )
    parser.add_argument("--help", action="help", help="show this message and exit")
    parser.add_argument("-h", "--host", default="127.0.0.1", help="address of Dagster's web server (default: %(default)s)")
    parser.add_argument("-p", "--port", type=int, default=3000, help="its port (default: %(default)s)")
    parser.add_argument("--no-api", action="store_true", help="without the HTTP API")
    asked, more = parser.parse_known_args(argv)
    dagster = ["dev", "-w", "workspace.yaml", "-h", asked.host, "-p", str(asked.port), *more]
    commands = {"Dagster": [sys.executable, "-m", "dagster", *dagster]}
    if not asked.no_api:
        commands = {"the API": [sys.executable, "-m", "depth_api"]} | commands
    try:
        _check_ports(asked)
        with _alone():
            return _run(commands)
    except ConfigurationError as error:
        print(f"depthline: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _check_ports(asked: argparse.Namespace) -> None:
    """Raises ConfigurationError when a port is taken: Dagster's daemon would run all the same, beside the one that is there."""
    if not asked.no_api:
        configured = settings.load()
        if ports.is_taken(configured.api_host, configured.api_port):
            raise ConfigurationError(
                f"port {configured.api_port} of {configured.api_host} is taken: end what listens there (`make api`, `make up`?), "
                "or choose another with DEPTH_API_PORT"
            )
    if ports.is_taken(asked.host, asked.port):
        raise ConfigurationError(
            f"port {asked.port} of {asked.host} is taken: end what listens there (`make ui`, `make up`?), or choose another with "
            "UI_PORT"
        )


@contextmanager
def _alone() -> Iterator[None]:
    """One daemon for one DAGSTER_HOME: two would start everything twice."""
    home = Path(os.environ.get("DAGSTER_HOME", ""))
    if not home.is_absolute() or not home.is_dir():
        yield  # `dagster dev` makes a home for as long as it runs, or says what is wrong
        return
    try:
        lock = FileLock(home / "up.lock").acquire(timeout=0)
    except Timeout:
        raise ConfigurationError(
            f"`make ui` or `make up` runs already with DAGSTER_HOME={home}: end it, or start this one with another "
            "DAGSTER_HOME and DEPTH_DATA"
        ) from None
    with lock:
        yield


def _run(commands: dict[str, list[str]]) -> int:
    received: list[int] = []  # no exception: one raised in the middle of a start would lose what was started

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):  # set here, since a shell starts what runs in its background without SIGINT
        signal.signal(number, note)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup asks to stay when the terminal closes
        signal.signal(signal.SIGHUP, note)
    programs: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            # A process group each: Ctrl-C reaches this process alone, which then signals each program once.
            programs[name] = subprocess.Popen(command, process_group=0)
        while not received:
            for name, program in programs.items():
                if program.poll() is not None:
                    print(f"depthline: {name} has ended (status {program.returncode}); ending the rest", file=sys.stderr)  # noqa: T201
                    return 1
            time.sleep(0.2)
        return 0
    finally:
        for program in programs.values():
            program.send_signal(signal.SIGINT)
        for program in programs.values():
            try:
                program.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(program.pid, signal.SIGKILL)  # with all that it has started
                program.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
