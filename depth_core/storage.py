"""The store: one place for everything that is made, a local folder by default, s3://bucket/prefix in production.

Keys are relative, with forward slashes. Every write is atomic: a key holds the old bytes or the new ones, never a part. What
does not belong here: what the keys mean (output/, ingest/), and fetching images of other people (ingest/fetch/download.py).
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from depth_core import settings as settings_module
from depth_core import url_schemes
from depth_core.errors import StoreError
from depth_core.settings import Settings

PART_SUFFIX = ".part"
PARTS = ".parts"  # the folder of a local store in which files are written before they get their name
DAY = 86_400.0  # seconds
_PIECE = 4 << 20  # bytes that are copied at once

# Why a part cannot be in PARTS though the key itself might be writable: another file system, no permission, something in the way.
_NOT_THERE = frozenset({errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_TMPDIR = "set TMPDIR to a folder with room"
_swept: dict[str, float] = {}  # root -> time.monotonic() of the last sweep by this process


class Store:
    """A folder or bucket prefix. Safe to use from several threads and processes at once."""

    def __init__(self, url: str | Path, options: Mapping[str, Any] | None = None) -> None:
        try:
            self.fs, root = fsspec.core.url_to_fs(str(url), **dict(options or {}))
        except (ValueError, ImportError) as error:
            raise StoreError(f"store {url}: {error}") from None
        self._opened = (str(url), dict(options or {}))
        self.root: str = root.rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)
        self._scheme = url_schemes.bucket_of(str(url))
        self._bucket = self._scheme or url_schemes.BucketScheme("")  # how a store is read that is no folder
        self._apart: set[str] = set()  # first folders of keys whose parts cannot be in PARTS

    @classmethod
    def from_settings(cls, settings: Settings | None = None) -> Self:
        """This installation's store: DEPTH_STORE_URL with DEPTH_STORE_OPTIONS; `settings`: instead of the environment's.

        Raises StoreError, and ConfigurationError when a setting is wrong.
        """
        now = settings or settings_module.load()
        return cls(now.store_location, now.store_options)

    def __repr__(self) -> str:
        return f"Store({self.url('')!r})"

    def __reduce__(self) -> tuple[type[Self], tuple[str, dict[str, Any]]]:
        """In another process the store is opened anew, with the same options."""
        return type(self), (self.root if self.local else self._opened[0], self._opened[1])

    # -- names ----------------------------------------------------------------------------------------------------------

    def path(self, key: str) -> str:
        """The key's path as the file system knows it."""
        return f"{self.root}/{key}" if key else self.root

    def url(self, key: str) -> str:
        """The key's URL: a plain path for a local store, s3://... otherwise."""
        path = self.path(key)
        return path if self.local else str(self.fs.unstrip_protocol(path))

    def link(self, key: str, seconds: int) -> str | None:
        """An https URL by which any browser opens a key for so long (presigned); None where the file system has no such links.

        Raises StoreError.
        """
        if self.local:
            return None
        with self.clear_errors("sign a link to", key):
            try:
                return str(self.fs.sign(self.path(key), expiration=seconds))
            except NotImplementedError:
                return None

    # -- reading --------------------------------------------------------------------------------------------------------

    def read(self, key: str) -> bytes:
        """All bytes of a key. Raises FileNotFoundError when it is not there, StoreError when the store cannot be read."""
        with self.clear_errors("read", key):
            if self.local:
                return Path(self.path(key)).read_bytes()
            return self._bucket.read(self.fs, self.path(key))

    def read_or_none(self, key: str) -> bytes | None:
        try:
            return self.read(key)
        except FileNotFoundError:
            return None

    def open(self, key: str) -> BinaryIO:
        """A seekable stream over a key, for Parquet and for range requests."""
        with self.clear_errors("read", key):
            return cast(BinaryIO, self.fs.open(self.path(key), "rb"))

    def copy_or_none(self, key: str) -> BinaryIO | None:
        """A key's bytes as an open file, for what may be too large for memory: of a local store the file itself, else a temporary
        copy. None when it is not there. Raises StoreError."""
        if self.local:
            with suppress(FileNotFoundError), self.clear_errors("read", key):
                return open(self.path(key), "rb")
            return None
        with _temporary_file() as copy:  # that there is no folder for it does not mean that the key is not there
            with suppress(FileNotFoundError), self.clear_errors("read", key):
                self._bucket.copy(self.fs, self.path(key), copy)
                copy.flush()
                return open(copy.name, "rb")  # its name goes, the file stays until it is closed
            return None

    def size(self, key: str) -> int | None:
        """Bytes of a key, None when it is not there."""
        try:
            with self.clear_errors("read", key):
                if self.local:
                    status = os.stat(self.path(key))
                    return status.st_size if stat.S_ISREG(status.st_mode) else None
                return self._bucket.size(self.fs, self.path(key))
        except FileNotFoundError:
            return None

    def exists(self, key: str) -> bool:
        return self.size(key) is not None

    def keys(self, prefix: str) -> Iterator[str]:
        """All keys below a folder, sorted; none when the folder is not there. Files half-written are not keys."""
        with self.clear_errors("list", prefix):
            self.fs.invalidate_cache()
            try:
                paths = sorted(self.fs.find(self.path(prefix)))
            except FileNotFoundError:
                paths = []
        for path in paths:
            if not path.endswith(PART_SUFFIX):
                yield path[len(self.root) + 1 :]

    def entries(self, prefix: str) -> list[dict[str, Any]]:
        """What lies directly in a folder, as the file system tells it (name, type, size, times); [] when it is not there."""
        with self.clear_errors("list", prefix):
            self.fs.invalidate_cache()
            try:
                return cast(list[dict[str, Any]], self.fs.ls(self.path(prefix), detail=True))
            except FileNotFoundError:
                return []

    # -- writing --------------------------------------------------------------------------------------------------------

    def write(self, key: str, data: bytes | memoryview, *, content_type: str | None = None) -> None:
        """Puts the whole key at once. Raises StoreError (permissions, disk full, no network); the old bytes then stay."""
        with self.clear_errors("write", key):
            self._put(key, data, content_type)

    def write_file(self, key: str, file: BinaryIO, *, content_type: str | None = None) -> None:
        """As `write`, with all bytes of an open file; they need not fit in memory."""
        if self.local:
            with self.clear_errors("write", key):
                self._put(key, file)
            return
        with _temporary_file() as named, self.clear_errors("write", key):
            file.seek(0)
            shutil.copyfileobj(file, named, _PIECE)
            named.flush()
            self.fs.put_file(named.name, self.path(key), **self._write_arguments(content_type))

    def _write_arguments(self, content_type: str | None) -> dict[str, Any]:
        return dict(self._scheme.write_arguments(content_type)) if content_type and self._scheme else {}

    def _put(self, key: str, data: bytes | memoryview | BinaryIO, content_type: str | None = None) -> None:
        """`data`: a file only for a local store."""
        if not self.local:
            self.fs.pipe_file(self.path(key), bytes(cast(bytes, data)), **self._write_arguments(content_type))
            return
        if time.monotonic() - _swept.get(self.root, -DAY) >= DAY:
            self.sweep()
        target = self.path(key)
        first = target[len(self.root) + 1 :].partition("/")[0]
        if first not in self._apart:
            try:
                self._put_by(f"{self.root}/{PARTS}", target, data)
                return
            except OSError as error:
                if error.errno not in _NOT_THERE:
                    raise
        self._put_by(os.path.dirname(target), target, data)
        self._apart.add(first)

    @staticmethod
    def _put_by(folder: str, target: str, data: bytes | memoryview | BinaryIO) -> None:
        """Writes a part in `folder`, then gives it its name. The part's own name is short, whatever the target's is."""
        part = f"{folder}/.{uuid.uuid4().hex[:12]}{PART_SUFFIX}"
        written = False
        try:
            for last in (False, False, True):
                try:
                    if not written:
                        _write_file(data, part)
                    os.replace(part, target)
                    return
                except FileNotFoundError:  # rarer than asking for the folders before every write
                    if last:
                        raise
                    written = os.path.exists(part)
                    with suppress(FileNotFoundError):  # and again: another process may remove them while they are empty
                        os.makedirs(folder, exist_ok=True)
                        os.makedirs(os.path.dirname(target), exist_ok=True)
        except BaseException:
            with suppress(OSError):
                os.unlink(part)
            raise

    def sweep(self, older_than: float = DAY) -> int:
        """Removes what killed writes left of files, `older_than` seconds ago and longer; returns how many there were.

        Each process does so before its first write, and once a day after that. Cheap, however large the store: parts lie in one
        folder. Does nothing in a bucket, which keeps no part of a file. Never raises.
        """
        _swept[self.root] = time.monotonic()
        if not self.local:
            return 0
        removed, before = 0, time.time() - older_than
        with suppress(OSError), os.scandir(f"{self.root}/{PARTS}") as entries:
            for entry in entries:
                with suppress(OSError):  # another process sweeps as well, or the write has ended
                    if entry.name.endswith(PART_SUFFIX) and entry.stat(follow_symlinks=False).st_mtime < before:
                        os.unlink(entry.path)
                        removed += 1
        return removed

    def tidy(self) -> None:
        """Removes the folder of parts where it is empty: for folders of people, in which nothing of ours should be left."""
        if self.local:
            with suppress(OSError):
                os.rmdir(f"{self.root}/{PARTS}")

    def delete(self, key: str) -> None:
        """Removes a key; not an error when it is not there."""
        with self.clear_errors("delete", key), suppress(FileNotFoundError):
            self.fs.rm_file(self.path(key))

    def delete_folder(self, prefix: str, *, first: str) -> None:
        """Removes all keys below a folder, the key `first` before the others, and a local folder's empty directories."""
        if self.exists(first):
            self.delete(first)
        for key in self.keys(prefix):
            self.delete(key)
        if self.local:
            with suppress(OSError):  # somebody writes there
                os.rmdir(self.path(prefix))
                os.rmdir(os.path.dirname(self.path(prefix)))

    def check_writable(self) -> None:
        """Writes and removes a small key, and the folders made for it. Raises StoreError with the reason when that fails."""
        key = f".writable-{uuid.uuid4().hex[:8]}"
        folders = [f"{self.root}/{PARTS}", *_with_parents(self.root)] if self.local else []
        missing = [folder for folder in folders if not os.path.lexists(folder)]
        with self.clear_errors("write", ""):
            try:
                self._put(key, b"")
                self.delete(key)
            finally:
                with suppress(OSError):  # somebody else's by now
                    for folder in missing:
                        os.rmdir(folder)

    # -- errors ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def clear_errors(self, verb: str, key: str) -> Iterator[None]:
        """Turns a file system's own errors into StoreError; FileNotFoundError passes through, except from a write.

        For a block that reads, lists or writes through `fs` itself; `verb` says which, for the message.
        """
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # botocore, aiohttp and OSError have no common base
            reason = _reason(error, slow_down=bool(self._scheme and self._scheme.says_slow_down(error)))
            if not self.local and isinstance(error, OSError) and error.errno in _FULL:
                reason = f"no space left in {tempfile.gettempdir()}, where large files are copied; {_TMPDIR}"
            if isinstance(error, FileNotFoundError | NotADirectoryError | FileExistsError):
                if verb == "write":
                    reason = _in_the_way(self.path(key)) if self.local else "there is no such bucket; make it, or correct the URL"
                elif isinstance(error, FileNotFoundError):
                    raise
            raise StoreError(f"cannot {verb} {self.url(key)}: {reason}") from error


@contextmanager
def _temporary_file() -> Iterator[Any]:
    """An open file with a name, which goes with the block. Raises StoreError when it cannot be made."""
    try:
        file = tempfile.NamedTemporaryFile(prefix="depthline-")  # noqa: SIM115
    except OSError as error:
        raise StoreError(f"cannot make a temporary file: {error.strerror or error}; {_TMPDIR}") from error
    with file:
        yield file


def _write_file(data: bytes | memoryview | BinaryIO, path: str) -> None:
    if isinstance(data, bytes | memoryview):
        Path(path).write_bytes(data)
        return
    data.seek(0)
    with open(path, "wb") as file:
        shutil.copyfileobj(data, file, _PIECE)


def _with_parents(path: str) -> list[str]:
    return [path, *map(str, Path(path).parents)]


def _in_the_way(path: str) -> str:
    """Returns what blocks the path's folder, for a message: the error itself names a temporary file."""
    there = next(place for place in _with_parents(path) if os.path.lexists(place))
    if not os.path.exists(there):
        return f"{there} is a link that leads nowhere"
    return f"{there} does not accept new folders" if os.path.isdir(there) else f"{there} is a file, not a folder"


def _reason(error: Exception, *, slow_down: bool) -> str:
    if isinstance(error, PermissionError):
        return "permission denied; check the owner of the folder or the credentials of the bucket (DEPTH_STORE_OPTIONS)"
    if isinstance(error, OSError) and error.errno in _FULL:
        return "no space left; free some or point DEPTH_STORE_URL elsewhere. What is written stays valid"
    if slow_down:
        return (
            "the bucket answers 503 (SlowDown): it gets too many requests. Run again in a while; what is written stays valid. If "
            "it comes again: fewer runs at once (max_concurrent_runs in dagster.yaml), or lower DEPTH_ENCODE_THREADS and "
            "DEPTH_DOWNLOAD_CONCURRENCY"
        )
    return f"{type(error).__name__}: {error}"
