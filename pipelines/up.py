"""`make up`: the HTTP API, Dagster's web server and its daemon side by side; `make ui`: the last two. When one ends, all end."""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from depth_core import ports, settings
from depth_core.errors import ConfigurationError

API, DAGSTER = "the API", "Dagster"
PATIENCE_SECONDS = 30.0  # what has not ended by then is killed
ASK_SECONDS = 1.0


def main(argv: list[str]) -> int:
    """Runs them until one ends or a signal comes; returns the exit status. Starts none of them when one could not run."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.up",
        add_help=False,
        description="Runs the HTTP API, Dagster's web server and its daemon side by side, until one ends or Ctrl-C.",
        epilog="Other arguments are passed to `dagster dev`.",
    )
    parser.add_argument("--help", action="help", help="show this message and exit")
    parser.add_argument(
        "--version", action="version", version=f"depthline {version('depthline')}", help="show the version and exit"
    )
    parser.add_argument("-h", "--host", default="127.0.0.1", help="address of Dagster's web server (default: %(default)s)")
    parser.add_argument(
        "-p", "--port", type=_port, default=3000, help="its port; `make` takes it from UI_PORT (default: %(default)s)"
    )
    parser.add_argument("--no-api", action="store_true", help="without the HTTP API")
    asked, more = parser.parse_known_args(argv)
    dagster = ["dev", "-w", "workspace.yaml", "-h", asked.host, "-p", str(asked.port), *more]
    commands = {DAGSTER: [sys.executable, "-m", "dagster", *dagster]}
    if not asked.no_api:
        commands = {API: [sys.executable, "-m", "depth_api"]} | commands
    try:
        places = _places(asked)
        for place in places.values():  # Dagster's daemon would run all the same, beside the one that is there
            place.check()
        with _alone():
            return _run(commands, _Ui(places[DAGSTER]))
    except ConfigurationError as error:
        _say(str(error))
        return 1


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a number from 0 to 65535")
    return int(text)


def _places(asked: argparse.Namespace) -> dict[str, ports.Place]:
    """Where the programs listen. Raises ConfigurationError when a setting is wrong."""
    dagster = {DAGSTER: ports.Place(asked.host, asked.port, "-h", "-p (`make`: UI_PORT)")}
    if asked.no_api:
        return dagster
    configured = settings.load()
    return {API: ports.Place(configured.api_host, configured.api_port, "DEPTH_API_HOST", "DEPTH_API_PORT")} | dagster


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


def _run(commands: dict[str, list[str]], ui: _Ui) -> int:
    received: list[int] = []  # no exception: one raised in the middle of a start would lose what was started

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):  # set here, since a shell starts what runs in its background without SIGINT
        signal.signal(number, note)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup asks to stay when the terminal closes
        signal.signal(signal.SIGHUP, note)
    programs: dict[str, subprocess.Popen[bytes]] = {}
    wrong = ""
    try:
        for name, command in commands.items():
            # A process group each: Ctrl-C reaches this process alone, which then signals each program once.
            programs[name] = subprocess.Popen(command, process_group=0)
        while not received and not wrong:
            time.sleep(0.2)
            ended = next((name for name, program in programs.items() if program.poll() is not None), None)
            wrong = f"{ended} has ended (status {programs[ended].returncode})" if ended else ui.what_is_wrong()
        if wrong:
            _say(f"{wrong}; ending the rest")
    finally:
        _end(list(programs.values()))
    return 1 if wrong else 0


class _Ui:
    """Dagster's web server: whether it is what answers at its port. One that finds its port taken neither serves nor ends."""

    def __init__(self, place: ports.Place) -> None:
        self._place = place
        self._host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(place.host, place.host)
        self._known = place.port == 0  # asked no more
        self._silent = 0.0  # seconds for which something has listened there without an answer
        self._next = 0.0

    def what_is_wrong(self) -> str:
        """ "" while nothing is. Asks once a second until Dagster has answered."""
        if self._known or time.monotonic() < self._next:
            return ""
        connection = http.client.HTTPConnection(self._host, self._place.port, timeout=ASK_SECONDS)
        try:
            connection.request("GET", "/server_info")
            self._known = b"dagster_webserver_version" in connection.getresponse().read(4096)
            taken = not self._known
        except http.client.HTTPException:
            taken = True
        except TimeoutError:
            self._silent += ASK_SECONDS
            taken = self._silent > PATIENCE_SECONDS
        except OSError:  # it does not listen yet
            taken, self._silent = False, 0.0
        finally:
            connection.close()
        self._next = time.monotonic() + ASK_SECONDS
        return self._place.explain_taken() if taken else ""


def _say(line: str) -> None:
    print(f"depthline: {line}", file=sys.stderr)  # noqa: T201


def _end(programs: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends the programs, and what those that are no more have left running."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for program in programs:
        if program.poll() is None:
            program.send_signal(signal.SIGINT)
    for program in programs:
        with suppress(subprocess.TimeoutExpired):
            program.wait(max(0.0, deadline - time.monotonic()))
            _signal_group(program, signal.SIGTERM)
        while time.monotonic() < deadline and _signal_group(program, 0):
            time.sleep(0.05)
        _signal_group(program, signal.SIGKILL)
        program.wait()


def _signal_group(program: subprocess.Popen[bytes], number: int) -> bool:
    """Sends a signal to a program and all that it has started; returns whether there is anybody."""
    try:
        os.killpg(program.pid, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
