"""Rows to chunks, and both in the store: gives every row its chunk for ever, and says which chunks changed.

Works on Arrow columns: an index has as many rows as its manifest ever had. What does not belong here: what the rows say
(validation.py).
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from depth_core import layout, parquet
from depth_core.errors import ManifestError
from depth_core.ingest.manifest import index as index_file
from depth_core.ingest.manifest.index import GONE, Index, Integers, hashes_of
from depth_core.ingest.manifest.rows import frugal
from depth_core.storage import Store

_WRITERS = 16  # chunks written at once
_SLICE = 10_000  # rows that are Python objects at once
_TEXT = pa.large_string()

CHUNK_COLUMNS = (
    "chunk",
    "position",
    "line",
    "file",
    "row_key",
    "row_id",
    "image_url",
    layout.EXTRA_COLUMNS,
    "error_kind",
    "error_message",
)


_IN_DIGEST = ("row_id", "image_url", layout.EXTRA_COLUMNS, "error_kind")


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


# -- which row is in which chunk ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChunkAssignment:
    """Which row is in which chunk.

    `index`: for the next time. `changed`: keys of the chunks whose rows are not what the index said, new chunks included, sorted.
    `chunks`: the rows of each changed chunk, in the manifest's order, with CHUNK_COLUMNS; each is made when it is asked for.
    """

    index: Index
    changed: list[str]
    chunks: Mapping[str, pd.DataFrame]


@frugal()
def assign_chunks(
    rows: ManifestRows, previous: Index | None, *, slug: str, rows_per_chunk: int, again: Iterable[str] = ()
) -> ChunkAssignment:
    """Gives every row its chunk, given the index of the last time (None: there was none).

    Chunks named in `again` count as changed whatever their rows are, provided that the index knows them.

    A row is the same row as before when its id is, or, without one, its URL and which occurrence of that URL it is. It keeps
    its chunk for ever, also when it goes and comes back, and when rows_per_chunk changes. New rows fill the last chunk, then
    new ones; the place of a row that is gone stays empty. A row that only moved to another line is not a change: its stored
    line number is brought up to date when its chunk is written next.
    """
    table = pa.table({name: _column(rows.frame[name]) for name in rows.frame})
    known = Index.empty() if previous is None else previous
    keys, hashes = _row_keys(table)
    at = known.places_of(keys, hashes)
    del hashes
    digests = _digests(table)
    fresh = at < 0

    # Chunks are numbers from here on: places in `number`.
    number = {name: n for n, name in enumerate(known.names)}
    last = max((layout.number_of_chunk(name) for name in known.names), default=0)
    taken = int(np.count_nonzero(known.chunks == number.get(layout.chunk_key(slug, last), -1)))
    new, which = np.unique(_places(int(np.count_nonzero(fresh)), last, taken, rows_per_chunk), return_inverse=True)
    of_new = [number.setdefault(layout.chunk_key(slug, int(n)), len(number)) for n in new]
    names = list(number)
    chunks = np.empty(len(keys), np.int32)
    chunks[~fresh] = known.chunks[at[~fresh]]
    chunks[fresh] = np.array(of_new, np.int32)[which]

    current = np.full(len(known), GONE)
    current[at[~fresh]] = digests[~fresh]
    altered = np.zeros(len(names), bool)
    altered[known.chunks[current != known.digests]] = True
    altered[of_new] = True
    altered[[number[name] for name in set(again) & set(known.names)]] = True

    added = keys if not len(known) else keys.filter(pa.array(fresh))
    index = Index(
        pa.concat_arrays([known.keys, added]) if len(known) and len(added) else added if len(added) else known.keys,
        names,
        np.concatenate([known.chunks, chunks[fresh]]),
        np.concatenate([current, digests[fresh]]),
        rows_per_chunk,
    )
    changed = {names[n]: int(n) for n in np.flatnonzero(altered)}
    contents = _Chunks(table.append_column("row_key", keys), rows.uri, changed, chunks, altered)
    return ChunkAssignment(index, sorted(changed), contents)


def _column(series: pd.Series[Any]) -> pa.ChunkedArray:
    """A column of a table, text as Arrow's large_string; mostly without a copy."""
    array = pa.array(series, None if pd.api.types.is_integer_dtype(series.dtype) else _TEXT, from_pandas=True)
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def _places(count: int, last: int, taken: int, rows_per_chunk: int) -> Integers:
    """Numbers of the chunks for `count` new rows when chunk `last` already has `taken` places in use."""
    beyond = np.arange(count, dtype=np.int32) - np.int32(max(0, rows_per_chunk - taken))
    return np.where(beyond < 0, np.int32(last), np.int32(last + 1) + beyond // np.int32(rows_per_chunk))


def _row_keys(table: pa.Table) -> tuple[pa.Array, Integers]:
    """`id:ID` or `url:URL`; for further occurrences of the same, `id+2:ID` and so on. With the hash of each."""
    ids, urls = table["row_id"], table["image_url"]
    has_id = pc.not_equal(ids, "")
    kinds = pc.if_else(has_id, pa.scalar("id", _TEXT), pa.scalar("url", _TEXT))
    joined = pc.binary_join_element_wise(kinds, pc.if_else(has_id, ids, urls), pa.scalar(":", _TEXT))
    keys = joined.combine_chunks()
    del joined, kinds  # as much again
    # By hash first: a table of all keys would take as much memory as the keys.
    hashes = hashes_of(keys)
    ordered = np.sort(hashes)
    repeated = np.flatnonzero(np.isin(hashes, ordered[1:][ordered[1:] == ordered[:-1]]))
    same = keys.take(pa.array(repeated)).dictionary_encode().indices.to_numpy()
    occurrence = pd.Series(same).groupby(same).cumcount().to_numpy() + 1
    repeated, occurrence = repeated[occurrence > 1], occurrence[occurrence > 1]
    if not len(repeated):
        return keys, hashes
    named = [key.partition(":") for key in keys.take(pa.array(repeated)).to_pylist()]
    others = pa.array([f"{kind}+{n}:{name}" for (kind, _, name), n in zip(named, occurrence, strict=True)], _TEXT)
    mask = np.zeros(len(keys), bool)
    mask[repeated] = True
    hashes[repeated] = hashes_of(others)
    return pc.replace_with_mask(keys, pa.array(mask), others), hashes


def _digests(table: pa.Table) -> Integers:
    """A number (uint64, not GONE) of what each row says. Not of its line, nor of a message that names the line."""
    digests = np.empty(len(table), np.uint64)
    for start in range(0, len(table), _SLICE):
        part = table.slice(start, _SLICE)
        columns = (pc.fill_null(part[name], "").to_pylist() for name in _IN_DIGEST)
        texts = map("\0".join, zip(*columns, strict=True))
        packed = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
        digests[start : start + len(part)] = np.frombuffer(packed, ">u8")
    digests[digests == GONE] = 1
    return digests


class _Chunks(Mapping[str, pd.DataFrame]):
    """The rows of the changed chunks, cut out of the manifest's table when asked for."""

    def __init__(
        self, table: pa.Table, uri: str, changed: dict[str, int], chunks: Integers, altered: npt.NDArray[np.bool_]
    ) -> None:
        touched = altered[chunks]
        if not touched.all():
            table, chunks = table.filter(pa.array(touched)), chunks[touched]
        if (np.diff(chunks) < 0).any():  # chunk after chunk, in each of them in the manifest's order
            order = np.argsort(chunks, kind="stable")
            table, chunks = table.take(pa.array(order)), chunks[order]
        self._table = table
        self._chunks = chunks
        self._changed = changed
        self._uri = uri

    def __getitem__(self, chunk: str) -> pd.DataFrame:
        number = np.array([self._changed[chunk], self._changed[chunk] + 1], self._chunks.dtype)
        start, stop = np.searchsorted(self._chunks, number)
        rows = self._table.slice(start, stop - start)
        added = {
            "chunk": pa.array([chunk] * len(rows), _TEXT),
            "position": np.arange(len(rows), dtype=np.int32),
            "file": pa.array([self._uri] * len(rows), _TEXT),
        }
        frame: pd.DataFrame = pa.table({name: added[name] if name in added else rows[name] for name in CHUNK_COLUMNS}).to_pandas()
        return frame

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._changed))

    def __len__(self) -> int:
        return len(self._changed)


# -- the store ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What the last index run changed, or was about to change when it died."""

    run_id: str
    chunks: tuple[str, ...]


@frugal()
def write_chunks(store: Store, slug: str, assignment: ChunkAssignment, rows: ManifestRows, *, run_id: str) -> None:
    """Writes the changed chunks, then the index, then the manifest's facts.

    A note with the run's id and the chunks that are about to change is written first, and stays (`last_change`). If that run did
    not finish and report its changes, the caller passes the note's chunks to `assign_chunks` as `again`: what the run left half
    written is then written again, and what it did not report is reported by the next run.
    """
    note = {"run_id": run_id, "chunks": assignment.changed}
    store.write(layout.manifest_change_key(slug), json.dumps(note).encode(), content_type="application/json")
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(_WRITERS) as pool:
        for chunk in assignment.changed:  # encoded here: in many threads Arrow keeps memory for each
            data = parquet.encode_frame(assignment.chunks[chunk])
            waiting.append(pool.submit(parquet.write_encoded, store, layout.chunk_rows_key(chunk), data))
            if len(waiting) > 2 * _WRITERS:
                waiting.popleft().result()
        for written in waiting:
            written.result()
    parquet.write_encoded(store, layout.manifest_index_key(slug), assignment.index.to_parquet())
    bad = rows.frame["error_kind"].notna()
    facts = {
        "uri": rows.uri,
        "sha256": rows.sha256,
        "rows": len(rows.frame),
        "bad_rows": int(bad.sum()),
        "chunks": len(assignment.index.names),
        "rows_per_chunk": assignment.index.rows_per_chunk,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    store.write(layout.manifest_facts_key(slug), json.dumps(facts, indent=2).encode(), content_type="application/json")


def last_change(store: Store, slug: str) -> Change:
    """The note of the last index run; of no run and no chunks when there was none."""
    note = json.loads(store.read_or_none(layout.manifest_change_key(slug)) or b'{"run_id": "", "chunks": []}')
    return Change(note["run_id"], tuple(note["chunks"]))


def read_facts(store: Store, slug: str) -> dict[str, Any] | None:
    """uri, sha256, rows, bad_rows, chunks, rows_per_chunk, written_at of a manifest that was indexed; None when it never was."""
    data = store.read_or_none(layout.manifest_facts_key(slug))
    return None if data is None else dict(json.loads(data))


@frugal()
def read_index(store: Store, slug: str) -> Index | None:
    """The index of the last time, for assign_chunks; None when there was none."""
    data = store.read_or_none(layout.manifest_index_key(slug))
    return None if data is None else Index.from_parquet(data)


def find_rows(store: Store, slug: str, matches: Callable[[pa.Array], pa.Array]) -> Iterator[tuple[str, str]]:
    """Row key and chunk of each row of a manifest whose key matches, as the last index run left it; see `index.find`."""
    data = store.read_or_none(layout.manifest_index_key(slug))
    return iter(()) if data is None else index_file.find(data, matches)


def read_chunk(store: Store, chunk: str) -> pd.DataFrame:
    """The rows of a chunk as the manifest has them, with CHUNK_COLUMNS. Raises ManifestError when nobody wrote it."""
    frame = parquet.read_frame(store, layout.chunk_rows_key(chunk))
    if frame is None:
        raise ManifestError(f"chunk {chunk} does not exist: index its manifest first")
    return frame


def write_rows(store: Store, chunk: str, rows: pd.DataFrame) -> None:
    """Keeps the validated rows of a chunk, as `validate` returns them."""
    parquet.write_frame(store, layout.validated_rows_key(chunk), rows)


def read_rows(store: Store, chunk: str) -> pd.DataFrame:
    """The validated rows of a chunk. Raises ManifestError when they are not validated yet."""
    frame = parquet.read_frame(store, layout.validated_rows_key(chunk))
    if frame is None:
        raise ManifestError(f"the rows of chunk {chunk} are not validated yet: do that first")
    return frame
