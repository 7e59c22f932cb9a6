"""Buckets that manifests and images are read from: the file system, and what its errors mean for one object.

What does not belong here: the store's own bucket (storage.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

from depth_core.display import shown_text, shown_url
from depth_core.errors import ErrorKind, ImageError, is_fault_of_installation
from depth_core.settings import Settings

_OPTIONS = "DEPTH_SOURCE_OPTIONS"
_KINDS = {
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
# Faults of what the operator gave, not of the object: a later run may do better. Else the status says the kind.
_PASSING = {
    "ExpiredToken": ErrorKind.UNREACHABLE,
    "ExpiredTokenException": ErrorKind.UNREACHABLE,
    "TokenRefreshRequired": ErrorKind.UNREACHABLE,
    "RequestTimeTooSkewed": ErrorKind.UNREACHABLE,
    "AuthorizationHeaderMalformed": ErrorKind.UNREACHABLE,
    "IllegalLocationConstraintException": ErrorKind.UNREACHABLE,
    "400": ErrorKind.UNREACHABLE,  # to HEAD, which says no more: old tokens, other regions
    "RequestTimeout": ErrorKind.TIMEOUT,
    "SlowDown": ErrorKind.RATE_LIMITED,
}
_REGION = f"it is in another region: name that, or its endpoint, in {_OPTIONS}"
_KEYS = f"look at the keys in {_OPTIONS}"
_CURES = {
    "301": _REGION,
    "307": _REGION,
    "PermanentRedirect": _REGION,
    "TemporaryRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "400": f"an old token or another region, perhaps; {_KEYS}",
    "401": _KEYS,
    "403": f"may these keys read it? {_KEYS}",
    "AccessDenied": f"may these keys read it? {_KEYS}",
    "InvalidAccessKeyId": _KEYS,
    "SignatureDoesNotMatch": _KEYS,
    "ExpiredToken": f"a new token belongs into {_OPTIONS}",
    "ExpiredTokenException": f"a new token belongs into {_OPTIONS}",
    "TokenRefreshRequired": f"a new token belongs into {_OPTIONS}",
    "RequestTimeTooSkewed": "set this machine's clock",
    "InvalidObjectState": "it is archived: restore it first",
    "503": "it is asked too often: lower DEPTH_DOWNLOAD_CONCURRENCY if that goes on",
    "SlowDown": "it is asked too often: lower DEPTH_DOWNLOAD_CONCURRENCY if that goes on",
    "ServiceUnavailable": "it is asked too often: lower DEPTH_DOWNLOAD_CONCURRENCY if that goes on",
}


def bucket(settings: Settings) -> AbstractFileSystem:
    """The s3 file system that manifests and images are read from, with the settings' deadlines."""
    options = dict(settings.source_options)
    options["config_kwargs"] = {
        "connect_timeout": settings.connect_timeout,
        "read_timeout": settings.read_timeout,
        "max_pool_connections": settings.download_concurrency,
    } | options.get("config_kwargs", {})
    return fsspec.filesystem("s3", **options, use_listings_cache=False)


@contextmanager
def clear_errors(url: str) -> Iterator[None]:
    """Turns whatever is raised for an object into ImageError; not faults of the installation."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # botocore's, aiohttp's and s3fs' errors have no common base
        if is_fault_of_installation(error):
            raise
        kind, reason = _meaning(error)
        raise ImageError(kind, f"cannot read {shown_url(url)}: {shown_text(reason)[:300]}") from error


def _meaning(error: Exception) -> tuple[ErrorKind, str]:
    name, text = type(error).__name__, " ".join(str(error).split()) or type(error).__name__
    if (answer := _answer(error)) is not None:
        code, status = str(answer.get("Error", {}).get("Code", "")), answer.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0
        said = " ".join(f"{code}: {answer.get('Error', {}).get('Message') or ''}".split()).rstrip(":.")
        other = ErrorKind.SERVER_ERROR if status >= 500 else ErrorKind.REFUSED
        cure = _CURES.get(code, "")
        return _PASSING.get(code) or _KINDS.get(status, other), f"the bucket answers {said}{'; ' if cure else ''}{cure}"
    if name == "ParamValidationError":
        return ErrorKind.BAD_URL, text.replace("Parameter validation failed: ", "").partition(": Bucket name must")[0]
    if isinstance(error, TimeoutError) or name.endswith("TimeoutError"):
        return ErrorKind.TIMEOUT, text
    if isinstance(error, FileNotFoundError | IsADirectoryError):
        return ErrorKind.NOT_FOUND, "no such object"
    if isinstance(error, PermissionError):
        return ErrorKind.FORBIDDEN, f"{text}; {_KEYS}"
    if name.endswith(("CredentialsError", "CredentialRetrievalError", "TokenRetrievalError")):
        return ErrorKind.UNREACHABLE, f"{text}; keys belong into {_OPTIONS}, or into AWS's own places"
    if isinstance(error, TypeError | ValueError) or name.endswith(("ProfileNotFound", "NoRegionError")):
        return ErrorKind.UNREACHABLE, f"{text}; look at {_OPTIONS}"
    return ErrorKind.UNREACHABLE, text


def _answer(error: BaseException | None) -> dict[str, Any] | None:
    """What the bucket said, as botocore keeps it: s3fs wraps it, with other words."""
    while error is not None:
        answer = getattr(error, "response", None)
        if isinstance(answer, dict):
            return answer
        error = error.__cause__ or error.__context__
    return None
