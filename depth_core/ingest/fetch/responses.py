"""What a response means: the file, a part of it, nothing, a redirect, a later retry, a coding, an opt-out from machine learning.

Decides from status and headers alone. What does not belong here: bytes (body.py), requests (http_client.py), which hosts may be
called (ssrf_guard.py).
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from depth_core.display import printable, shown_text
from depth_core.errors import ErrorKind, ImageError, is_installation_error
from depth_core.ingest.fetch import ssrf_guard

LONGEST_HEADER = 200  # characters of a header that are kept or shown

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PACKED = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
# Compressions that were not asked for. Other values do not change the bytes: gateways keep aws-chunked from an upload, and people
# write UTF-8 or binary there.
_UNWANTED_CODINGS = frozenset(
    {"br", "zstd", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip", "bzip2", "xz", "lzma", "sdch"}
)
_WHOLE = re.compile(r"bytes\s+0-(\d{1,18})/(\d{1,18})", re.IGNORECASE)
_OPT_OUTS = ("noai", "noimageai")
_ROBOTS_DIRECTIVES = frozenset({"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"})
_DISCONNECTED = re.compile("disconnected|closed|incomplete", re.IGNORECASE)
_TIMEOUTS: dict[type[httpx.TimeoutException], str] = {
    httpx.ConnectTimeout: "timed out while connecting (DEPTH_CONNECT_TIMEOUT)",
    httpx.ReadTimeout: "timed out while reading (DEPTH_READ_TIMEOUT)",
    httpx.WriteTimeout: "timed out while writing (DEPTH_READ_TIMEOUT)",
}
_TLS = re.compile(r"\[SSL: \w+\] | \(_ssl\.c:\d+\)")
_UNTRUSTED = " (SSL_CERT_FILE can name more trusted certificate authorities)"
_PLAIN_MESSAGES = {  # by h11's messages
    "Receive buffer too long": "its headers are larger than 100 kB",
    "_SWITCH_": "it switches to another protocol",
    "status_code should be": "its status is not a number from 100 to 999",
}


class RetryLaterError(ImageError):
    """The server asks to wait `retry_after` seconds."""

    def __init__(self, kind: ErrorKind, message: str, retry_after: float) -> None:
        super().__init__(kind, message)
        self.retry_after = retry_after


class NotHttpError(ImageError):
    """A response that is not valid HTTP. Retried at once, since the connection may be out of step, but not by later runs."""


def refusal(response: httpx.Response) -> ImageError | None:
    """Why a response is not the whole file; None when it is.

    A 206 whose range is the whole file (`bytes 0-99/100`) is the file.
    """
    status = response.status_code
    message = f"HTTP {status} {shown(response.reason_phrase)}".rstrip()
    if status in (204, 205):
        return ImageError(ErrorKind.EMPTY_FILE, f"{message}: a response without a file")
    if status == 206:
        if whole_size(response) is not None:
            return None
        return ImageError(ErrorKind.SERVER_ERROR, f"{message}: only a part of the file was sent")
    if 200 <= status < 300:
        return None
    if status in _REDIRECTS:
        return ImageError(ErrorKind.REFUSED, f"{message}: a redirect without a location")
    if status == 304:
        return ImageError(ErrorKind.SERVER_ERROR, f"{message}: sent without a condition in the request")
    if status in (404, 410):
        return ImageError(ErrorKind.NOT_FOUND, message)
    if status in (401, 403):
        return ImageError(ErrorKind.FORBIDDEN, message)
    if status == 408:
        return ImageError(ErrorKind.TIMEOUT, message)
    if status == 429 or 500 <= status < 600:
        kind = ErrorKind.RATE_LIMITED if status == 429 else ErrorKind.SERVER_ERROR
        return RetryLaterError(kind, message, retry_after(response.headers.get("retry-after", "")))
    return ImageError(ErrorKind.REFUSED, message)


def whole_size(response: httpx.Response) -> int | None:
    """Size in bytes of a file that a 206 contains whole; None for other responses, and for a part."""
    found = _WHOLE.fullmatch(response.headers.get("content-range", "").strip()) if response.status_code == 206 else None
    return int(found[2]) if found and int(found[1]) + 1 == int(found[2]) else None


def failure(error: httpx.HTTPError | httpx.InvalidURL) -> ImageError:
    """An exception of httpx as the failure of its URL."""
    if isinstance(error, httpx.TimeoutException):
        return ImageError(ErrorKind.TIMEOUT, _TIMEOUTS.get(type(error), "timed out"))
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return ImageError(ErrorKind.BAD_URL, f"not a URL that can be fetched: {shown(str(error))}")
    if isinstance(error, httpx.RemoteProtocolError) and not _DISCONNECTED.search(str(error)):
        return NotHttpError(ErrorKind.REFUSED, f"the response is not valid HTTP: {_protocol_error(str(error))}")
    return ImageError(ErrorKind.UNREACHABLE, f"connection failed: {shown(_first_cause(error)) or 'closed early'}")


def _protocol_error(text: str) -> str:
    """h11's message without Python's syntax."""
    plain = next((message for part, message in _PLAIN_MESSAGES.items() if part in text), text)
    return shown(re.sub(r"bytearray\(b(['\"].*?['\"])\)", r"\1", plain))


def _first_cause(error: BaseException) -> str:
    """The system's reason, where the library says only that all attempts have failed."""
    cause: BaseException | None = error if "All connection attempts failed" in str(error) else None
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    said = _TLS.sub("", str(error))
    return said + _UNTRUSTED if "certificate verify failed" in said else said


def next_url(response: httpx.Response) -> httpx.URL | None:
    """Where a redirect leads; None when the response is not one. Raises ImageError (BAD_URL).

    For responses that came through `ssrf_guard.hold_redirect`.
    """
    location = _as_browsers_read(response.extensions.get(ssrf_guard.LOCATION, ""))
    if response.status_code not in _REDIRECTS or not location:
        return None
    here = response.request.url
    try:
        url = ssrf_guard.parse_url(location)
        if url.scheme in ("http", "https") and not url.raw_host:  # http:/path, as some write it
            url = url.copy_with(host=here.raw_host.decode("ascii"), port=here.port)
        there = here.join(url)
    except ImageError as error:
        raise ImageError(ErrorKind.BAD_URL, f"redirects to {error.message}") from None
    except Exception as error:
        if is_installation_error(error):
            raise
        raise ImageError(ErrorKind.BAD_URL, f"redirects to something that is not a URL: {shown(str(error))}") from None
    if there.scheme not in ("http", "https"):
        raise ImageError(ErrorKind.BAD_URL, f"redirects to {shown(str(there))}, which is not an http or https URL")
    return there


def _as_browsers_read(location: str) -> str:
    """The location without tabs, and with / for each backslash before the query."""
    path, *rest = re.split("([?#].*)", location.strip().replace("\t", ""), maxsplit=1)
    return "".join([path.replace("\\", "/"), *rest])


def coding(response: httpx.Response) -> str:
    """The compression of the body: "gzip", "deflate" or "". Raises ImageError (REFUSED) for others, which were not asked for."""
    named = [
        name.partition(";")[0].strip(' "').lower() for name in re.split("[, ]", response.headers.get("content-encoding", ""))
    ]
    packed = [name for name in named if name in _PACKED or name in _UNWANTED_CODINGS]
    if len(packed) > 1 or not set(packed) <= _PACKED.keys():
        raise ImageError(ErrorKind.REFUSED, f"sent with Content-Encoding {shown(', '.join(packed))!r}, which was not asked for")
    return _PACKED[packed[0]] if packed else ""


def opt_outs(response: httpx.Response, user_agent: str) -> str:
    """The opt-outs from machine learning in X-Robots-Tag: "noai", "noimageai", both separated by a comma, or "".

    A line for another robot (`otherbot: noai`) does not count.
    """
    found: set[str] = set()
    for line in response.headers.get_list("x-robots-tag"):
        robot, colon, rest = line.partition(":")
        robot = robot.strip().lower()
        if colon and "," not in robot and robot not in _ROBOTS_DIRECTIVES:
            if robot != "*" and robot not in user_agent.lower():
                continue
            line = rest
        found.update(value.strip().lower() for value in line.split(","))
    return ", ".join(name for name in _OPT_OUTS if name in found)


def content_type(response: httpx.Response) -> str:
    return shown(response.headers.get("content-type", ""))


def etag(response: httpx.Response) -> str:
    """The ETag if it can be sent back, else ""."""
    value = response.headers.get("etag", "")
    return value if is_etag(value) else ""


def is_etag(value: str) -> bool:
    return 0 < len(value) <= LONGEST_HEADER and value.isascii() and value.isprintable()


def shown(text: str) -> str:
    """A header's text for messages: short, printable, without secrets."""
    return shown_text(printable(text[: 2 * LONGEST_HEADER]))[:LONGEST_HEADER]


def retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for (RFC 9110: a number of seconds or a date); 0 when it asks for none."""
    if value.strip().isdecimal():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
        return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except Exception:  # noqa: BLE001 - years, zones and numbers out of range; an unreadable value counts as none
        return 0.0
