"""The closed set of ways a row, a request or a run can fail.

What belongs here: error kinds and the exceptions that carry them. What does not: anything that decides when to retry (the
engine and the downloader ask `ErrorKind.retryable`).
"""

from __future__ import annotations

import errno
import logging
import pickle
import traceback
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import PurePath

from depth_core.display import shown_text, shown_url

log = logging.getLogger(__name__)


class ErrorKind(StrEnum):
    """Why one image has no depth map. The value is what records, the API and the logs show."""

    # rows of a manifest
    BAD_ROW = "bad_row"  # cannot be decoded or parsed, or a field is too long
    MISSING_URL = "missing_url"  # the row has no image URL
    BAD_URL = "bad_url"  # unknown scheme, or not a URL at all
    # fetching
    NOT_FOUND = "not_found"  # 404, 410, no such file or object
    FORBIDDEN = "forbidden"  # 401, 403, no permission
    BLOCKED_ADDRESS = "blocked_address"  # the host resolves to an address that may not be called
    REFUSED = "refused"  # any other 4xx; no valid HTTP; a coding that was not asked for
    UNREACHABLE = "unreachable"  # no such host, connection refused or reset
    TIMEOUT = "timeout"  # a connect, read or total deadline passed
    RATE_LIMITED = "rate_limited"  # 429 after all attempts
    SERVER_ERROR = "server_error"  # 5xx, or a part of the file instead of the whole, after all attempts
    TOO_MANY_REDIRECTS = "too_many_redirects"
    TOO_MANY_BYTES = "too_many_bytes"  # larger than the byte limit
    # decoding
    EMPTY_FILE = "empty_file"  # no byte at all; 204
    NOT_AN_IMAGE = "not_an_image"  # HTML, text, PDF or anything else that no image decoder knows
    EXTENSION_MISMATCH = "extension_mismatch"  # the name says another format than the bytes (strict_extension only)
    TRUNCATED_IMAGE = "truncated_image"  # an image whose data ends early or is damaged
    TOO_SMALL = "too_small"  # a side below the minimum, 1x1 tracking pixels for example
    TOO_MANY_PIXELS = "too_many_pixels"  # a decompression bomb, or larger than the limit of pixels or of memory
    # the network
    MODEL_UNAVAILABLE = "model_unavailable"  # single requests only: no weights here, or the licence forbids it
    NETWORK_TOO_LARGE = "network_too_large"  # a thin panorama would need more network pixels than allowed
    OUT_OF_MEMORY = "out_of_memory"  # even alone the image did not fit the device, or what its decoder was given
    INVALID_OUTPUT = "invalid_output"  # the network answered with NaN or infinity only
    # requests
    WORKER_LOST = "worker_lost"  # the process that had it died, more often than allowed; its decoder crashed or took too long
    # anything unforeseen; the message has the exception
    INTERNAL = "internal"

    @property
    def retryable(self) -> bool:
        """True when the same work may succeed later without anybody changing the input."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {
        ErrorKind.UNREACHABLE,
        ErrorKind.TIMEOUT,
        ErrorKind.RATE_LIMITED,
        ErrorKind.SERVER_ERROR,
        ErrorKind.OUT_OF_MEMORY,
        ErrorKind.INTERNAL,
    }
)


class DepthlineError(Exception):
    """Base of every error that Depthline raises on purpose. The message says what is wrong and names the cure."""


class ImageError(DepthlineError):
    """One image cannot be done; its neighbours can. Becomes a failed record.

    `attempts` counts how often the work was tried before giving up (1 when it was not worth a retry).
    """

    def __init__(self, kind: ErrorKind, message: str, *, attempts: int = 1) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.attempts = attempts

    def __reduce__(self) -> tuple[Callable[..., ImageError], tuple[ErrorKind, str]]:
        return partial(ImageError, attempts=self.attempts), (self.kind, self.message)

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.message}"


class ConfigurationError(DepthlineError):
    """A setting, profile or file of the operator is wrong. Fails the run, not an image."""


class ManifestError(DepthlineError):
    """A manifest cannot be read at all. Fails its own run and touches nothing else."""


class ModelUnavailableError(DepthlineError):
    """The model asked for cannot be used here: no weights, no licence, not supported. Never answered with another model."""


class ModelAbsentError(ModelUnavailableError):
    """Not a mistake: the weights were not fetched yet, are not published, or their licence is refused here."""


class StoreError(DepthlineError):
    """The store cannot be read or written: permissions, disk full, no network. Fails the run; what is written stays valid."""


_MACHINE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS, errno.EFBIG})


def is_installation_error(error: BaseException) -> bool:
    """Whether an exception says that nothing can be done here any more: store, memory, disk, configuration. It ends the run."""
    if isinstance(error, DepthlineError):
        return not isinstance(error, ImageError)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _MACHINE_ERRNOS)


def row_failure(error: Exception) -> ImageError:
    """The failure of a row for whatever was raised while it was processed: INTERNAL, with the exception and its place.

    An ImageError comes back as it is. Raises the error again when it is one of the installation. Called where the work of one
    row ends, so that what a stranger's URL, server or file makes a library raise costs no other row anything.
    """
    if is_installation_error(error):
        raise error
    if isinstance(error, ImageError):
        return error
    text = shown_text(_text(error))[:300]
    return ImageError(ErrorKind.INTERNAL, f"{type(error).__name__}{': ' if text else ''}{text} (at {_place(error)})")


def url_failure(url: str, error: Exception) -> ImageError:
    """As `row_failure`, for whatever was raised while one URL was at work; logged with the URL when it was unforeseen."""
    failure = row_failure(error)
    if failure is not error:
        log.warning("%s: %s", shown_url(url), failure)
    return failure


def _text(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a library's __str__ may fail as anything of it may
        return ""


def _place(error: Exception) -> str:
    """File, line and function of the last step in this package that led to an exception; else of the last step of all."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "depth_core" in PurePath(frame.filename).parts] or frames
    if not ours:
        return "an unknown place"
    last = ours[-1]
    parts = PurePath(last.filename).parts
    short = "/".join(parts[len(parts) - 1 - parts[::-1].index("depth_core") :]) if "depth_core" in parts else parts[-1]
    return f"{short}:{last.lineno} in {last.name}"


def sendable(error: BaseException) -> BaseException:
    """An exception that another process can have: itself where it can be pickled, without what it refers to."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - anything may be in a library's exception
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
