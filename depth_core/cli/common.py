"""What the commands share: where they print, how they end when something is wrong, the words for models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from depth_core import terminal
from depth_core.catalog import MODELS, ModelSpec
from depth_core.errors import ConfigurationError, DepthlineError

console, errors = terminal.consoles()


@contextmanager
def clear_errors() -> Iterator[None]:
    """One line and exit status 2 for an error that has a cure; one line and 130 or 143 for Ctrl-C or SIGTERM."""
    try:
        with terminal.interruptible():
            yield
    except DepthlineError as error:
        terminal.print_error(errors, error)
        raise typer.Exit(2) from None
    except terminal.Interrupted as interrupted:
        terminal.print_interrupted(errors)
        raise typer.Exit(interrupted.status) from None


def model_named(name: str) -> ModelSpec:
    """Raises ConfigurationError with the names that there are."""
    for spec in MODELS:
        if spec.key == name:
            return spec
    raise ConfigurationError(f"no model {name!r}; there are: {', '.join(spec.key for spec in MODELS)}")
