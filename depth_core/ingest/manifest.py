"""From a manifest to chunks of rows: finds manifests, reads them, gives every row its chunk for ever, judges each row.

A bad row is a row with an error, never an exception. What does not belong here: the text formats (tables.py) and fetching the
images that the rows name (sources.py).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import posixpath
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import httpx
import pandas as pd

from depth_core.errors import ErrorKind, ImageError, ManifestError
from depth_core.ingest import tables
from depth_core.ingest.addresses import check_url, sync_transport
from depth_core.ingest.download import Downloader, bucket, local_etag
from depth_core.settings import Settings
from depth_core.storage import Store

log = logging.getLogger(__name__)

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".txt", ".parquet")
POINTER = ".url"  # a file whose one line is the URI of a manifest elsewhere
_CONTENT_TYPES = {
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/jsonl": ".jsonl",
    "application/x-ndjson": ".ndjson",
    "text/plain": ".txt",
    "application/vnd.apache.parquet": ".parquet",
}
_WRITERS = 16  # chunks written at once
_GONE = ""  # digest of a row that the manifest no longer has; it keeps its place

CHUNK_COLUMNS = (
    "chunk",
    "position",
    "line",
    "file",
    "row_key",
    "row_id",
    "image_url",
    "carried",
    "error_kind",
    "error_message",
)


# -- names --------------------------------------------------------------------------------------------------------------


def slug(uri: str) -> str:
    """The manifest's key: its name and 8 hex digits of the hash of its URI; only a-z, 0-9, _ and -.

    A local path counts as the absolute path it stands for.
    """
    uri = _canonical(uri)
    name = posixpath.basename(urlsplit(uri).path if "://" in uri else uri).lower().removesuffix(".gz")
    name = re.sub(r"[^a-z0-9_-]+", "-", name.removesuffix(_ending(name)))[:40].strip("-") or "manifest"
    return f"{name}-{hashlib.sha256(uri.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def chunk_key(slug: str, n: int) -> str:
    return f"{slug}-{n:05d}"


def slug_of_chunk(chunk: str) -> str:
    return chunk.rpartition("-")[0]


# -- finding ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ManifestFile:
    """One manifest that was found. The fingerprint changes when the file does, and costs no reading."""

    uri: str
    slug: str
    fingerprint: str


def discover(settings: Settings) -> list[ManifestFile]:
    """All manifests below the manifests folder (local or s3), sorted by URI.

    A `*.url` file stands for the manifest elsewhere (http, https, s3) that its one line names; when that one cannot be asked for
    its state now, it is left out and the log says so. Raises ManifestError when the folder itself cannot be listed.
    """
    found: dict[str, str] = {}
    for uri, fingerprint in _listed(settings.manifests_location, settings):
        try:
            if uri.endswith(POINTER):
                uri = _raw(uri, settings).decode("utf-8-sig").strip()
                fingerprint = _state_elsewhere(uri, settings)
        except (ManifestError, ImageError, UnicodeDecodeError) as error:
            log.warning("manifest left out: %s", error)
            continue
        found[uri] = fingerprint
    return [ManifestFile(uri, slug(uri), fingerprint) for uri, fingerprint in sorted(found.items())]


def _listed(location: str, settings: Settings) -> Iterator[tuple[str, str]]:
    """URI and fingerprint of every file that may be a manifest."""
    try:
        if location.startswith("s3://"):
            for path, info in sorted(bucket(settings).find(location, detail=True).items()):
                if _is_manifest(path[len(location) - len("s3://") :]):
                    yield f"s3://{path}", _object_state(info)
        else:
            root = Path(_canonical(location))
            for file in sorted(root.rglob("*")):
                if _is_manifest(file.relative_to(root).as_posix()) and file.is_file():
                    yield str(file), local_etag(file.stat())
    except FileNotFoundError:
        return
    except Exception as error:
        raise ManifestError(f"cannot list the manifests in {location}: {error}; see DEPTH_MANIFESTS_URL") from error


def _is_manifest(relative: str) -> bool:
    hidden = any(part.startswith(".") for part in relative.split("/"))
    return not hidden and (bool(_ending(relative)) or relative.endswith(POINTER))


def _object_state(info: dict[str, Any]) -> str:
    return f"{info.get('size')}-{info.get('ETag') or info.get('LastModified')}"


def _state_elsewhere(uri: str, settings: Settings) -> str:
    if uri.startswith("s3://"):
        try:
            return _object_state(bucket(settings).info(uri))
        except Exception as error:
            raise ManifestError(f"{uri}: {error}") from error
    with _client(settings) as client:
        try:
            response = client.head(uri).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ManifestError(f"{uri}: {error}") from error
    state = [response.headers.get(name, "") for name in ("etag", "last-modified", "content-length")]
    return "|".join(state)


# -- reading ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ManifestRows:
    """A manifest as it was read.

    Columns of `frame`: line (int64, counted from 1, header included; for Parquet the row's number), row_id ("" if none),
    image_url (as written, "" if missing), carried (JSON object of every other column), error_kind and error_message (missing
    for a row that could be read; else the message names file and line).
    """

    uri: str
    sha256: str
    frame: pd.DataFrame


def read(uri: str, settings: Settings) -> ManifestRows:
    """Reads a manifest: CSV, TSV, JSONL, TXT (each may be gzipped) or Parquet; local, s3 or http(s).

    Raises ManifestError when it cannot be read at all; a row that cannot be read is a row with error_kind `bad_row`.
    """
    uri = _canonical(uri)
    ending = _ending(uri)
    if uri.startswith(("http://", "https://")):
        data, content_type = _download(uri, settings)
        ending = ending or _CONTENT_TYPES.get(content_type.partition(";")[0].strip().lower(), "")
    else:
        data = _raw(uri, settings)
    if not ending:
        raise ManifestError(f"{uri}: unknown kind of manifest; known endings: {', '.join(ENDINGS)}, and .gz behind those of text")
    digest = hashlib.sha256(data).hexdigest()
    if ending == ".parquet":
        frame = tables.parquet(data, uri, settings.max_field_chars)
    else:
        frame = tables.text(_unpacked(data, uri, settings), ending, uri, settings.max_field_chars)
    return ManifestRows(uri, digest, frame)


def _raw(uri: str, settings: Settings) -> bytes:
    try:
        if uri.startswith("s3://"):
            return bytes(bucket(settings).cat_file(uri))
        if "://" in uri:
            raise ManifestError(f"{uri}: a manifest is a local file, or an s3, http or https URL")
        return Path(uri).read_bytes()
    except FileNotFoundError:
        raise ManifestError(f"{uri} is not there") from None
    except IsADirectoryError:
        raise ManifestError(f"{uri} is a folder, not a manifest") from None
    except PermissionError:
        raise ManifestError(f"{uri}: permission denied") from None
    except ManifestError:
        raise
    except Exception as error:
        raise ManifestError(f"{uri} cannot be read: {error}") from error


def _download(uri: str, settings: Settings) -> tuple[bytes, str]:
    limits = settings.model_copy(update={"max_source_bytes": settings.max_manifest_bytes})
    downloader = Downloader(limits, allow_private=settings.manifests_may_be_private, only_http=True)
    ((_, result),) = downloader.map([uri], lambda fetched: (fetched.read(), fetched.content_type))
    if not isinstance(result, ImageError):
        return result
    if result.kind is ErrorKind.TOO_MANY_BYTES:
        raise _too_large(uri, settings)
    raise ManifestError(f"{uri} cannot be fetched: {result}")


def _too_large(uri: str, settings: Settings) -> ManifestError:
    return ManifestError(f"{uri} is larger than {settings.max_manifest_bytes:,} bytes (DEPTH_MAX_MANIFEST_BYTES)")


def _client(settings: Settings) -> httpx.Client:
    return httpx.Client(
        transport=sync_transport(settings.manifests_may_be_private),
        headers={"User-Agent": settings.user_agent, "Accept-Encoding": "identity"},
        timeout=httpx.Timeout(settings.read_timeout, connect=settings.connect_timeout),
        follow_redirects=True,
        max_redirects=settings.max_redirects,
        trust_env=False,
    )


def _unpacked(data: bytes, uri: str, settings: Settings) -> bytes:
    if not data.startswith(b"\x1f\x8b"):
        # A server may have named gzip as the encoding: then it is undone already.
        if uri.lower().endswith(".gz") and data and not uri.startswith(("http://", "https://")):
            raise ManifestError(f"{uri} is not gzip, though its name says so")
        return data
    try:
        with gzip.GzipFile(fileobj=BytesIO(data)) as packed:
            unpacked = packed.read(settings.max_manifest_bytes + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ManifestError(f"{uri}: damaged gzip: {error}") from None
    if len(unpacked) > settings.max_manifest_bytes:
        raise _too_large(uri, settings)
    return unpacked


# -- chunks -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChunkAssignment:
    """Which row is in which chunk.

    `index`: row_key, chunk, digest of every row that the manifest has or ever had, in order of first sight; digest is "" for
    those that are gone. `changed`: keys of the chunks whose rows are not what the index said, new chunks included, sorted.
    `chunks`: the rows of each changed chunk, in the manifest's order, with CHUNK_COLUMNS.
    """

    index: pd.DataFrame
    changed: list[str]
    chunks: dict[str, pd.DataFrame]


def assign_chunks(
    rows: ManifestRows, previous: pd.DataFrame | None, *, slug: str, rows_per_chunk: int, again: Iterable[str] = ()
) -> ChunkAssignment:
    """Gives every row its chunk, given the index of the last time (None: there was none).

    Chunks named in `again` count as changed whatever their rows are, provided that the index knows them.

    A row is the same row as before when its id is, or, without one, its URL and which occurrence of that URL it is. It keeps
    its chunk for ever, also when it goes and comes back, and when rows_per_chunk changes. New rows fill the last chunk, then
    new ones; the place of a row that is gone stays empty. A row that only moved to another line is not a change: its stored
    line number is brought up to date when its chunk is written next.
    """
    frame = rows.frame.assign(row_key=_row_keys(rows.frame), digest=_digests(rows.frame))
    known = previous if previous is not None else pd.DataFrame({"row_key": [], "chunk": [], "digest": []}, dtype="str")
    old = known.set_index("row_key")
    chunks = frame["row_key"].map(old["chunk"]).astype("str")
    fresh = chunks.isna()
    last = max((int(chunk.rpartition("-")[2]) for chunk in known["chunk"].unique()), default=0)
    taken = int((known["chunk"] == chunk_key(slug, last)).sum())
    frame["chunk"] = chunks
    frame.loc[fresh, "chunk"] = _places(int(fresh.sum()), slug, last, taken, rows_per_chunk)

    now = frame.set_index("row_key")["digest"]
    kept = known.assign(now=known["row_key"].map(now).astype("str").fillna(_GONE))
    altered = set(kept.loc[kept["now"] != kept["digest"], "chunk"]) | set(frame.loc[fresh, "chunk"])
    altered |= set(again) & set(known["chunk"])
    index = pd.concat(
        [kept[["row_key", "chunk", "now"]].rename(columns={"now": "digest"}), frame.loc[fresh, ["row_key", "chunk", "digest"]]],
        ignore_index=True,
    )
    frame["file"] = rows.uri
    frame["position"] = frame.groupby("chunk").cumcount().astype("int32")
    columns = list(CHUNK_COLUMNS)
    touched = frame.loc[frame["chunk"].isin(altered), columns]
    parts = {str(chunk): part.reset_index(drop=True) for chunk, part in touched.groupby("chunk", sort=False)}
    changed = sorted(altered)
    return ChunkAssignment(index, changed, {chunk: parts.get(chunk, frame.loc[[], columns]) for chunk in changed})


def _places(count: int, slug: str, last: int, taken: int, rows_per_chunk: int) -> list[str]:
    """Chunk keys for `count` new rows when chunk `last` already has `taken` places in use."""
    places = [chunk_key(slug, last)] * min(count, max(0, rows_per_chunk - taken))
    while len(places) < count:
        last += 1
        places += [chunk_key(slug, last)] * min(count - len(places), rows_per_chunk)
    return places


def _row_keys(frame: pd.DataFrame) -> pd.Series[str]:
    """`id:ID` or `url:URL`; for further occurrences of the same, `id+2:ID` and so on."""
    has_id = frame["row_id"] != ""
    name = frame["row_id"].where(has_id, frame["image_url"])
    kind = pd.Series("url", index=frame.index, dtype="str").mask(has_id, "id")
    keys = kind + ":" + name
    occurrence = keys.groupby(keys).cumcount() + 1
    return keys.mask(occurrence > 1, kind + "+" + occurrence.astype("str") + ":" + name)


def _digests(frame: pd.DataFrame) -> pd.Series[str]:
    """16 hex digits of what a row says. Not of its line, nor of a message that names the line."""
    cells = zip(*(frame[name].fillna("").tolist() for name in ("row_id", "image_url", "carried", "error_kind")), strict=True)
    digests = [hashlib.blake2b("\0".join(row).encode(), digest_size=8).hexdigest() for row in cells]
    return pd.Series(digests, index=frame.index, dtype="str")


# -- the store ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What the last index run changed, or was about to change when it died."""

    run_id: str
    chunks: tuple[str, ...]


def write_chunks(store: Store, slug: str, assignment: ChunkAssignment, rows: ManifestRows, *, run_id: str) -> None:
    """Writes the changed chunks, then the index, then the manifest's facts.

    A note of what is about to change, and by which run, comes first and stays (`last_change`). Whoever knows whether that run
    came to its end, and told of it, hands the note's chunks to `assign_chunks` again when it did not: so what a run that died
    has half written is written again, and what it could tell nobody is told by the next one.
    """
    note = {"run_id": run_id, "chunks": assignment.changed}
    store.write(_key(slug, "changed.json"), json.dumps(note).encode(), content_type="application/json")
    with ThreadPoolExecutor(_WRITERS) as pool:
        written = [
            pool.submit(_write_table, store, _key(slug, f"chunks/{chunk}.parquet"), frame)
            for chunk, frame in assignment.chunks.items()
        ]
        for future in written:
            future.result()
    _write_table(store, _key(slug, "index.parquet"), assignment.index)
    bad = rows.frame["error_kind"].notna()
    facts = {
        "uri": rows.uri,
        "sha256": rows.sha256,
        "rows": len(rows.frame),
        "bad_rows": int(bad.sum()),
        "chunks": int(assignment.index["chunk"].nunique()),
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    store.write(_key(slug, "manifest.json"), json.dumps(facts, indent=2).encode(), content_type="application/json")


def last_change(store: Store, slug: str) -> Change:
    """The note of the last index run; of no run and no chunks when there was none."""
    note = json.loads(store.read_or_none(_key(slug, "changed.json")) or b'{"run_id": "", "chunks": []}')
    return Change(note["run_id"], tuple(note["chunks"]))


def read_facts(store: Store, slug: str) -> dict[str, Any] | None:
    """uri, sha256, rows, bad_rows, chunks, written_at of a manifest that was indexed; None when it never was."""
    data = store.read_or_none(_key(slug, "manifest.json"))
    return None if data is None else dict(json.loads(data))


def read_index(store: Store, slug: str) -> pd.DataFrame | None:
    """The index of the last time, for assign_chunks; None when there was none."""
    return _read_table(store, _key(slug, "index.parquet"))


def read_chunk(store: Store, chunk: str) -> pd.DataFrame:
    """The rows of a chunk as the manifest has them, with CHUNK_COLUMNS. Raises ManifestError when nobody wrote it."""
    frame = _read_table(store, _key(slug_of_chunk(chunk), f"chunks/{chunk}.parquet"))
    if frame is None:
        raise ManifestError(f"chunk {chunk} is not there: index its manifest first")
    return frame


def write_rows(store: Store, chunk: str, rows: pd.DataFrame) -> None:
    """Keeps the judged rows of a chunk, as `validate` gives them."""
    _write_table(store, _key(slug_of_chunk(chunk), f"rows/{chunk}.parquet"), rows)


def read_rows(store: Store, chunk: str) -> pd.DataFrame:
    """The judged rows of a chunk. Raises ManifestError when nobody judged them yet."""
    frame = _read_table(store, _key(slug_of_chunk(chunk), f"rows/{chunk}.parquet"))
    if frame is None:
        raise ManifestError(f"the rows of chunk {chunk} are not validated yet: do that first")
    return frame


def _key(slug: str, name: str) -> str:
    return f"manifests/{slug}/{name}"


def _write_table(store: Store, key: str, frame: pd.DataFrame) -> None:
    buffer = BytesIO()
    frame.to_parquet(buffer, index=False)
    store.write(key, buffer.getbuffer())


def _read_table(store: Store, key: str) -> pd.DataFrame | None:
    data = store.read_or_none(key)
    return None if data is None else pd.read_parquet(BytesIO(data))


# -- judging ------------------------------------------------------------------------------------------------------------

_PLAIN_URL = r"https?://[A-Za-z0-9.-]{1,253}(?::\d{1,4})?(?:[/?][A-Za-z0-9\-._~:/?#@!$&'()*+,;=%]*)?"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def validate(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The same rows with image_url made absolute: an http, https or s3 URL, or the absolute path of a local file.

    Relative paths are relative to the manifest. Rows that cannot be get an error_kind (missing_url, bad_url, bad_row) and a
    message with file and line; their image_url stays as written.
    """
    rows = rows.copy()
    written = rows["image_url"].str.strip()
    # Most rows of most manifests need no look of their own.
    plain = written.str.fullmatch(_PLAIN_URL) & (written.str.len() <= settings.max_field_chars)
    open_rows = rows["error_kind"].isna()
    rows.loc[open_rows & plain, "image_url"] = written
    others = rows[open_rows & ~plain]
    for at, url, file, line in zip(others.index, written[others.index], others["file"], others["line"], strict=True):
        try:
            rows.at[at, "image_url"] = absolute(url, file, settings.max_field_chars)
        except ImageError as error:
            rows.loc[at, ["error_kind", "error_message"]] = [error.kind.value, f"{file}:{line}: {error.message}"]
    return rows


def absolute(url: str, manifest: str, max_chars: int) -> str:
    """Where an image is, by what a row of a manifest says. Raises ImageError (missing_url, bad_url, bad_row)."""
    if not url:
        raise ImageError(ErrorKind.MISSING_URL, "names no image")
    if len(url) > max_chars:
        raise ImageError(ErrorKind.BAD_ROW, f"its URL is longer than {max_chars} characters (DEPTH_MAX_FIELD_CHARS)")
    if any(ord(character) < 32 or ord(character) == 127 for character in url):
        raise ImageError(ErrorKind.BAD_URL, "its URL has control characters in it")
    scheme = match[1].lower() if (match := _SCHEME.match(url)) else ""
    if len(scheme) == 1 or url.startswith("\\\\"):
        raise ImageError(ErrorKind.BAD_URL, f"{_cut(url)} is a Windows path: write it relative to the manifest, or as a URL")
    resolve = _RESOLVERS.get(scheme)
    if resolve is None:
        raise ImageError(ErrorKind.BAD_URL, f"unknown scheme {scheme!r}; http, https, s3, file and plain paths are known")
    try:
        return resolve(url, manifest)
    except ValueError as error:
        raise ImageError(ErrorKind.BAD_URL, f"{_cut(url)} is not a URL: {error}") from None


def _absolute_http(url: str, manifest: str) -> str:
    check_url(url, allow_private=True)  # the syntax; who may be called is the downloader's question
    return str(httpx.URL(url))  # encodes spaces and letters that are not ASCII


def _absolute_s3(url: str, manifest: str) -> str:
    container, _, key = url[len("s3://") :].partition("/")
    if not url.lower().startswith("s3://") or not container or not key or key.endswith("/"):
        raise ImageError(ErrorKind.BAD_URL, f"{_cut(url)} names no object; s3://bucket/key does")
    return f"s3://{container}/{key}"


def _absolute_file(url: str, manifest: str) -> str:
    if manifest.startswith(("http://", "https://")):
        raise ImageError(ErrorKind.BAD_URL, "a manifest that was fetched over http may not name local files")
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise ImageError(ErrorKind.BAD_URL, f"{_cut(url)} names no local file; file:///folder/photo.jpg does")
    return posixpath.normpath(path)


def _absolute_path(path: str, manifest: str) -> str:
    if "/" not in path:
        path = path.replace("\\", "/")  # relative paths from Windows
    if manifest.startswith(("http://", "https://")):
        return _absolute_http(urljoin(manifest, path), manifest)
    if manifest.startswith("s3://"):
        container, _, key = manifest[len("s3://") :].partition("/")
        joined = posixpath.normpath(posixpath.join(posixpath.dirname(key), path)).lstrip("/")
        if joined == ".." or joined.startswith("../"):
            raise ImageError(ErrorKind.BAD_URL, f"{_cut(path)} leads out of the bucket")
        return f"s3://{container}/{joined}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(manifest), path))


_RESOLVERS: dict[str, Callable[[str, str], str]] = {
    "http": _absolute_http,
    "https": _absolute_http,
    "s3": _absolute_s3,
    "file": _absolute_file,
    "": _absolute_path,
}


def _cut(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:200]}...")


def _canonical(uri: str) -> str:
    """A URI as it is; a local path, however written, as an absolute one."""
    if uri.startswith("file://"):
        uri = unquote(urlsplit(uri).path)
    return uri if "://" in uri else os.path.abspath(uri)


def _ending(name: str) -> str:
    """The known ending of a manifest's name, .gz put aside; "" when it has none."""
    path = (urlsplit(name).path if name.startswith(("http://", "https://")) else name).lower()
    plain = path.removesuffix(".gz")
    return next((e for e in ENDINGS if plain.endswith(e) and not (e == ".parquet" and path != plain)), "")
