"""The `depthline` command, for people without a pipeline: map photos, look at the installation, the models, webhooks.

A thin layer, a module for each group of commands: what they do is in the packages below, which they import when they are called,
so that each starts quickly. Errors that have a cure are one line and exit status 2.
"""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Annotated

import typer

from depth_core.cli import artworks, depth_maps, doctor, models
from depth_core.cli.common import console

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Depth maps of many images.")
app.command("map")(depth_maps.map_photos)
app.command()(doctor.doctor)
app.add_typer(models.app, name="models")
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


def main() -> None:
    app()
