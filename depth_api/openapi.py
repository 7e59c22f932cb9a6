"""Parts of the OpenAPI document that several operations share."""

from __future__ import annotations

from typing import Any


def header(name: str, description: str, *, always: bool = True, **schema: Any) -> dict[str, Any]:
    """A header of an answer. `schema`: what its value looks like, beyond that it is a string."""
    return {name: {"description": description, "required": always, "schema": {"type": "string"} | schema}}
