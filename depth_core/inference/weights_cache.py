"""Makes what a path or fsspec URL names a path on this machine: copies in the cache, fetched again when they change.

What does not belong here: which path or URL a model has (checkpoints.py), what is in the files (weights.py). No torch.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import fsspec
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from depth_core import url_schemes
from depth_core.display import shown_text, shown_url
from depth_core.errors import ModelAbsentError, ModelUnavailableError
from depth_core.inference import weights
from depth_core.settings import Settings

log = logging.getLogger(__name__)

# The first of these that a store reports identifies a file's content. Do not use everything it reports: for HTTP that includes
# the URL of a redirect, which is signed anew each time.
_MARKS = (
    *("ETag", "etag", "md5", "Content-MD5", "blob_id", "generation", "VersionId", "version_id"),
    *("LastModified", "last_modified", "Last-Modified", "mtime", "modify", "modified", "created"),
)


def local(
    url: str, settings: Settings, model: str, *, download: bool, refresh: bool, outage: Exception | None = None
) -> Path | None:
    """Returns the path of a local file or folder; for a URL, of its copy in the cache, which a change at the URL makes stale.

    None when nothing is there. While a store does not answer, the copy that was used last is used, with a warning: an outage
    should fail no artwork. A download of a changed file that stops midway is an error, though. Raises ModelUnavailableError.
    """
    fs, path = _file_system(url, settings)
    if isinstance(fs, LocalFileSystem):
        try:
            Path(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ModelUnavailableError(f"{model}: cannot access {path}: {error.strerror or error}") from None
        return Path(path)
    copies = _Copies(settings.checkpoint_cache.expanduser() / "weights", hashlib.sha256(url.encode()).hexdigest()[:32])
    try:
        if outage is not None:
            raise outage
        fs.invalidate_cache()
        info = _info(fs, path)
        if info is None:
            return None
        is_folder = info["type"] == "directory"
        files = _remote_files(fs, path, url) if is_folder else {path: info} | _remote_shards(fs, path)
    except ModelUnavailableError:
        raise
    except Exception as error:  # noqa: BLE001 (botocore, aiohttp and OSError have no common base)
        known = None if refresh or not _is_outage(error) else copies.latest()
        if known is None:
            raise ModelUnavailableError(
                f"{model}: cannot access {shown(url)} ({reason(error)}): check the URL and DEPTH_SOURCE_OPTIONS"
            ) from None  # the error itself may hold the URL's password, and logs print causes
        log.warning(
            "%s: %s does not answer (%s): using its weights as they were when it last did", model, shown(url), reason(error)
        )
        return known
    state = repr(sorted((name, info.get("size"), _mark(name, info)) for name, info in files.items()))
    target = copies.folder / f"{copies.key}-{hashlib.sha256(state.encode()).hexdigest()[:32]}"
    copy = target if is_folder else target / _local_name(path)
    if refresh and os.path.exists(target) and _is_damaged(target / _local_name(next(iter(files)))):
        copies.remove(target)
    if os.path.exists(target):  # False, not an error, where the cache cannot be read
        copies.note(copy)
    elif download:
        _download(fs, files, copies, copy, target)
    else:
        raise ModelAbsentError(f"{model} is not here yet: `depthline models fetch {model}` gets it from {shown(url)}")
    return copy


def find_outage(url: str, settings: Settings) -> Exception | None:
    """Returns why the store of a URL does not answer. Ask once for all files of a store: it takes its time."""
    try:
        _info(*_file_system(url, settings))
    except Exception as error:  # noqa: BLE001 (local() raises it, where it matters)
        return error if _is_outage(error) else None
    return None


def shown(url: str) -> str:
    """Returns a path or URL as people and records see it: as `shown_url`, without its query, where signatures change."""
    return shown_url(url.partition("?")[0]) if "://" in url else url


def reason(error: BaseException) -> str:
    """Returns an error in one line, with the URLs in it as people see them."""
    text = shown_text(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text[:400]}" if text else type(error).__name__


def _file_system(url: str, settings: Settings) -> tuple[Any, str]:
    options = settings.source_options if "://" in url and not url.startswith("file://") else {}
    if url_schemes.is_web(url):  # aiohttp would wait five minutes for a host that does not answer, and for a large file no longer
        import aiohttp

        options = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)}} | options
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise ModelUnavailableError(f"checkpoint {shown(url)}: {reason(error)}") from None
    return fs, path


def _info(fs: Any, path: str) -> dict[str, Any] | None:
    """Returns what a store says of a path; None when nothing is there. Raises the error that kept it from answering.

    fs.exists() and fs.isfile() say no in both cases, and fsspec's HTTP raises FileNotFoundError whatever the cause.
    """
    try:
        info: dict[str, Any] = fs.info(path)
    except FileNotFoundError as error:
        if url_schemes.is_web(path) and error.__cause__ and getattr(error.__cause__, "status", None) not in (404, 410):
            raise error.__cause__ from None
        return None
    return info


def _is_outage(error: Exception) -> bool:
    """Whether a store did not answer, so that its last answer may still be true. Refusals and wrong keys are no outage."""
    if isinstance(error, FileNotFoundError | PermissionError | ValueError | TypeError | ModelUnavailableError):
        return False
    status = getattr(error, "status", None)  # of an answer by HTTP
    if isinstance(status, int):
        return status >= 500 or status == 429
    if isinstance(error, OSError) and error.errno in (errno.EINVAL, errno.EREMCHG, errno.ENOSYS):  # s3fs, of requests S3 refuses
        return False
    return not type(error).__name__.endswith(("CredentialsError", "CredentialRetrievalError", "ProfileNotFound"))  # botocore's


def _local_name(path: str) -> str:
    """Returns the local name of a remote file: HTTP's paths are URLs, whose query may be long and have slashes."""
    name = (unquote(urlsplit(path).path) if url_schemes.is_web(path) else path).rpartition("/")[2][-100:]
    return "weights" if name in ("", ".", "..") or "\0" in name else name


def _beside(path: str, name: str) -> str:
    """The remote file of that name in the same folder; with the same query, which may have a token."""
    if not url_schemes.is_web(path):
        return f"{path.rpartition('/')[0]}/{name}"
    parts = urlsplit(path)
    return urlunsplit(parts._replace(path=f"{parts.path.rpartition('/')[0]}/{quote(name)}"))


def _mark(name: str, info: dict[str, Any]) -> list[str]:
    known = [str(info[mark]) for mark in _MARKS if info.get(mark)][:1]
    return known if known or url_schemes.is_web(name) else sorted(map(str, info.items()))


def _is_damaged(file: Path) -> bool:
    try:
        weights.inspect(file)
    except ModelUnavailableError:
        return True
    return False


def _remote_files(fs: Any, folder: str, url: str) -> dict[str, dict[str, Any]]:
    """Returns what to fetch of a folder, with what the store says of each: weights, the shards of an index, configuration."""
    there = {name: info for name, info in fs.find(folder, maxdepth=1, detail=True).items() if info["type"] == "file"}
    chosen = weights.choose([_local_name(name) for name in there], shown(url))
    file = next(name for name in there if _local_name(name) == chosen)
    configuration = {name: info for name, info in there.items() if name.endswith(".json") and not name.endswith(weights.INDEX)}
    return {file: there[file]} | configuration | _remote_shards(fs, file)


def _remote_shards(fs: Any, file: str) -> dict[str, dict[str, Any]]:
    if not _local_name(file).endswith(weights.INDEX):
        return {}
    names = [_beside(file, name) for name in weights.parse_index(fs.cat_file(file), shown(file)).shards]
    found = {name: info for name in names if (info := _info(fs, name))}
    if missing := [shown(name) for name in names if name not in found]:
        raise ModelUnavailableError(f"{shown(file)} names shards that are missing: {', '.join(missing)}")
    return found


@dataclass(frozen=True)
class _Copies:
    """The copies of one URL in the cache: a folder `<key>-<state>` for each state that was seen, and a note of the last two.

    Two, since another process may have resolved the earlier one and not opened it yet.
    """

    folder: Path
    key: str

    def latest(self) -> Path | None:
        """Returns the copy that was used last, if it is there."""
        found = [self.folder / name for name in self._noted()[:1]]
        return found[0] if found and os.path.exists(found[0]) else None

    def _noted(self) -> list[str]:
        try:
            return (self.folder / f"{self.key}.latest").read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return []

    def lock(self) -> FileLock:
        return FileLock(self.folder / f"{self.key}.lock")

    def note(self, copy: Path) -> None:
        """Notes the copy in use; removes those before the last two."""
        name = str(copy.relative_to(self.folder))
        if self._noted()[:1] == [name]:
            return
        with suppress(OSError), self.lock():  # OSError: a cache that is only read
            kept = [name, *(other for other in self._noted() if other != name)][:2]
            part = self.folder / f"{self.key}.{uuid.uuid4().hex[:8]}.note"
            part.write_text("\n".join(kept), "utf-8")
            part.replace(part.with_name(f"{self.key}.latest"))
            for old in set(self.folder.glob(f"{self.key}-*")) - {self.folder / Path(other).parts[0] for other in kept}:
                self.remove(old)

    def remove(self, copy: Path) -> None:
        """Removes a copy in one step, by renaming it first: a half-removed copy would count as a whole one."""
        part = self.part()
        with suppress(OSError):
            copy.replace(part)
            shutil.rmtree(part, ignore_errors=True)

    def part(self) -> Path:
        """Returns a new name for a copy in progress; the next download removes those that were left behind."""
        return self.folder / f"{self.key}.{uuid.uuid4().hex[:8]}.part"


def _download(fs: Any, files: dict[str, dict[str, Any]], copies: _Copies, copy: Path, target: Path) -> None:
    """Downloads all files or none: into a folder beside `target`, then renamed. One process downloads, the others wait for it."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    part = copies.part()
    try:
        copies.folder.mkdir(parents=True, exist_ok=True)
        with copies.lock():
            if target.exists():
                return
            for left in copies.folder.glob(f"{copies.key}.*.part"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            part.mkdir()
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
            with Progress(*columns, transient=True) as progress:
                for name, info in files.items():
                    file, task = part / _local_name(name), progress.add_task(_local_name(name), total=info.get("size"))
                    with file.open("wb") as local:
                        for block in _blocks(fs, name, info):
                            local.write(block)
                            progress.advance(task, len(block))
                    got, size = file.stat().st_size, info.get("size")
                    if size not in (None, got):
                        raise ModelUnavailableError(f"{shown(name)}: got {got} of {size} bytes; try again")
            first = next(iter(files))
            _inspect(part / _local_name(first), first)
            part.replace(target)
        copies.note(copy)
    except OSError as error:
        raise ModelUnavailableError(
            f"cannot write to DEPTH_CHECKPOINT_CACHE={copies.folder.parent}: {error.strerror or error}"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _blocks(fs: Any, name: str, info: dict[str, Any]) -> Iterator[bytes]:
    """Yields a remote file's bytes. Raises ModelUnavailableError for whatever fails at the remote end."""
    # one answer, not many ranges, of which each may be sent on to another URL and some servers give none
    options = {"block_size": 0, "size": info.get("size")} if url_schemes.is_web(name) else {}
    try:
        with fs.open(name, "rb", **options) as remote:
            while block := remote.read(4 * 2**20):
                yield block
    except Exception as error:  # noqa: BLE001 (the same)
        raise ModelUnavailableError(f"cannot fetch {shown(name)} ({reason(error)}): try again") from None


def _inspect(file: Path, name: str) -> None:
    try:
        weights.inspect(file)
    except ModelUnavailableError as error:  # its file is gone when this is read
        raise ModelUnavailableError(f"{shown(name)}: {str(error).replace(f'{file.parent}/', '')}") from None
