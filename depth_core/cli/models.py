"""`depthline models`: lists the models, and gets weights ahead of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Group
from rich.table import Column, Table

from depth_core import settings as settings_module
from depth_core import terminal
from depth_core.cli.common import clear_errors, console, errors, model_named
from depth_core.errors import DepthlineError
from depth_core.inference import checkpoints
from depth_core.inference.checkpoints import ModelRow, Presence

app = typer.Typer(invoke_without_command=True, help="Lists the models; `fetch` gets weights ahead of time.")

COLOURS = {Presence.HERE: "green", Presence.ABSENT: "yellow", Presence.WRONG: "red"}
NOTE = """\
Memory: for one image of 1024 x 1024. Disparity: large is near, no unit.
Relative depth: large is far, no unit. Metric depth: large is far, metres.
`depthline models fetch NAME` gets weights that are not here."""


@app.callback()
def models(context: typer.Context) -> None:
    """Lists every model: size, licence, what its numbers mean, where its weights would come from and whether they are there."""
    if context.invoked_subcommand is None:
        with clear_errors():
            console.print(tables(checkpoints.describe_models(settings_module.load())))


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="Models as `depthline models` lists them, v2/small for example.")],
) -> None:
    """Gets the weights of models ahead of time. Exit status: 0 all are there, 2 some are not."""
    with clear_errors():
        settings, specs = settings_module.load(), [model_named(name) for name in names]
        failures: list[DepthlineError] = []
        for spec in specs:
            try:
                checkpoint = checkpoints.fetch(spec, settings)
            except DepthlineError as error:
                failures.append(error)
            else:
                console.print(
                    f"{spec.key}: {terminal.message(checkpoint.source)} at {terminal.name(checkpoint.path)}", soft_wrap=True
                )
        for failure in failures:
            terminal.print_error(errors, failure)
        if failures:
            raise typer.Exit(2)


def tables(rows: Sequence[ModelRow]) -> Group:
    """What the models are, then where the weights of each come from: two tables, each fit for a terminal of 80 columns."""
    facts = Table("model", "size", "licence", "numbers", "memory", "weights", header_style="bold", box=None, pad_edge=False)
    origins = Table(
        "model", Column("where its weights come from", overflow="fold"), header_style="bold", box=None, pad_edge=False
    )
    for row in rows:
        spec, colour = row.spec, COLOURS[row.presence]
        facts.add_row(
            spec.key,
            f"{spec.parameters_million:,.0f} M" if spec.parameters_million >= 100 else f"{spec.parameters_million:.1f} M",
            spec.licence,
            spec.kind.value.replace("_", " "),
            f"{row.memory_gib:.1f} GiB",
            f"[{colour}]{row.presence.value}[/{colour}]",
        )
        origins.add_row(spec.key, f"[{colour}]{row.presence.value}[/{colour}]: {terminal.message(_origin(row))}")
    return Group(facts, "", f"[dim]{NOTE}[/dim]", "", origins)


def _origin(row: ModelRow) -> str:
    """A source, or why there is none; of what was not fetched yet the Hub's repository alone."""
    if row.presence is Presence.ABSENT and row.spec.repository and row.source.startswith(f"{row.spec.key} is not here yet"):
        return row.spec.repository
    return row.source
