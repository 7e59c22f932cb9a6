"""Images as they were received, each kept once by content hash, and the index that says which URL had which content.

Bytes are written before the index entry that names them, so an entry means that the bytes are there. What does not belong here:
how bytes are fetched (download.py) and what they mean (images/).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial

import pandas as pd

from depth_core import layout, parquet
from depth_core.errors import ErrorKind, ImageError, is_installation_error, url_failure
from depth_core.ingest.fetch import local_files
from depth_core.ingest.fetch.download import Downloader, Fetched
from depth_core.ingest.fetch.ssrf_guard import BlockedAddressError
from depth_core.ingest.images.unknown_formats import is_web_page
from depth_core.settings import Settings
from depth_core.storage import Store
from depth_core.url_schemes import is_local, local_path

_LOOKUPS = 32  # index entries asked for at once; on s3 one takes about 20 ms
_SHA256 = re.compile("[0-9a-f]{64}")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,100}/[A-Za-z0-9!#$&^_.+-]{1,100}(; ?[ -~]{1,100})?")


class SourceState(StrEnum):
    FETCHED = "fetched"  # received now
    KNOWN = "known"  # was there already
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """One entry of the URL index."""

    url: str
    sha256: str
    bytes: int
    content_type: str
    etag: str  # of a local file: size and time of change
    fetched_at: datetime
    robots: str = ""  # what the server said against machine learning: "noai, noimageai"


@dataclass(frozen=True, slots=True)
class SourceOutcome:
    """What became of one URL; the fields are the columns of a chunk's table of sources."""

    image_url: str
    sha256: str | None = None
    bytes: int | None = None
    content_type: str = ""
    etag: str = ""
    fetched_at: datetime | None = None
    seconds: float = 0.0  # of the download that succeeded
    attempts: int = 0
    state: SourceState = SourceState.FAILED
    error_kind: str | None = None
    error_message: str | None = None
    robots: str = ""  # what the server said against machine learning: "noai, noimageai"


_DTYPES = {
    "image_url": "str",
    "sha256": "str",
    "bytes": "Int64",
    "content_type": "str",
    "etag": "str",
    "fetched_at": "datetime64[us, UTC]",
    "seconds": "float64",
    "attempts": "int32",
    "state": "str",
    "error_kind": "str",
    "error_message": "str",
    "robots": "str",
}
COLUMNS = tuple(f"{name} {dtype}" for name, dtype in _DTYPES.items())  # of a chunk's table, as `parquet.format_of` takes them


# -- what is there ------------------------------------------------------------------------------------------------------


def reader(store: Store, sha256: str) -> Callable[[], bytes]:
    """Reads an image's bytes when called. That raises FileNotFoundError or StoreError."""
    return partial(store.read, layout.source_key(sha256))


def lookup(store: Store, url: str) -> SourceEntry | None:
    """What the index says of a URL; None when it says nothing, or names bytes that are not there (any more)."""
    data = store.read_or_none(layout.url_key(url))
    if data is None:
        return None
    entry = _entry(data)
    return entry if entry is not None and store.size(layout.source_key(entry.sha256)) == entry.bytes else None


def _entry(data: bytes) -> SourceEntry | None:
    """None for an entry of another version or a damaged one: its URL is fetched again."""
    try:
        values = json.loads(data)
        entry = SourceEntry(**values | {"fetched_at": datetime.fromisoformat(values["fetched_at"])})
        texts = (entry.url, entry.content_type, entry.etag, entry.robots)
        sound = _SHA256.fullmatch(entry.sha256) and isinstance(entry.bytes, int) and entry.fetched_at.tzinfo is not None
        return entry if sound and all(isinstance(text, str) for text in texts) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


# -- fetching what is not there -----------------------------------------------------------------------------------------


def ingest(
    urls: Iterable[str],
    store: Store,
    settings: Settings,
    *,
    refetch: bool = False,
    prior: pd.DataFrame | None = None,
    retry_permanent: bool = False,
    allow_private: bool | None = None,
    only_web: bool = False,
) -> Iterator[SourceOutcome]:
    """Fetches and keeps every URL's image; yields one outcome per URL, as each ends. Duplicates are fetched once.

    Local files that have changed are fetched again, others only with `refetch` (asking with their etag, where they have one).
    `prior` is the table of the last time: URLs that failed permanently then are not fetched again, unless `retry_permanent`;
    local files always are, since that costs little. `allow_private`: default as the settings say for
    manifests. `only_web`: for URLs that strangers send.

    An image that cannot be fetched is a failed outcome, and so is whatever its URL or its server make a library raise. Raises
    StoreError when the store cannot be read or written, and other errors of the installation.
    """
    private = settings.manifests_may_be_private if allow_private is None else allow_private
    downloader = Downloader(settings, allow_private=private, only_web=only_web)
    given_up = {} if prior is None or retry_permanent or refetch else _permanent_failures(prior)
    missing: list[str] = []
    entries: dict[str, SourceEntry] = {}
    with ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="lookup") as pool:
        distinct = list(dict.fromkeys(urls))
        for url, entry in zip(distinct, pool.map(partial(_entry_or_error, store), distinct), strict=True):
            if isinstance(entry, ImageError):
                yield _failed(url, entry)
                continue
            if entry is not None:
                entries[url] = entry
            if entry is not None and not refetch and not _changed_since(entry):
                yield _known(entry)
            elif entry is None and url in given_up:
                yield given_up[url]
            else:
                missing.append(url)
    etags = {url: entry.etag for url, entry in entries.items() if entry.etag and not is_local(url)}
    with closing(downloader.map(missing, partial(_keep, store, entries), etags=etags)) as results:
        for url, result in results:
            yield _failed(url, result) if isinstance(result, ImageError) else result


def _entry_or_error(store: Store, url: str) -> SourceEntry | ImageError | None:
    """What the index says of a URL, or why it cannot be looked up."""
    try:
        return lookup(store, url)
    except Exception as error:  # noqa: BLE001 - by place
        return url_failure(url, error)


def _failed(url: str, error: ImageError) -> SourceOutcome:
    cure = error.inside if isinstance(error, BlockedAddressError) else ""  # records are for the operator
    return SourceOutcome(url, attempts=error.attempts, error_kind=error.kind.value, error_message=error.message + cure)


def is_up_to_date(prior: pd.DataFrame, urls: Iterable[str], store: Store) -> bool:
    """Whether `ingest` of these URLs would find every image as in the table of the last time, and fetch nothing.

    Raises StoreError.
    """
    if set(prior["image_url"]) != set(urls):
        return False
    with ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="lookup") as pool:
        entries = pool.map(partial(_entry_or_error, store), prior["image_url"])
        known = zip(prior["image_url"], prior["sha256"], prior["error_kind"], entries, strict=True)
        return all(_is_unchanged(*each) for each in known)


def _is_unchanged(url: str, sha256: str, error_kind: str, entry: SourceEntry | ImageError | None) -> bool:
    if isinstance(entry, ImageError):
        return False  # `ingest` says what is wrong with it
    if pd.isna(error_kind):
        return entry is not None and entry.sha256 == sha256 and not _changed_since(entry)
    if is_local(url):
        return error_kind == ErrorKind.NOT_FOUND and not _is_file(url)
    return entry is None and not _may_succeed_later(error_kind)


def _may_succeed_later(error_kind: str) -> bool:
    """True for kinds of another version, too."""
    return error_kind not in set(ErrorKind) or ErrorKind(error_kind).retryable


def _is_file(url: str) -> bool:
    try:
        return os.path.isfile(local_path(url))
    except ValueError:  # NUL in a path
        return False


def _keep(store: Store, entries: dict[str, SourceEntry], fetched: Fetched) -> SourceOutcome:
    """Writes the bytes first, the entry last: a run that is killed in between loses this download only."""
    now = datetime.now(UTC)
    if fetched.not_modified:
        entry = replace(entries[fetched.url], fetched_at=now)
    else:
        _refuse_error_page(fetched)
        kept = (fetched.sha256, fetched.size, fetched.content_type, fetched.etag, now, fetched.robots)
        entry = SourceEntry(fetched.url, *kept)
        key = layout.source_key(entry.sha256)
        if store.size(key) != entry.bytes:
            named = _MEDIA_TYPE.fullmatch(entry.content_type)  # a bucket may refuse other values
            store.write(key, fetched.read(), content_type=entry.content_type if named else None)
    fetched.close()
    values = asdict(entry) | {"fetched_at": now.isoformat()}
    if not entry.robots:
        del values["robots"]  # as versions before this text wrote it, and can read it
    store.write(layout.url_key(entry.url), json.dumps(values).encode(), content_type="application/json")
    state = SourceState.KNOWN if fetched.not_modified else SourceState.FETCHED
    return replace(_known(entry), seconds=fetched.seconds, attempts=fetched.attempts, state=state)


def _refuse_error_page(fetched: Fetched) -> None:
    """Raises ImageError for what broken servers send in place of an image: once kept, it would never be fetched again.

    Local files are read again whenever they change, and so are kept as they are.
    """
    if is_local(fetched.url):
        return
    fetched.body.seek(0)
    start = fetched.body.read(1024)
    if not start:
        raise ImageError(ErrorKind.EMPTY_FILE, "a response without a byte", attempts=fetched.attempts)
    if is_web_page(start):
        raise ImageError(ErrorKind.NOT_AN_IMAGE, "not an image: looks like an HTML page", attempts=fetched.attempts)


def _known(entry: SourceEntry) -> SourceOutcome:
    return SourceOutcome(
        entry.url,
        entry.sha256,
        entry.bytes,
        entry.content_type,
        entry.etag,
        entry.fetched_at,
        state=SourceState.KNOWN,
        robots=entry.robots,
    )


def _changed_since(entry: SourceEntry) -> bool:
    if not is_local(entry.url):
        return False
    try:
        return local_files.etag(os.stat(local_path(entry.url))) != entry.etag
    except Exception as error:
        if is_installation_error(error):
            raise
        return True  # the download says what is wrong with it


def _permanent_failures(prior: pd.DataFrame) -> dict[str, SourceOutcome]:
    failed = prior[prior["error_kind"].notna()]
    return {
        url: SourceOutcome(url, attempts=attempts, error_kind=kind, error_message=message)
        for url, attempts, kind, message in zip(
            failed["image_url"], failed["attempts"], failed["error_kind"], failed["error_message"], strict=True
        )
        if not _may_succeed_later(kind) and not is_local(url)
    }


# -- a chunk's table ----------------------------------------------------------------------------------------------------


def table(outcomes: Iterable[SourceOutcome]) -> pd.DataFrame:
    """The outcomes as a table, one row per URL; a column per field of SourceOutcome."""
    rows = list(outcomes)
    columns = {f.name: pd.Series([getattr(row, f.name) for row in rows], dtype=_DTYPES[f.name]) for f in fields(SourceOutcome)}
    return pd.DataFrame(columns)


def write_table(store: Store, chunk: str, frame: pd.DataFrame) -> None:
    """Keeps the table of a chunk's sources."""
    parquet.write_frame(store, layout.sources_table_key(chunk), frame)


def read_table(store: Store, chunk: str) -> pd.DataFrame | None:
    """The table of a chunk's sources; None when nobody fetched them yet."""
    return parquet.read_frame(store, layout.sources_table_key(chunk))
