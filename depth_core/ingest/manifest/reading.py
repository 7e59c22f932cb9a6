"""Reading a manifest, wherever it lies: a local file, an object in a bucket, or a file that is fetched over http(s).

What does not belong here: how a format is read (formats.py), and fetching the images that the rows name (sources.py).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tempfile
import zlib
from contextlib import ExitStack
from typing import Any, BinaryIO, cast

from depth_core import url_schemes
from depth_core.display import shown_text, shown_url
from depth_core.errors import ErrorKind, ImageError, ManifestError, is_installation_error
from depth_core.ingest.fetch.download import Downloader, Fetched
from depth_core.ingest.manifest import formats
from depth_core.ingest.manifest.chunks import ManifestRows
from depth_core.ingest.manifest.keys import canonical
from depth_core.ingest.manifest.rows import Limits, too_large
from depth_core.settings import MEBI, Settings

_PIECE = 4 * MEBI


def read(uri: str, settings: Settings) -> ManifestRows:
    """Reads a manifest in any of formats.FORMATS: a local file, an object in a bucket, or what http(s) answers.

    Raises ManifestError when it cannot be read at all, or has more rows or bytes than the settings allow; a row that cannot be
    read is a row with error_kind `bad_row`.
    """
    uri = canonical(uri)
    name, format_ = shown_url(uri), formats.of_name(uri)
    limits = Limits(settings.max_field_chars, settings.max_manifest_rows, settings.max_manifest_bytes)
    with ExitStack() as stack:
        if url_schemes.is_web(uri):
            file, content_type = _download(uri, settings)
            format_ = format_ or formats.of_media_type(content_type)
        else:
            file = _opened(uri, settings)
        stack.enter_context(file)
        if format_ is None:
            raise ManifestError(f"{name}: unknown manifest format; known endings: {formats.known_endings()}")
        try:
            digest = hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()
            file.seek(0)
            plain = _unpacked(file, uri, settings) if format_.may_be_gzipped else file
            rows = formats.read(format_, plain, name, limits)
        except OSError as error:
            raise _unreadable(name, error) from error
    return ManifestRows(uri, digest, rows)


def _opened(uri: str, settings: Settings) -> BinaryIO:
    """A local file, or a copy of an object, open at its start."""
    name = shown_url(uri)
    try:
        if scheme := url_schemes.bucket_of(uri):
            with scheme.clear_errors(uri), scheme.filesystem(settings).open(uri, "rb") as source:
                return _copied(source)
        if not url_schemes.is_local(uri):
            raise ManifestError(f"{name}: a manifest is a local file, or a URL that begins with {url_schemes.remote()}")
        return open(uri, "rb")
    except ImageError as error:
        if error.kind is ErrorKind.NOT_FOUND:
            raise ManifestError(f"{name} does not exist") from None
        raise ManifestError(error.message) from error
    except FileNotFoundError:
        raise ManifestError(f"{name} does not exist") from None
    except IsADirectoryError:
        raise ManifestError(f"{name} is a folder, not a manifest") from None
    except PermissionError:
        raise ManifestError(f"{name}: permission denied") from None
    except Exception as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> Exception:
    return error if is_installation_error(error) else ManifestError(f"{name} cannot be read: {shown_text(str(error))}")


def _copied(source: Any) -> BinaryIO:
    """A temporary file with the same bytes: a manifest from elsewhere is not held in memory."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        shutil.copyfileobj(source, copy, _PIECE)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return cast(BinaryIO, copy)


def _download(uri: str, settings: Settings) -> tuple[BinaryIO, str]:
    def keep(fetched: Fetched) -> tuple[BinaryIO, str]:
        fetched.body.seek(0)
        return _copied(fetched.body), fetched.content_type

    limits = settings.model_copy(update={"max_source_bytes": settings.max_manifest_bytes})
    downloader = Downloader(limits, allow_private=settings.manifests_may_be_private, only_web=True)
    ((_, result),) = downloader.map([uri], keep)
    if not isinstance(result, ImageError):
        return result
    if result.kind is ErrorKind.TOO_MANY_BYTES:
        raise too_large(shown_url(uri), settings.max_manifest_bytes)
    raise ManifestError(f"{shown_url(uri)} cannot be fetched: {shown_text(str(result))}")


def _unpacked(file: BinaryIO, uri: str, settings: Settings) -> BinaryIO:
    """The file itself, or its decompressed bytes if it is gzip; reading those beyond the byte limit raises ManifestError."""
    start = file.read(2)
    file.seek(0)
    if start == b"\x1f\x8b":
        return cast(BinaryIO, io.BufferedReader(_Gunzipped(file, shown_url(uri), settings.max_manifest_bytes), MEBI))
    # A server may have sent gzip as the encoding: then it is decompressed already.
    if start and uri.lower().endswith(".gz") and not url_schemes.is_web(uri):
        raise ManifestError(f"{shown_url(uri)} is not gzip, though its name ends in .gz")
    return file


class _Gunzipped(io.RawIOBase):
    def __init__(self, file: BinaryIO, name: str, limit: int) -> None:
        self._packed = gzip.GzipFile(fileobj=file)
        self._name = name
        self._limit = limit
        self._size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            piece = self._packed.read(min(len(buffer), self._limit + 1 - self._size))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ManifestError(f"{self._name}: damaged gzip: {error}") from None
        self._size += len(piece)
        if self._size > self._limit:
            raise too_large(self._name, self._limit)
        buffer[: len(piece)] = piece
        return len(piece)
