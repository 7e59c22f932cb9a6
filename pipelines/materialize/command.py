"""The command: reads the arguments, calls the runner, prints its report."""

from __future__ import annotations

import os
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import dagster as dg
import typer

from depth_core import terminal
from depth_core.terminal import message
from pipelines.materialize.report import print_report
from pipelines.materialize.runner import materialize
from pipelines.resources import DepthlineResource


def _show_version(wanted: bool) -> None:
    if wanted:
        terminal.consoles()[0].print(f"depthline {version_of('depthline')}")
        raise typer.Exit


def main(
    uri: Annotated[str, typer.Argument(help="The manifest: a path, s3:// or http(s) URL.")],
    profile: Annotated[str, typer.Option(help="A parameter set of profiles.toml.")] = "preview",
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Brings a manifest up to date under a profile. Exit status: 0 done, even if rows failed; 1 not done; 2 no DAGSTER_HOME;
    130 interrupted."""
    console, errors = terminal.consoles()
    home = Path(os.environ.get("DAGSTER_HOME", ""))
    if not home.is_absolute() or not home.is_dir():
        terminal.print_error(
            errors,
            "DAGSTER_HOME must name an existing folder by its absolute path; `make maps` sets it. See docs/operations.md",
        )
        raise typer.Exit(2)
    with terminal.plain_end(errors, 1):
        depthline = DepthlineResource()
        with dg.DagsterInstance.get() as instance, terminal.meter(console, "rows") as meter:
            report = materialize(
                uri,
                profile,
                depthline,
                instance,
                on_step=lambda step: console.print(f"[dim]{message(step)}[/dim]", soft_wrap=True),
                meter=meter,
            )
        print_report(report, profile, depthline.store(), console)
