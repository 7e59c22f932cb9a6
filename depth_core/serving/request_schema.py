"""The body of a single request, from the HTTP API or an inbox file: its rules, its errors, its JSON schema.

What does not belong here: headers, files, and what happens to a request afterwards.
"""

from __future__ import annotations

import hashlib
import json
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError, PydanticKnownError, to_json

from depth_core import catalog, url_schemes
from depth_core.contract import UPLOADS_PATH, DepthParameters, NormalizationMode, WebhookEvent
from depth_core.errors import ErrorKind, ImageError
from depth_core.ingest.fetch import ssrf_guard
from depth_core.serving import data_uri, uploads
from depth_core.serving.artworks.types import NewArtwork
from depth_core.serving.data_uri import InlineImage
from depth_core.settings import Settings

MAX_URL_CHARS = 8192

_HOST = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,250}[A-Za-z0-9])?"
_ANY_PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_REST = r"([/?#][!-~]*)?"  # printable ASCII: the rest is percent-encoded, as RFC 3986 has it


@dataclass(frozen=True)
class OwnUploads:
    """The uploads that a request may name: those of its owner."""

    api_key_id: str
    is_there: Callable[[UUID], bool]  # whether the owner has such an upload, and it has not expired


@dataclass
class _Context:
    """What `DepthMapRequest` is validated with, and what its image URL turns out to be."""

    settings: Settings
    own_uploads: OwnUploads | None
    upload_id: UUID | None = None
    inline: InlineImage | None = None


class DepthMapRequest(DepthParameters):
    """A request for the depth map of one image. Validated by `parse`."""

    image_url: str = Field(
        description="URL of the image: http, https, or s3 where a bucket is allowed; the `imageUrl` of an upload; or a `data:` "
        "URI, which is kept as an upload."
    )
    webhook: str | None = Field(
        None, max_length=MAX_URL_CHARS, description="Gets the artwork by signed POST, once it is succeeded, failed or canceled."
    )
    webhook_events: tuple[WebhookEvent, ...] | None = Field(
        None,
        description="When the webhook gets the artwork: `processing`, a worker has begun; `final`, it has ended. "
        "Only with a webhook; without this it gets the final artwork.",
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            raise PydanticCustomError("object", "must be an object with the fields of a request")
        optional = {field.alias for field in cls.model_fields.values() if not field.is_required()}
        return {name: value for name, value in fields.items() if value is not None or name not in optional}

    @field_validator("*", mode="before")
    @classmethod
    def _whole_number(cls, value: Any, info: ValidationInfo) -> Any:
        # JSON has one kind of number: 512.0 is an integer, 512.5 is not.
        is_integer = cls.model_fields[info.field_name or ""].annotation is int
        return int(value) if is_integer and isinstance(value, float) and value.is_integer() else value

    @field_validator("image_url", "webhook")
    @classmethod
    def _may_be_called(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is None:
            return None
        context = cast(_Context, info.context)
        settings = context.settings
        if info.field_name == "image_url" and (own := _own_upload(url, context)) is not None:
            return own
        if len(url) > MAX_URL_CHARS:  # data: URIs have a limit of their own
            raise PydanticKnownError("string_too_long", {"max_length": MAX_URL_CHARS})
        pattern = image_url_pattern(settings) if info.field_name == "image_url" else webhook_pattern(settings)
        if url_schemes.bucket_of(url) and re.fullmatch(pattern, url):
            return url
        try:
            ssrf_guard.check_url(url, allow_private=settings.allow_private_hosts)
        except ImageError as error:
            raise PydanticCustomError(error.kind.value, "{message}", {"message": error.message}) from None
        if not re.fullmatch(pattern, url):
            raise PydanticCustomError(
                "bad_url",
                "must be a URL of printable ASCII with a host name or IPv4 address; encode the rest with % or punycode",
            )
        return url

    @field_validator("webhook_events")
    @classmethod
    def _events_of_a_webhook(
        cls, events: tuple[WebhookEvent, ...] | None, info: ValidationInfo
    ) -> tuple[WebhookEvent, ...] | None:
        if events is None:
            return None
        if not events or len(set(events)) < len(events):
            raise PydanticCustomError("webhook_events", "must name one event or more, each once")
        if info.data.get("webhook", "invalid itself, and reported") is None:
            raise PydanticCustomError("webhook_missing", "needs a webhook: add webhook, or leave this out")
        return events


def _own_upload(url: str, context: _Context) -> str | None:
    """The URL of the upload that an image URL names or becomes; None for any other URL."""
    settings, own = context.settings, context.own_uploads
    if data_uri.is_data_uri(url):
        if own is None:
            raise _bad_url("data: URIs are taken over HTTP only; give a URL that can be fetched")
        context.inline = _inline(url, settings.max_data_uri_bytes)
        sha256 = hashlib.sha256(context.inline.data).hexdigest()
        context.upload_id = uploads.id_of(own.api_key_id, sha256)
        return uploads.url(settings.public_url, context.upload_id)
    is_upload, upload_id = uploads.named_by(url, settings.public_url)
    if not is_upload:
        return None
    if own is None:
        raise _bad_url("uploads belong to callers of the HTTP API; give a URL that can be fetched")
    if upload_id is None or not own.is_there(upload_id):
        raise _bad_url(f"there is no such upload of yours, or it has expired; send the image to {UPLOADS_PATH} again")
    context.upload_id = upload_id
    return uploads.url(settings.public_url, upload_id)


def _inline(url: str, limit: int) -> InlineImage:
    if not limit:
        raise _bad_url(f"data: URIs are not taken here; send the image to {UPLOADS_PATH}")
    try:
        return data_uri.parse(url, limit)
    except data_uri.TooLargeError:
        message = f"a data: URI may have {limit:,} bytes of data (DEPTH_MAX_DATA_URI_BYTES); send the image to {UPLOADS_PATH}"
        raise PydanticCustomError(ErrorKind.TOO_MANY_BYTES.value, "{message}", {"message": message}) from None
    except ValueError as error:
        raise _bad_url(str(error)) from None


def _bad_url(message: str) -> PydanticCustomError:
    return PydanticCustomError(ErrorKind.BAD_URL.value, "{message}", {"message": message})


def parse(body: bytes | object, settings: Settings, own_uploads: OwnUploads | None = None) -> NewArtwork:
    """A request from its JSON text, a byte order mark before it or not, or from the parsed object.

    `own_uploads`: those that it may name; without them it may have no `data:` URI either. Raises pydantic's ValidationError with
    every error at once.
    """
    text = body.removeprefix(BOM_UTF8) if isinstance(body, bytes) else to_json(body)
    repeated = _repeated(text)
    context = _Context(settings, own_uploads)
    try:
        request = DepthMapRequest.model_validate_json(text, context=context, by_alias=True, by_name=False)
    except ValidationError as error:
        raise (_also_repeated(error.errors(), repeated) if repeated else error) from None
    if repeated:
        raise _also_repeated([], repeated)
    of_no_pixels = {"image_url", "webhook", "webhook_events"}
    parameters = DepthParameters.model_validate(request.model_dump(by_alias=True, exclude=of_no_pixels))
    image = (context.upload_id, context.inline)
    return NewArtwork(request.image_url, parameters, request.webhook, request.webhook_events, *image)


def _repeated(text: bytes) -> list[str]:
    """The fields that a JSON object names more than once, of which pydantic would take the last."""
    try:
        pairs = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return []  # not JSON, or not a request: pydantic reports it
    counts = Counter(name for name, _ in pairs) if isinstance(pairs, tuple) else {}
    return [field.alias for field in DepthMapRequest.model_fields.values() if field.alias and counts.get(field.alias, 0) > 1]


def _also_repeated(errors: Sequence[ErrorDetails], repeated: Sequence[str]) -> ValidationError:
    lines = [
        InitErrorDetails(
            type=PydanticCustomError(each["type"], "{message}", {"message": each["msg"]}), loc=each["loc"], input=None
        )
        for each in errors
    ]
    twice = PydanticCustomError("repeated_field", "the field is given more than once")
    lines += [InitErrorDetails(type=twice, loc=(name,), input=None) for name in repeated]
    return ValidationError.from_exception_data(DepthMapRequest.__name__, lines)


def field_errors(error: ValidationError, loc: Sequence[str | int] = ("body",)) -> list[dict[str, Any]]:
    """The API's list of what is wrong, field by field: `loc` and the place within it, `msg`, `type`."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return [{"loc": [*loc, *each["loc"]], "msg": each["msg"], "type": each["type"]} for each in details]


# -- the same rules as a JSON schema ------------------------------------------------------------------------------------------


def image_url_pattern(settings: Settings) -> str:
    """What an `imageUrl` looks like. Names that resolve to private addresses are refused beyond that, when they are called."""
    buckets = "|".join(map(_literal, url_schemes.bucket_prefixes(settings.image_buckets)))
    kinds = [_http(settings), *([f"({buckets})/[!-~]+"] if buckets else [])]
    if settings.max_data_uri_bytes:
        kinds.append(data_uri.PATTERN)
    any_upload = uploads.url(settings.public_url, UUID(int=0))
    if not re.fullmatch(kinds[0], any_upload):  # this API has a port that requests may not call
        kinds.append(_literal(any_upload.removesuffix(str(UUID(int=0)))) + uploads.ID_PATTERN)
    return f"^({'|'.join(kinds)})$" if len(kinds) > 1 else f"^{kinds[0]}$"


def webhook_pattern(settings: Settings) -> str:
    return f"^{_http(settings)}$"


def _literal(text: str) -> str:
    """A pattern of this very text that is one in JavaScript, too."""
    return re.sub(r"[\\^$.*+?()[\]{}|]", r"\\\g<0>", text)


def _http(settings: Settings) -> str:
    ports = _ANY_PORT if settings.allow_private_hosts else f"({'|'.join(map(str, sorted(ssrf_guard.ALLOWED_PORTS)))})"
    return f"[Hh][Tt][Tt][Pp][Ss]?://{_HOST}(:{ports})?{_REST}"


# A drawing of 64 x 48 pixels, so that the examples need nothing from elsewhere.
_PICTURE = (
    "data:image/webp;base64,UklGRrYAAABXRUJQVlA4IKoAAABwBgCdASpAADAAPwlysVArpySisrbbMXAhCWgApLmu155h0M+f+ByXF3HQQ+UmIZQQz+3A0yBJ"
    "NaKF6AAA/uZnRYd9kM0uzcDu3mTeU5Y75HvNQlir81t1F5+NfXXWaRkjZsz//iAxQJM5BiBR2mX0qxguzHdVGvyJrDqaQL/9cGHFa+P5IsBLES7uO1dZjM2TFCba"
    "09UKES2guVbWIUXTDqt1uTTQdgAAAA=="
)


def examples(settings: Settings) -> dict[str, Any]:
    """Bodies for documents, that run as they stand: the model is the bundled one. The first is what `/docs` offers to send."""
    url = _PICTURE if settings.max_data_uri_bytes else "https://example.com/photo.jpg"
    return {
        "bundled": {"summary": "The bundled model", "value": {"imageUrl": url, "model": "tiny"}},
        "inverted": {
            "summary": "Darker is nearer, at the size that the network sees",
            "value": {"imageUrl": url, "model": "tiny", "invertDepth": True, "usePostResize": False},
        },
    }


def json_schema(settings: Settings) -> dict[str, Any]:
    """The body's schema, which model and mode go with `useVersion3` included."""
    schema = DepthMapRequest.model_json_schema() | {"description": "A request for the depth map of one image."}
    definitions = schema.pop("$defs", {})
    properties = {name: _inlined(field, definitions) for name, field in schema["properties"].items()}
    schema["properties"] = properties
    properties["imageUrl"] |= {"format": "uri", "pattern": image_url_pattern(settings)}
    properties["webhook"] |= {"type": "string", "format": "uri", "maxLength": MAX_URL_CHARS, "pattern": webhook_pattern(settings)}
    properties["webhook"].pop("anyOf")
    properties["model"]["enum"] = list(dict.fromkeys(spec.name for spec in catalog.MODELS))
    properties["webhookEvents"] = {
        "type": "array",
        "items": {"type": "string", "enum": [event.value for event in WebhookEvent]},
        "minItems": 1,
        "uniqueItems": True,
        "description": properties["webhookEvents"]["description"],
    }
    for name, field in properties.items():
        field.pop("title", None)
        if name not in schema["required"] and "type" in field:  # null is the same as leaving it out
            properties[name] = _or_null(name, field)
    return schema | _what_goes_together()


def _or_null(name: str, field: dict[str, Any]) -> dict[str, Any]:
    """A field's schema that takes null too. An enum is an alternative with a title: generators make it a type."""
    if "enum" not in field:
        return field | {"type": [field["type"], "null"]}
    values = {key: field.pop(key) for key in ("type", "enum")}
    return field | {"anyOf": [{"title": name[0].upper() + name[1:]} | values, {"type": "null"}]}


def _what_goes_together() -> dict[str, Any]:
    """What the fields' own schemas cannot say: which model and mode go with `useVersion3`, and that events need a webhook."""
    either = [spec.name for spec in catalog.MODELS if spec.family.use_version_3 is None and spec.family.only_standard]
    v2 = catalog.names(use_version_3=False)
    v3 = [name for name in catalog.names(use_version_3=True) if name not in either]
    is_v3 = {"useVersion3": {"const": True}, "model": {"not": {"enum": either}}}
    standard = {"enum": [NormalizationMode.STANDARD.value, None]}
    models = {
        "if": {"properties": is_v3, "required": ["useVersion3"]},
        "then": {"properties": {"model": {"enum": [*v3, None]}}},
        "else": {"properties": {"model": {"enum": [*v2, None]}, "normalizationMode": standard}},
    }
    events = {
        "if": {"properties": {"webhookEvents": {"type": "array"}}, "required": ["webhookEvents"]},
        "then": {"properties": {"webhook": {"type": "string"}}, "required": ["webhook"]},
    }
    return {"allOf": [models, events]}


def _inlined(field: dict[str, Any], definitions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A field's schema with the enum that it refers to in place of the reference."""
    if "$ref" not in field:
        return field
    definition = definitions[field["$ref"].rpartition("/")[2]]
    return {name: value for name, value in field.items() if name != "$ref"} | {
        "type": definition["type"],
        "enum": definition["enum"],
    }
