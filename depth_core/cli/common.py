"""What the commands share: where they print, how they end when something is wrong, models by name."""

from __future__ import annotations

from contextlib import AbstractContextManager

from depth_core import terminal
from depth_core.catalog import MODELS, ModelSpec
from depth_core.errors import ConfigurationError

console, errors = terminal.consoles()


def clear_errors() -> AbstractContextManager[None]:
    """One line and exit status 2 for an error that has a cure; one line and 130 or 143 for Ctrl-C or SIGTERM."""
    return terminal.plain_end(errors, 2)


def model_named(name: str) -> ModelSpec:
    """Raises ConfigurationError with the names that there are."""
    for spec in MODELS:
        if spec.key == name:
            return spec
    raise ConfigurationError(f"no model {name!r}; there are: {', '.join(spec.key for spec in MODELS)}")
