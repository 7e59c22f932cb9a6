"""Local files: their bytes, what names one state of a file, and what the system's errors mean.

What does not belong here: which local files a manifest may name (manifest/validation.py).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from depth_core import url_schemes
from depth_core.display import shown_text, shown_url
from depth_core.errors import ErrorKind, ImageError, is_installation_error
from depth_core.ingest.fetch.body import PIECE, Body

_NO_SUCH_FILE = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO)


def read(url: str, limit: int) -> tuple[Body, dict[str, Any]]:
    """The bytes of a file: URL or path, and the fields of Fetched that are known of it. Raises ImageError and StoreError."""
    try:
        path = url_schemes.local_path(url)
    except ValueError as error:
        raise ImageError(ErrorKind.BAD_URL, f"not a file URL: {shown_text(str(error))[:300]}") from None
    body = Body(limit)
    with _clear_errors(path), open(path, "rb", buffering=0, opener=_open_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(ErrorKind.NOT_FOUND, f"{shown_url(path)} is a folder or device, not a file")
        body.check_size(status.st_size)
        while piece := file.read(PIECE):
            body.write(piece)
    return body, {"etag": etag(status), "final_url": path}


def etag(status: os.stat_result) -> str:
    """Names one state of a local file: its size and time of change."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a named pipe without waiting for a writer, so that it is recognized and refused."""
    return os.open(path, flags | os.O_NONBLOCK)


@contextmanager
def _clear_errors(path: str) -> Iterator[None]:
    """Turns what the system says of a path into ImageError."""
    try:
        yield
    except (OSError, ValueError) as error:
        if is_installation_error(error):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ImageError(_kind(error), f"cannot read {shown_url(path)}: {shown_text(reason)}") from error


def _kind(error: Exception) -> ErrorKind:
    if isinstance(error, PermissionError):
        return ErrorKind.FORBIDDEN
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError)):  # ValueError: NUL in a path
        return ErrorKind.NOT_FOUND
    if isinstance(error, OSError) and error.errno in _NO_SUCH_FILE:
        return ErrorKind.NOT_FOUND
    return ErrorKind.TIMEOUT if isinstance(error, TimeoutError) else ErrorKind.UNREACHABLE
