"""Parts of the OpenAPI document that several operations share."""

from __future__ import annotations

from typing import Any

from depth_core.contract import ARTWORKS_PATH, DepthParameters


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
    for name, example in _ANSWERS.items():
        schemas[name]["examples"] = [example]
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
    """A reference to the schema, which goes under its title where clients have a type for it. One without a title stays."""
    if "$ref" in schema or "title" not in schema:
        return schema
    schemas[schema["title"]] = schema
    return {"$ref": f"#/components/schemas/{schema['title']}"}


def _webhook_header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": True, "description": description, "schema": {"type": "string"} | schema}


_WEBHOOK = {
    "tags": ["webhooks"],
    "operationId": "artwork",
    "summary": "An artwork, posted to the `webhook` of its request",
    "description": "It comes when the artwork has ended, or at the events that `webhookEvents` of the request names. It is "
    "signed as Standard Webhooks 1.0 says, and may come more than once: ignore a `webhook-id` that you have seen.",
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

_PARAMETERS = DepthParameters.model_validate({"model": "tiny"}).as_api() | {"imageUrl": "https://example.com/photo.jpg"}
_ID = "0b0d3c1e-6f0e-4d53-9a83-2f7a4f6f2f10"
# What answers look like: `/docs` would show what a generator makes of their schemas.
_ANSWERS = {
    "Artwork": {
        "id": _ID,
        "artworkType": "depth_map",
        "parameters": _PARAMETERS,
        "duration": 0.42,
        "results": [f"https://depth.example{ARTWORKS_PATH}/{_ID}/results/{name}" for name in ("depth.png", "depth.json")],
        "status": "succeeded",
        "createdAt": "2026-01-31T12:00:00Z",
    },
    "ErrorAnswer": {
        "statusCode": 400,
        "message": "resolutionLowerLimit: Input should be a multiple of 64",
        "error": "Bad Request",
        "detail": [
            {
                "loc": ["body", "resolutionLowerLimit"],
                "msg": "Input should be a multiple of 64",
                "type": "multiple_of",
            }
        ],
    },
}
