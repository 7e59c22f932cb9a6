"""`data:` URIs, as RFC 2397 and the URL Standard of the WHATWG have them: from the text to the bytes."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

PATTERN = (  # what clients should write; `parse` takes percent-encoded data and white space in base64 as well
    "data:image/[a-z0-9][a-z0-9.+-]{0,60}(;[a-z]{1,20}=[A-Za-z0-9.-]{1,40}){0,3};base64,"
    "([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)"
)

_START = re.compile("data:", re.IGNORECASE)
_BASE64 = re.compile(r"; *base64$", re.IGNORECASE)
_WHITE_SPACE = b"\t\n\f\r "


@dataclass(frozen=True, slots=True)
class InlineImage:
    """The bytes of a `data:` URI."""

    media_type: str
    data: bytes = field(repr=False)


class TooLargeError(ValueError):
    """More bytes than allowed."""


def is_data_uri(url: str) -> bool:
    return _START.match(url) is not None


def parse(uri: str, limit: int) -> InlineImage:
    """The media type and the bytes of a `data:` URI. Raises ValueError with the reason, TooLargeError above `limit` bytes."""
    header, comma, body = uri[len("data:") :].partition("#")[0].partition(",")
    if not comma:
        raise ValueError("a data: URI needs a comma before its data")
    header = header.strip()
    is_base64 = _BASE64.search(header)
    if (len(body) * 3 // 4 if is_base64 else len(body)) > 3 * limit + 4:  # whatever is percent-encoded in it
        raise TooLargeError
    data = unquote_to_bytes(body)
    if is_base64:
        header = header[: is_base64.start()]
        data = _decoded(data.translate(None, _WHITE_SPACE))
    if len(data) > limit:
        raise TooLargeError
    if not data:
        raise ValueError("the data: URI has no data")
    return InlineImage(header.partition(";")[0].strip().lower(), data)


def _decoded(text: bytes) -> bytes:
    """Base64 with its padding, or without. Raises ValueError."""
    if len(text) % 4 == 0:
        text = text.removesuffix(b"=").removesuffix(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise ValueError("the data of the data: URI is not base64") from None
