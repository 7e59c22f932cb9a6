"""Parts of the OpenAPI document that several operations share."""

from __future__ import annotations

from typing import Any


def header(name: str, description: str, *, always: bool = True, **schema: Any) -> dict[str, Any]:
    """A header of an answer. `schema`: what its value looks like, beyond that it is a string."""
    return {name: {"description": description, "required": always, "schema": {"type": "string"} | schema}}


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """The document with what FastAPI does not say of its own accord: names of schemas, webhooks. Changes it in place."""
    schemas = document["components"]["schemas"]
    _without_422(document)
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        for parameter in operation.get("parameters", ()):
            parameter["schema"] = _never_null(parameter["schema"])
        for content in operation.get("requestBody", {}).get("content", {}).values():
            content["schema"] = _named(content["schema"], schemas)
    answered = schemas["Artwork"]["properties"]
    answered["parameters"] = _named(answered["parameters"], schemas)
    document["webhooks"] = {"artwork": {"post": _WEBHOOK}}
    return document


def _never_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter that is None inside where it was left out: headers and queries have no null."""
    chosen = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if len(chosen) != 1:
        return schema
    return {name: value for name, value in schema.items() if name != "anyOf"} | dict(chosen[0])


def _without_422(document: dict[str, Any]) -> None:
    """Takes out the answers and schemas that FastAPI adds by itself: here an invalid request is a 400."""
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _named(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to the schema, which goes under its title where clients have a type for it."""
    if "$ref" in schema:
        return schema
    schemas[schema["title"]] = schema
    return {"$ref": f"#/components/schemas/{schema['title']}"}


def _webhook_header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": True, "description": description, "schema": {"type": "string"} | schema}


_WEBHOOK = {
    "tags": ["webhooks"],
    "operationId": "artwork",
    "summary": "An artwork, posted to the `webhook` of its request",
    "description": "Signed as Standard Webhooks 1.0 says. It may come more than once: ignore a `webhook-id` that you have seen.",
    "security": [],
    "parameters": [
        _webhook_header("webhook-id", "The id of this message, the same at every attempt.", pattern="^msg_[0-9a-f]{32}$"),
        _webhook_header("webhook-timestamp", "When it was sent: seconds since 1970, UTC.", pattern="^[0-9]+$"),
        _webhook_header("webhook-signature", "`v1,` and the signature in base64; several by space.", pattern="^v1,"),
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Artwork"}}},
    },
    "responses": {
        "2XX": {"description": "Received. Anything else is tried again."},
        "410": {"description": "Gone: this message is not sent again."},
    },
}
