"""Rows to chunks, and both in the store: gives every row its chunk for ever, and says which chunks changed.

Works on Arrow columns, a batch at a time: an index has as many rows as its manifest ever had. What does not belong here: which
rows the index knows (matching.py), what the rows say (validation.py).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from depth_core import layout, parquet
from depth_core.errors import ManifestError
from depth_core.ingest.manifest import index as index_file
from depth_core.ingest.manifest.batch_file import BatchFile, grouped
from depth_core.ingest.manifest.index import Index, Integers
from depth_core.ingest.manifest.matching import Match, digests_of, match
from depth_core.ingest.manifest.rows import BATCH, COLUMNS, Rows, frugal
from depth_core.storage import Store

_WRITERS = 16  # chunks written at once
_WINDOW = 20_000  # rows of changed chunks that are cut up at once
_MOST_WINDOWS = 256
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


class ManifestRows:
    """A manifest as it was read; its rows are on disk, or in a frame.

    Columns: line (int64, counted from 1, header included; for Parquet the row's number), row_id ("" if none), image_url (as
    written, "" if missing), carried (JSON object of every other column), error_kind and error_message (missing for a row that
    could be read; else the message names file and line).
    """

    def __init__(self, uri: str, sha256: str, rows: Rows | pd.DataFrame) -> None:
        self.uri = uri
        self.sha256 = sha256
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def frame(self) -> pd.DataFrame:
        """All rows in memory: for manifests that are known to be small."""
        return self._rows if isinstance(self._rows, pd.DataFrame) else self._rows.frame()

    @property
    def bad_rows(self) -> int:
        """Rows that could not be read."""
        return int(self._rows["error_kind"].notna().sum()) if isinstance(self._rows, pd.DataFrame) else self._rows.bad_rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, some thousand at a time; text as Arrow's large_string."""
        if isinstance(self._rows, pd.DataFrame):
            table = pa.table({name: _column(self._rows[name]) for name in COLUMNS})
            return iter(table.combine_chunks().to_batches(BATCH))
        return self._rows.batches()


def _column(series: pd.Series[Any]) -> pa.ChunkedArray:
    array = pa.array(series, None if pd.api.types.is_integer_dtype(series.dtype) else _TEXT, from_pandas=True)
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


# -- which row is in which chunk ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChunkAssignment:
    """Which row is in which chunk.

    `names`: all chunks, in order of first sight. `changed`: keys of those whose rows are not what the index said, new chunks
    included, sorted. `chunks`: the rows of each changed chunk, in the manifest's order, with CHUNK_COLUMNS; each is made when it
    is asked for, quickest in their order. `rows_per_chunk`: with which it was made.
    """

    names: list[str]
    changed: list[str]
    chunks: Mapping[str, pd.DataFrame]
    rows_per_chunk: int
    _rows: ManifestRows
    _match: Match

    @cached_property
    def index(self) -> Index:
        """For the next time."""
        return Index.written(self._indexed(), self.rows_per_chunk)

    @property
    def has_new_index(self) -> bool:
        """Whether `index` says something else than that of the last time."""
        return bool(self.changed) or self._match.index.rows_per_chunk != self.rows_per_chunk

    def _indexed(self) -> Iterator[pa.RecordBatch]:
        yield from self._match.known_rows()
        names = pa.array(self.names, _TEXT)
        for start, batch in _with_places(self._rows.batches()):
            part = slice(start, start + len(batch))
            fresh = self._match.is_new[part]
            if fresh.any():
                mask, keys = pa.array(fresh), self._match.keys(batch, start)
                chunks = names.take(pa.array(self._match.chunks[part][fresh]))
                yield index_file.rows_of(keys.filter(mask), chunks, digests_of(batch.filter(mask)))


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
    known = Index.empty() if previous is None else previous
    found = match(rows.batches(), len(rows), known)
    counts = known.rows_by_chunk()
    number = {name: n for n, name in enumerate(counts)}
    last = max(map(layout.number_of_chunk, counts), default=0)
    first_name = layout.chunk_key(slug, last)
    room = max(0, rows_per_chunk - counts.get(first_name, 0))
    fresh = int(np.count_nonzero(found.is_new))
    in_first = min(fresh, room)
    if in_first:
        number.setdefault(first_name, len(number))
    beyond = -(-(fresh - in_first) // rows_per_chunk)
    base = len(number)
    number |= {layout.chunk_key(slug, last + 1 + n): base + n for n in range(beyond)}
    _number(found, number.get(first_name, 0), room, base, rows_per_chunk)

    names = list(number)
    altered = np.zeros(len(names), bool)
    altered[: len(found.altered)] = found.altered
    altered[base:] = True
    altered[[number[name] for name in (set(again) & set(counts)) | ({first_name} if in_first else set())]] = True
    changed = sorted(names[n] for n in np.flatnonzero(altered))
    return ChunkAssignment(names, changed, _Chunks(rows, found, changed, number), rows_per_chunk, rows, found)


def _number(found: Match, first: int, room: int, base: int, rows_per_chunk: int) -> None:
    """Gives new rows their chunks, by place: they fill chunk `first`, which has room for so many, then those from `base` on."""
    seen = 0
    for start in range(0, len(found.chunks), BATCH):
        part, fresh = found.chunks[start : start + BATCH], found.is_new[start : start + BATCH]
        beyond = np.arange(seen - room, seen - room + np.count_nonzero(fresh))
        part[fresh] = np.where(beyond < 0, first, base + beyond // rows_per_chunk)
        seen += len(beyond)


def _with_places(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Each batch with the place of its first row."""
    start = 0
    for batch in batches:
        yield start, batch
        start += len(batch)


class _Chunks(Mapping[str, pd.DataFrame]):
    """The rows of the changed chunks. They are spread by chunk over windows on disk; one window is in memory."""

    def __init__(self, rows: ManifestRows, found: Match, changed: list[str], number: Mapping[str, int]) -> None:
        self._rows, self._match, self._chunks, self._changed = rows, found, found.chunks, changed
        self._rank = {name: rank for rank, name in enumerate(changed)}
        self._rank_of = np.full(len(number), -1, np.int32)
        self._rank_of[[number[name] for name in changed]] = np.arange(len(changed), dtype=np.int32)
        self._loaded: tuple[int, pa.Table, npt.NDArray[np.int32]] | None = None

    def __getitem__(self, chunk: str) -> pd.DataFrame:
        rank = np.int32(self._rank[chunk])
        table, ranks = self._window(int(self._window_of[rank]))
        start, stop = np.searchsorted(ranks, (rank, rank + np.int32(1)))
        rows = table.slice(start, stop - start)
        added = {
            "chunk": pa.array([chunk] * len(rows), _TEXT),
            "position": np.arange(len(rows), dtype=np.int32),
            "file": pa.array([self._rows.uri] * len(rows), _TEXT),
        }
        frame: pd.DataFrame = pa.table({name: added[name] if name in added else rows[name] for name in CHUNK_COLUMNS}).to_pandas()
        return frame

    def __iter__(self) -> Iterator[str]:
        return iter(self._changed)

    def __len__(self) -> int:
        return len(self._changed)

    @cached_property
    def _window_of(self) -> Integers:
        """The window of each changed chunk, by rank."""
        rows = np.zeros(len(self._changed), np.int64)
        for start in range(0, len(self._chunks), BATCH):
            ranks = self._rank_of[self._chunks[start : start + BATCH]]
            rows += np.bincount(ranks[ranks >= 0], minlength=len(rows))
        before = np.cumsum(rows) - rows
        return before // max(_WINDOW, -(-int(rows.sum()) // _MOST_WINDOWS))

    @cached_property
    def _windows(self) -> BatchFile:
        file = BatchFile(_OF_WINDOW, int(self._window_of.max(initial=0)) + 1)
        for start, batch in _with_places(grouped(self._rows.batches())):
            ranks = self._rank_of[self._chunks[start : start + len(batch)]]
            if (ranks >= 0).any():
                columns = [*(batch[name] for name in COLUMNS), self._match.keys(batch, start), pa.array(ranks)]
                windows = np.where(ranks < 0, -1, self._window_of[ranks])
                file.append_split(pa.RecordBatch.from_arrays(columns, schema=_OF_WINDOW), windows)
        return file

    def _window(self, window: int) -> tuple[pa.Table, npt.NDArray[np.int32]]:
        if self._loaded is None or self._loaded[0] != window:
            self._loaded = None
            table = self._windows.table(window).combine_chunks()
            ranks = table["rank"].to_numpy()
            if (np.diff(ranks) < 0).any():  # chunk after chunk, in each of them in the manifest's order
                order = np.argsort(ranks, kind="stable")
                table, ranks = table.take(pa.array(order)), ranks[order]
            self._loaded = window, table, ranks
        return self._loaded[1:]


_OF_WINDOW = pa.schema([("line", pa.int64()), *((name, _TEXT) for name in COLUMNS[1:]), ("row_key", _TEXT), ("rank", pa.int32())])


# -- the store ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What the last index run changed, or was about to change when it died."""

    run_id: str
    chunks: tuple[str, ...]


@frugal()
def write_chunks(
    store: Store,
    slug: str,
    assignment: ChunkAssignment,
    rows: ManifestRows,
    *,
    run_id: str,
    confirm: Callable[[], object] = lambda: None,
) -> None:
    """Writes the changed chunks, then the index if it changed, then the manifest's facts.

    A note with the run's id and the chunks that are about to change is written first, and stays (`last_change`). If that run did
    not finish and report its changes, the caller passes the note's chunks to `assign_chunks` as `again`: what the run left half
    written is then written again, and what it did not report is reported by the next run.

    `confirm` makes sure that nobody else writes this manifest. It is called just before each write, from many threads, and after
    the last one. What it raises ends the writing: then another run may have written the same files, and what this one wrote of
    the changed chunks may be newer than that run's. Whoever goes on reads the index again, with these chunks as `again`.
    """
    note = {"run_id": run_id, "chunks": assignment.changed}
    confirm()
    store.write(layout.manifest_change_key(slug), json.dumps(note).encode(), content_type="application/json")
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(_WRITERS) as pool:
        for chunk in assignment.changed:  # encoded here: in many threads Arrow keeps memory for each
            data = parquet.encode_frame(assignment.chunks[chunk])
            waiting.append(pool.submit(_write_chunk, store, chunk, data, confirm))
            if len(waiting) > 2 * _WRITERS:
                waiting.popleft().result()
        for written in waiting:
            written.result()
    if assignment.has_new_index:
        file = assignment.index.file()  # made before the lease is confirmed: it takes long
        confirm()
        parquet.write_file(store, layout.manifest_index_key(slug), file)
    facts = {
        "uri": rows.uri,
        "sha256": rows.sha256,
        "rows": len(rows),
        "bad_rows": rows.bad_rows,
        "chunks": len(assignment.names),
        "rows_per_chunk": assignment.rows_per_chunk,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    confirm()
    store.write(layout.manifest_facts_key(slug), json.dumps(facts, indent=2).encode(), content_type="application/json")
    confirm()


def _write_chunk(store: Store, chunk: str, data: memoryview, confirm: Callable[[], object]) -> None:
    confirm()
    parquet.write_encoded(store, layout.chunk_rows_key(chunk), data)


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
    file = store.copy_or_none(layout.manifest_index_key(slug))
    return None if file is None else Index(file)


def find_rows(store: Store, slug: str, matches: Callable[[pa.Array], pa.Array]) -> Iterator[tuple[str, str]]:
    """Row key and chunk of each row of a manifest whose key matches, as the last index run left it; see `index.find`."""
    file = store.copy_or_none(layout.manifest_index_key(slug))
    if file is not None:
        with file:
            yield from index_file.find(file, matches)


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
