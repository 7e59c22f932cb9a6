"""Amazon S3 and what speaks its protocol: options of its file system, and what its errors mean for one object.

What does not belong here: which URLs are objects in a bucket, and who may name them (url_schemes.py).
"""

from __future__ import annotations

from typing import Any, BinaryIO, cast

from fsspec.asyn import sync
from fsspec.spec import AbstractFileSystem

from depth_core.errors import ErrorKind
from depth_core.settings import Settings

_PIECE = 1 << 20  # bytes of an object that are read at once
_REPLACED = (412, 416)  # answers to who goes on reading an object that has been replaced; 416: it does not reach so far
_OPTIONS = "DEPTH_SOURCE_OPTIONS"
_BY_STATUS = {
    301: ErrorKind.UNREACHABLE,
    307: ErrorKind.UNREACHABLE,
    401: ErrorKind.FORBIDDEN,
    403: ErrorKind.FORBIDDEN,
    404: ErrorKind.NOT_FOUND,
    408: ErrorKind.TIMEOUT,
    410: ErrorKind.NOT_FOUND,
    429: ErrorKind.RATE_LIMITED,
    503: ErrorKind.RATE_LIMITED,
}
# Errors of what the operator gave, not of the object: a later run may succeed. For other codes the status says the kind.
_BY_CODE = {
    "ExpiredToken": ErrorKind.UNREACHABLE,
    "ExpiredTokenException": ErrorKind.UNREACHABLE,
    "TokenRefreshRequired": ErrorKind.UNREACHABLE,
    "RequestTimeTooSkewed": ErrorKind.UNREACHABLE,
    "AuthorizationHeaderMalformed": ErrorKind.UNREACHABLE,
    "IllegalLocationConstraintException": ErrorKind.UNREACHABLE,
    "400": ErrorKind.UNREACHABLE,  # to HEAD, which has no body: an old token or another region
    "RequestTimeout": ErrorKind.TIMEOUT,
    "SlowDown": ErrorKind.RATE_LIMITED,
}
_REGION = f"it is in another region: set the region or the endpoint in {_OPTIONS}"
_KEYS = f"check the keys in {_OPTIONS}"
_CURES = {
    "301": _REGION,
    "307": _REGION,
    "PermanentRedirect": _REGION,
    "TemporaryRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "400": f"perhaps the token has expired or the region is wrong; {_KEYS}",
    "401": _KEYS,
    "403": f"these keys may not read it; {_KEYS}",
    "AccessDenied": f"these keys may not read it; {_KEYS}",
    "InvalidAccessKeyId": _KEYS,
    "SignatureDoesNotMatch": _KEYS,
    "ExpiredToken": f"put a new token into {_OPTIONS}",
    "ExpiredTokenException": f"put a new token into {_OPTIONS}",
    "TokenRefreshRequired": f"put a new token into {_OPTIONS}",
    "RequestTimeTooSkewed": "set this machine's clock",
    "InvalidObjectState": "it is archived: restore it first",
    "503": "too many requests: lower DEPTH_DOWNLOAD_CONCURRENCY if this goes on",
    "SlowDown": "too many requests: lower DEPTH_DOWNLOAD_CONCURRENCY if this goes on",
    "ServiceUnavailable": "too many requests: lower DEPTH_DOWNLOAD_CONCURRENCY if this goes on",
}


def source_options(settings: Settings) -> dict[str, Any]:
    """DEPTH_SOURCE_OPTIONS with the settings' timeouts, for the file system that manifests and images are read with."""
    options = dict(settings.source_options)
    options["config_kwargs"] = {
        "connect_timeout": settings.connect_timeout,
        "read_timeout": settings.read_timeout,
        "max_pool_connections": settings.download_concurrency,
    } | options.get("config_kwargs", {})
    return options


def quick(options: dict[str, Any]) -> dict[str, Any]:
    """The same options with short timeouts and no retries, unless they say otherwise themselves."""
    short = {"connect_timeout": 2, "read_timeout": 5, "retries": {"max_attempts": 0}}
    return options | {"config_kwargs": short | dict(options.get("config_kwargs") or {})}


def write_arguments(content_type: str) -> dict[str, Any]:
    """Arguments of a write that give the object a content type."""
    return {"ContentType": content_type}


def explain(error: Exception) -> tuple[ErrorKind, str] | None:
    """Kind and reason of an error of one object; None when nothing here is known of it."""
    name, text = type(error).__name__, " ".join(str(error).split()) or type(error).__name__
    if (response := _response(error)) is not None:
        details, status = response.get("Error", {}), response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0
        code = str(details.get("Code", ""))
        said = " ".join(f"{code}: {details.get('Message') or ''}".split()).rstrip(":.")
        other = ErrorKind.SERVER_ERROR if status >= 500 else ErrorKind.REFUSED
        cure = _CURES.get(code, "")
        return _BY_CODE.get(code) or _BY_STATUS.get(status, other), f"the bucket answers {said}{'; ' if cure else ''}{cure}"
    if name == "ParamValidationError":
        return ErrorKind.BAD_URL, text.replace("Parameter validation failed: ", "").partition(": Bucket name must")[0]
    if name.endswith(("CredentialsError", "CredentialRetrievalError", "TokenRetrievalError")):
        return ErrorKind.UNREACHABLE, f"{text}; set the keys in {_OPTIONS}, or where AWS's own tools look for them"
    if name.endswith(("ProfileNotFound", "NoRegionError")):
        return ErrorKind.UNREACHABLE, f"{text}; check {_OPTIONS}"
    return None


def says_slow_down(error: BaseException) -> bool:
    """Whether the bucket asks for fewer requests."""
    response = _response(error)
    if response is None:
        return False
    code = response.get("Error", {}).get("Code")
    return _status(error) == 503 or code in ("SlowDown", "ServiceUnavailable", "503")


def _status(error: BaseException) -> int | None:
    """The HTTP status of what the bucket answered."""
    response = _response(error) or {}
    return cast("int | None", response.get("ResponseMetadata", {}).get("HTTPStatusCode"))


def _response(error: BaseException | None) -> dict[str, Any] | None:
    """What the bucket answered, as botocore keeps it: s3fs wraps it, with another message."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return response
        error = error.__cause__ or error.__context__
    return None


def read(files: AbstractFileSystem, path: str) -> bytes:
    """All of an object, by one request: with more at once, s3fs first asks for the size. Raises as the file system."""
    return cast(bytes, files.cat_file(path, max_concurrency=1))


def copy(files: AbstractFileSystem, path: str, target: BinaryIO) -> None:
    """Writes all of an object into a file, as it was at one moment.

    `get_file` of s3fs asks for parts, each of whichever object is there by then. Here one request gets all; where the connection
    breaks, the next one goes on, or begins anew when the object has been replaced. Raises as the file system.
    """
    from s3fs.core import S3_RETRYABLE_ERRORS

    bucket, key, _ = files.split_path(path)
    etag, breaks = "", 0
    while True:
        written = target.tell()
        rest = {"IfMatch": etag, "Range": f"bytes={written}-"} if written else {}
        try:
            answer = files.call_s3("get_object", Bucket=bucket, Key=key, **rest)
            if written and answer.get("ETag") != etag:  # a server that does not know the condition
                answer["Body"].close()
                raise _ReplacedError
            etag = answer.get("ETag", "")
            sync(files.loop, _write, answer["Body"], target)
            return
        except S3_RETRYABLE_ERRORS:
            breaks += 1
            if breaks > files.retries:
                raise
            replaced = not etag
        except Exception as error:
            if not (isinstance(error, _ReplacedError) or (written and _status(error) in _REPLACED)):
                raise
            replaced = True
        if replaced:
            target.seek(0)
            target.truncate()


class _ReplacedError(Exception):
    """An object is not the one whose first part was read."""


async def _write(body: Any, target: BinaryIO) -> None:
    try:
        while piece := await body.read(_PIECE):
            target.write(piece)
    finally:
        body.close()


def size(files: AbstractFileSystem, path: str) -> int | None:
    """Bytes of an object, by one request; None when it is not there: s3fs's own `info` then lists, in case it is a folder.

    Raises as the file system.
    """
    bucket, key, _ = files.split_path(path)
    try:
        return int(files.call_s3("head_object", files.kwargs, Bucket=bucket, Key=key)["ContentLength"])
    except FileNotFoundError:
        return None
