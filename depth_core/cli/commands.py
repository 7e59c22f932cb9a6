"""The commands of `depthline`: map photos, check the configuration, fetch models, plan, explain, serve requests, webhooks.

A thin layer, a module for each group of commands: what they do is in the packages below, which they import when they are called,
so that each starts quickly. Errors that have a cure are one line and exit status 2.
"""

from __future__ import annotations

import os
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from depth_core import terminal
from depth_core.cli import artworks, doctor, explain, models, plan, worker
from depth_core.cli.common import console, errors
from depth_core.cli.map.command import map_photos

# No pretty traces: they show the values of variables, keys among them.
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Depth maps of many images.")
app.command("map")(map_photos)
app.command()(doctor.doctor)
app.command()(explain.explain)
app.command()(plan.plan)
app.add_typer(models.app, name="models")
app.command()(worker.worker)
app.command()(artworks.artwork)
app.add_typer(artworks.webhooks_app, name="webhooks")


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f"depthline {version_of('depthline')}")
        raise typer.Exit


@app.callback()
def _commands(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Depth maps of many images."""


def run(name: str | None = None) -> None:
    """Runs the command that the arguments name, and ends the process. `name`: what the program is called in its help."""
    try:
        app(prog_name=name)
    except OSError as error:  # of the terminal or the file that takes what is printed: the commands have handled theirs
        terminal.print_error(errors, f"cannot write the output: {error.strerror or error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python tries once more at its end, and fails with a trace
        raise SystemExit(2) from None
