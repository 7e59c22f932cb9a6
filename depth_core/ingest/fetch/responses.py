"""What a server's answer says: the file, a part, nothing, elsewhere, later, packed, not for machines that learn.

Decides from status and headers alone. What does not belong here: bytes (body.py), asking (download.py), which hosts may be
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
# Compressions that nobody asked for. Any other word says nothing of the bytes: gateways keep aws-chunked from an upload, and
# people write UTF-8 or binary there.
_NOT_ASKED_FOR = frozenset(
    {"br", "zstd", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip", "bzip2", "xz", "lzma", "sdch"}
)
_WHOLE = re.compile(r"bytes\s+0-(\d{1,18})/(\d{1,18})", re.IGNORECASE)
_OPT_OUTS = ("noai", "noimageai")
_ROBOTS_DIRECTIVES = frozenset({"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"})
_BROKEN_OFF = re.compile("disconnected|closed|incomplete", re.IGNORECASE)
_TIMEOUTS: dict[type[httpx.TimeoutException], str] = {
    httpx.ConnectTimeout: "no connection in time (DEPTH_CONNECT_TIMEOUT)",
    httpx.ReadTimeout: "timed out: it says nothing more (DEPTH_READ_TIMEOUT)",
    httpx.WriteTimeout: "timed out: it takes nothing more (DEPTH_READ_TIMEOUT)",
}
_TLS = re.compile(r"\[SSL: \w+\] | \(_ssl\.c:\d+\)")
_UNTRUSTED = " (SSL_CERT_FILE names other authorities to trust)"
_PLAINLY = {  # by what h11 says
    "Receive buffer too long": "its headers are larger than 100 kB",
    "_SWITCH_": "it changes to another protocol",
    "status_code should be": "its status is no number from 100 to 999",
}


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
    if status in _REDIRECTS:
        return ImageError(ErrorKind.REFUSED, f"{message}: a redirect that does not say where to")
    if status == 304:
        return ImageError(ErrorKind.SERVER_ERROR, f"{message}: not changed, though nobody asked whether it had")
    if status in (404, 410):
        return ImageError(ErrorKind.NOT_FOUND, message)
    if status in (401, 403):
        return ImageError(ErrorKind.FORBIDDEN, message)
    if status == 408:
        return ImageError(ErrorKind.TIMEOUT, message)
    if status == 429 or 500 <= status < 600:
        kind = ErrorKind.RATE_LIMITED if status == 429 else ErrorKind.SERVER_ERROR
        return LaterError(kind, message, retry_after(response.headers.get("retry-after", "")))
    return ImageError(ErrorKind.REFUSED, message)


def whole_size(response: httpx.Response) -> int | None:
    """Bytes of the file that a 206 says it has sent whole; None when it is no 206, or a part."""
    found = _WHOLE.fullmatch(response.headers.get("content-range", "").strip()) if response.status_code == 206 else None
    return int(found[2]) if found and int(found[1]) + 1 == int(found[2]) else None


def failure(error: httpx.HTTPError | httpx.InvalidURL) -> ImageError:
    """What httpx raised for one URL, as that URL's failure."""
    if isinstance(error, httpx.TimeoutException):
        return ImageError(ErrorKind.TIMEOUT, _TIMEOUTS.get(type(error), "timed out"))
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return ImageError(ErrorKind.BAD_URL, f"not a URL that can be fetched: {shown(str(error))}")
    if isinstance(error, httpx.RemoteProtocolError) and not _BROKEN_OFF.search(str(error)):
        return NoHttpError(ErrorKind.REFUSED, f"its answer is not valid HTTP: {_protocol_error(str(error))}")
    return ImageError(ErrorKind.UNREACHABLE, f"connection failed: {shown(_first_cause(error)) or 'it was broken off'}")


def _protocol_error(text: str) -> str:
    """h11's words, without Python's."""
    plain = next((ours for theirs, ours in _PLAINLY.items() if theirs in text), text)
    return shown(re.sub(r"bytearray\(b(['\"].*?['\"])\)", r"\1", plain))


def _first_cause(error: BaseException) -> str:
    """What the system said, where the library says only that all attempts have failed."""
    cause: BaseException | None = error if "All connection attempts failed" in str(error) else None
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    said = _TLS.sub("", str(error))
    return said + _UNTRUSTED if "certificate verify failed" in said else said


def next_url(response: httpx.Response) -> httpx.URL | None:
    """Where an answer says the file is now; None when it says nothing of the kind. Raises ImageError (BAD_URL).

    For answers that came through `ssrf_guard.hold_redirect`.
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
        raise ImageError(ErrorKind.BAD_URL, f"redirects to what is {error.message}") from None
    except Exception as error:
        if is_installation_error(error):
            raise
        raise ImageError(ErrorKind.BAD_URL, f"redirects to what is not a URL: {shown(str(error))}") from None
    if there.scheme not in ("http", "https"):
        raise ImageError(ErrorKind.BAD_URL, f"redirects to {shown(str(there))}, which is no http or https URL")
    return there


def _as_browsers_read(location: str) -> str:
    """Without tabs, and with / for each backslash before the query."""
    path, *rest = re.split("([?#].*)", location.strip().replace("\t", ""), maxsplit=1)
    return "".join([path.replace("\\", "/"), *rest])


def coding(response: httpx.Response) -> str:
    """How the body is packed: "gzip", "deflate" or "". Raises ImageError (REFUSED) for what nobody asked for."""
    named = [
        name.partition(";")[0].strip(' "').lower() for name in re.split("[, ]", response.headers.get("content-encoding", ""))
    ]
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
        robot = robot.strip().lower()
        if colon and "," not in robot and robot not in _ROBOTS_DIRECTIVES:
            if robot != "*" and robot not in user_agent.lower():
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
