"""The `depthline` command, for people without a pipeline. What it can do is in commands.py."""

from __future__ import annotations


def main(name: str | None = None) -> None:
    from depth_core import startup

    startup.end_in_one_line()  # the imports below take a while
    with startup.quick_end():
        with startup.without_collecting(for_good=True):
            from depth_core.cli.commands import run
        run(name)
