"""What a server's answer says: the file, a part, nothing, elsewhere, later, packed, not for machines that learn.

Decides from status and headers alone. What does not belong here: bytes (received.py), asking (download.py), which hosts may be
called (addresses.py).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from depth_core.display import printable, shown_text
from depth_core.errors import ErrorKind, ImageError, is_fault_of_installation
from depth_core.ingest import addresses

LONGEST_HEADER = 200  # characters of a header that are kept or shown

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PACKED = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
# Compressions that nobody asked for. Any other word says nothing of the bytes: gateways keep aws-chunked from an upload, and
# people write UTF-8 or binary there.
_NOT_ASKED_FOR = frozenset(
    {"br", "zstd", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip", "bzip2", "xz", "lzma", "sdch"}
)
_WHOLE = re.compile(r"bytes\s+0-(\d{1,18})/(\d{1,18})", re.IGNORECASE)
_OPT_OUTS = ("noai", "noimageai")
_BROKEN_OFF = re.compile("disconnected|closed|incomplete", re.IGNORECASE)


class LaterError(ImageError):
    """The server asks for patience: `retry_after` seconds."""

    def __init__(self, kind: ErrorKind, message: str, retry_after: float) -> None:
        super().__init__(kind, message)
        self.retry_after = retry_after


class NoHttpError(ImageError):
    """An answer that is not HTTP. Asked for again now, since the connection may be what is out of step, but not in later runs."""


def refusal(response: httpx.Response) -> ImageError | None:
    """Why an answer is not the whole file that was asked for; None when it is.

    A 206 that says it is all there is (`bytes 0-99/100`) is the file.
    """
    status = response.status_code
    message = f"HTTP {status} {shown(response.reason_phrase)}".rstrip()
    if status in (204, 205):
        return ImageError(ErrorKind.EMPTY_FILE, f"{message}: an answer without a file")
    if status == 206:
        if whole_size(response) is not None:
            return None
        return ImageError(ErrorKind.SERVER_ERROR, f"{message}: a part of the file, though the whole was asked for")
    if 200 <= status < 300:
        return None
    if status == 304:
        return ImageError(ErrorKind.SERVER_ERROR, f"{message}: not changed, though nobody asked whether it had")
    if status in (404, 410):
        return ImageError(ErrorKind.NOT_FOUND, message)
    if status in (401, 403):
        return ImageError(ErrorKind.FORBIDDEN, message)
    if status == 408:
        return ImageError(ErrorKind.TIMEOUT, message)
    if status == 429 or status >= 500:
        kind = ErrorKind.RATE_LIMITED if status == 429 else ErrorKind.SERVER_ERROR
        return LaterError(kind, message, retry_after(response.headers.get("retry-after", "")))
    return ImageError(ErrorKind.REFUSED, message)


def whole_size(response: httpx.Response) -> int | None:
    """Bytes of the file that a 206 says it has sent whole; None when it is no 206, or a part."""
    found = _WHOLE.fullmatch(response.headers.get("content-range", "").strip()) if response.status_code == 206 else None
    return int(found[2]) if found and int(found[1]) + 1 == int(found[2]) else None


def broken_protocol(error: httpx.RemoteProtocolError) -> ImageError:
    """A connection that was broken off may do better; an answer whose lines are not HTTP is what the server says."""
    text = shown(str(error))
    if _BROKEN_OFF.search(text):
        return ImageError(ErrorKind.UNREACHABLE, f"connection failed: {text}")
    return NoHttpError(ErrorKind.REFUSED, f"its answer is not valid HTTP: {text}")


def next_url(response: httpx.Response) -> httpx.URL | None:
    """Where an answer says the file is now; None when it says nothing of the kind. Raises ImageError (BAD_URL).

    For answers that came through `addresses.hold_redirect`.
    """
    location = response.extensions.get(addresses.LOCATION)
    if response.status_code not in _REDIRECTS or location is None:
        return None
    here = response.request.url
    try:
        url = httpx.URL(location)
        if url.scheme in ("http", "https") and not url.raw_host:  # http:/path, as some write it
            url = url.copy_with(host=here.raw_host.decode("ascii"), port=here.port)
        there = here.join(url)
    except Exception as error:
        if is_fault_of_installation(error):
            raise
        raise ImageError(ErrorKind.BAD_URL, f"redirects to what is not a URL: {shown(str(error))}") from None
    if there.scheme not in ("http", "https"):
        raise ImageError(ErrorKind.BAD_URL, f"redirects to {shown(str(there))}, which is no http or https URL")
    return there


def coding(response: httpx.Response) -> str:
    """How the body is packed: "gzip", "deflate" or "". Raises ImageError (REFUSED) for what nobody asked for."""
    named = [name.strip().lower() for name in response.headers.get("content-encoding", "").split(",")]
    packed = [name for name in named if name in _PACKED or name in _NOT_ASKED_FOR]
    if len(packed) > 1 or not set(packed) <= _PACKED.keys():
        raise ImageError(ErrorKind.REFUSED, f"sent with Content-Encoding {shown(', '.join(packed))!r}, which was not asked for")
    return _PACKED[packed[0]] if packed else ""


def opt_outs(response: httpx.Response, user_agent: str) -> str:
    """What its X-Robots-Tag says of machine learning: "noai", "noimageai", both by comma, or "".

    A line for another robot (`otherbot: noai`) does not count.
    """
    found: set[str] = set()
    for line in response.headers.get_list("x-robots-tag"):
        robot, colon, rest = line.partition(":")
        if colon and "," not in robot:
            if robot.strip().lower() not in user_agent.lower():
                continue
            line = rest
        found.update(word.strip().lower() for word in line.split(","))
    return ", ".join(word for word in _OPT_OUTS if word in found)


def content_type(response: httpx.Response) -> str:
    return shown(response.headers.get("content-type", ""))


def etag(response: httpx.Response) -> str:
    """The ETag, where it is one that can be sent back; else ""."""
    value = response.headers.get("etag", "")
    return value if is_etag(value) else ""


def is_etag(value: str) -> bool:
    return 0 < len(value) <= LONGEST_HEADER and value.isascii() and value.isprintable()


def shown(text: str) -> str:
    """A header's text for people: short, printable, without secrets."""
    return shown_text(printable(text[: 2 * LONGEST_HEADER]))[:LONGEST_HEADER]


def retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for (RFC 9110: a number of seconds or a date); 0 when it asks for none."""
    if value.strip().isdecimal():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
        return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except Exception:  # noqa: BLE001 - years, zones and numbers beyond any calendar; a wish that cannot be read is none
        return 0.0
