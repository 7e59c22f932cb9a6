"""`python -m pipelines.materialize`."""

import typer

from pipelines.materialize.command import main

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)  # no traces that show keys
    app.command()(main)
    app()
