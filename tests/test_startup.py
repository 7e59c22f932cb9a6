"""How programs start and end."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import atexit, gc, sys, threading
from depth_core import startup

class Thing:
    def __del__(self): print("taken apart")

def late():
    threading.main_thread().join()
    print("thread")

with startup.quick_end():
    with startup.without_collecting(for_good=True):
        atexit.register(print, "registered")
        thing = Thing()
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > 1000
    threading.Thread(target=late).start()
    END
"""


def end(how: str) -> tuple[int, list[str], str]:
    """Runs the program with another last line; returns its status, what it printed, and the last line of errors."""
    done = subprocess.run([sys.executable, "-c", PROGRAM.replace("END", how)], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.split("\n")[:-1], done.stderr.strip().rpartition("\n")[2]


def test_a_program_ends_with_its_status_after_its_threads_and_takes_nothing_apart() -> None:
    assert end("sys.exit(3)") == (3, ["thread", "registered"], "")
    assert end("pass") == (0, ["thread", "registered"], "")


def test_an_end_that_python_has_to_report_is_left_to_python() -> None:
    status, printed, said = end("raise ValueError('of the program')")
    assert (status, printed[:2], said) == (1, ["thread", "registered"], "ValueError: of the program")
    status, printed, said = end("sys.exit('a message')")
    assert (status, printed[:2], said) == (1, ["thread", "registered"], "a message")
