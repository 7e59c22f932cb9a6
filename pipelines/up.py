"""`make up`: the HTTP door, Dagster's web server and its daemon side by side. When one ends, whyever, the other is ended too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType

PATIENCE_SECONDS = 30.0  # what has not ended by then is killed


def main(argv: list[str]) -> int:
    """Runs both until one ends or this process is told to stop; `argv`: further words for `dagster dev`. The exit status."""
    commands = {
        "the door": [sys.executable, "-m", "depth_api"],
        "Dagster": [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", *argv],
    }
    told: list[int] = []  # no exception: one raised in the middle of a start would lose what was started

    def note(number: int, frame: FrameType | None) -> None:
        told.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):  # set here, since a shell starts what runs in its background without SIGINT
        signal.signal(number, note)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup asks to stay when the terminal closes
        signal.signal(signal.SIGHUP, note)
    programs: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            # A process group each: Ctrl-C reaches this process alone, which then tells each program once.
            programs[name] = subprocess.Popen(command, process_group=0)
        while not told:
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
