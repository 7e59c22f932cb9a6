"""Parts of the OpenAPI document that several operations share."""

from __future__ import annotations

from typing import Any


def header(name: str, description: str, *, always: bool = True, **schema: Any) -> dict[str, Any]:
    """A header of an answer. `schema`: what its value looks like, beyond that it is a string."""
    return {name: {"description": description, "required": always, "schema": {"type": "string"} | schema}}


def without_422(document: dict[str, Any]) -> dict[str, Any]:
    """The document without the answers and schemas that FastAPI adds by itself: here an invalid request is a 400."""
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    return document
