"""Whether the chunk of a row is complete under a profile, as a line for people."""

from __future__ import annotations

from depth_core import completeness, profiles
from depth_core.errors import ConfigurationError, ModelUnavailableError
from depth_core.inference import checkpoints
from depth_core.settings import Settings
from depth_core.storage import Store


def describe(chunk: str, profile: str, store: Store, settings: Settings) -> str:
    """A line for people. Looks at every file of the chunk; downloads no weights. Raises StoreError."""
    try:
        wanted = profiles.find(settings, profile)
        checkpoint = checkpoints.resolve(wanted.parameters.spec, settings, wanted.checkpoint, download=False)
    except (ConfigurationError, ModelUnavailableError) as error:
        return f"whether its chunk is complete cannot be checked: {error}"
    found = completeness.check(chunk, wanted, checkpoint=checkpoint, store=store, settings=settings)
    return "its chunk is complete" if found.reason is None else f"its chunk is not complete: {found.reason}"
