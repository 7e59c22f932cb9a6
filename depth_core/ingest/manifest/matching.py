"""Which rows of a manifest its index knows, and which of them say something else than before.

Both are spread over parts by the hash of their keys and compared part by part, so that memory is that of one part; for each row
a few bytes stay. What does not belong here: which chunk a new row gets (chunks.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from depth_core import layout
from depth_core.ingest.manifest import index as index_file
from depth_core.ingest.manifest.batch_file import BatchFile, grouped
from depth_core.ingest.manifest.index import GONE, Index, Integers, hashes_of

_PART = 50_000  # rows of a part
_MOST_PARTS = 256
_SLICE = 10_000  # rows that are Python objects at once
_TEXT = pa.large_string()
_IN_DIGEST = ("row_id", "image_url", layout.EXTRA_COLUMNS, "error_kind")
_FURTHER = r"^(id|url)\+\d+:"  # begins the key of a row whose id or URL other rows have before it
_OF_ROWS = pa.schema([("at", pa.int64()), ("key", _TEXT), ("digest", pa.uint64())])
_OF_INDEX = pa.schema([("at", pa.int64()), ("key", _TEXT), ("chunk", pa.int32()), ("digest", pa.uint64())])

_GONE, _SAME, _OTHER = np.uint8(0), np.uint8(1), np.uint8(2)  # of a row of the index


@dataclass
class Match:
    """A manifest's rows beside those of its index.

    `chunks`: int32 for each row of the manifest: the place of its chunk in the index's names, -1 for a new row.
    `is_new`: bool for each of them: whether the index does not know it.
    `altered`: bool for each of these names: whether rows of that chunk came back, went, or say something else.
    """

    chunks: Integers
    is_new: npt.NDArray[np.bool_]
    altered: npt.NDArray[np.bool_]
    index: Index  # that of the last time
    _states: npt.NDArray[np.uint8]  # of each row of the index
    _digests: Integers | None  # of each row of the index, where one says something else than before
    _repeated: Integers  # rows of the manifest whose id or URL others have before them, ascending
    _occurrences: Integers  # which occurrence each of them is

    def keys(self, batch: pa.RecordBatch, start: int) -> pa.Array:
        """The keys of a batch of the manifest's rows: `id:ID` or `url:URL`; for further occurrences of the same, `id+2:ID` and so
        on. `start`: the place of the first."""
        keys = _base_keys(batch)
        first, last = np.searchsorted(self._repeated, (start, start + len(batch)))
        if first == last:
            return keys
        occurrences = np.ones(len(keys), np.int64)
        occurrences[self._repeated[first:last] - start] = self._occurrences[first:last]
        return _named(keys, occurrences)

    def known_rows(self) -> Iterator[pa.RecordBatch]:
        """The rows of the index as they are from here on, for its next file."""
        at = 0
        for batch in self.index.batches():
            part = slice(at, at + len(batch))
            at += len(batch)
            states = self._states[part]
            digests = pc.if_else(pa.array(states == _GONE), pa.scalar("", _TEXT), batch["digest"].cast(_TEXT))
            if self._digests is not None and (states == _OTHER).any():
                texts = pa.array(index_file.as_hex(self._digests[part]), _TEXT)
                digests = pc.if_else(pa.array(states == _OTHER), texts, digests)
            columns = [batch["row_key"].cast(_TEXT), batch["chunk"].cast(_TEXT), digests]
            yield pa.RecordBatch.from_arrays(columns, schema=index_file.SCHEMA)


def match(batches: Iterable[pa.RecordBatch], count: int, index: Index) -> Match:
    """Compares the `count` rows of a manifest, which come in batches, with its index.

    A row is the same row as before when its id is, or, without one, its URL and which occurrence of that URL it is.
    """
    parts = max(1, min(_MOST_PARTS, max(count, len(index)) // _PART))
    rows, known = BatchFile(_OF_ROWS, parts), BatchFile(_OF_INDEX, parts)
    _spread_rows(batches, rows, parts)
    if len(index):
        _spread_index(index, known, parts)
    chunks = np.full(count, -1, np.int32)
    states = np.full(len(index), _GONE, np.uint8)
    digests: Integers | None = None
    altered = np.zeros(len(index.names), bool)
    repeats: list[tuple[Integers, Integers]] = []
    for part in range(parts):
        table = rows.table(part)
        at, keys, said = (table[name].combine_chunks() for name in table.schema.names)
        places, new_digests = at.to_numpy(), said.to_numpy()
        occurrences = _occurrences(keys)
        more = occurrences > 1
        if more.any():
            repeats.append((places[more], occurrences[more]))
        if not len(index):
            continue
        before = known.table(part).combine_chunks()
        there, its_chunks, its_digests = (before[name].to_numpy() for name in ("at", "chunk", "digest"))
        found = pc.fill_null(pc.index_in(_named(keys, occurrences), value_set=before["key"].combine_chunks()), -1).to_numpy()
        hit = found >= 0
        of_hit = found[hit]
        chunks[places[hit]] = its_chunks[of_hit]
        now = np.zeros(len(before), np.uint64)
        now[of_hit] = new_digests[hit]
        altered[its_chunks[now != its_digests]] = True
        other = (now != its_digests) & (now != GONE)
        states[there[of_hit]] = _SAME
        states[there[other]] = _OTHER
        if other.any():
            digests = np.zeros(len(index), np.uint64) if digests is None else digests
            digests[there[other]] = now[other]
    repeated = np.concatenate([each[0] for each in repeats]) if repeats else np.empty(0, np.int64)
    which = np.concatenate([each[1] for each in repeats]) if repeats else np.empty(0, np.int64)
    order = np.argsort(repeated)
    return Match(chunks, chunks < 0, altered, index, states, digests, repeated[order], which[order])


def _spread_rows(batches: Iterable[pa.RecordBatch], file: BatchFile, parts: int) -> None:
    at = 0
    for batch in grouped(batches):
        keys = _base_keys(batch)
        columns = [np.arange(at, at + len(batch)), keys, digests_of(batch)]
        file.append_split(pa.RecordBatch.from_arrays(list(map(pa.array, columns)), schema=_OF_ROWS), hashes_of(keys) % parts)
        at += len(batch)


def _spread_index(index: Index, file: BatchFile, parts: int) -> None:
    at = 0
    for part in index.parts():
        base = pc.replace_substring_regex(part.keys, _FURTHER, r"\1:")
        columns = [np.arange(at, at + len(base)), part.keys, part.chunks, part.digests]
        file.append_split(pa.RecordBatch.from_arrays(list(map(pa.array, columns)), schema=_OF_INDEX), hashes_of(base) % parts)
        at += len(base)


def _base_keys(batch: pa.RecordBatch) -> pa.Array:
    """`id:ID` or `url:URL` of each row."""
    ids, urls = batch["row_id"], batch["image_url"]
    has_id = pc.not_equal(ids, "")
    kinds = pc.if_else(has_id, pa.scalar("id", _TEXT), pa.scalar("url", _TEXT))
    return pc.binary_join_element_wise(kinds, pc.if_else(has_id, ids, urls), pa.scalar(":", _TEXT))


def _occurrences(keys: pa.Array) -> Integers:
    """Which occurrence of its key each row is, from 1."""
    codes = keys.dictionary_encode().indices.to_numpy()
    counted: Integers = pd.Series(codes).groupby(codes).cumcount().to_numpy() + 1
    return counted


def _named(keys: pa.Array, occurrences: Integers) -> pa.Array:
    """The keys with the occurrence where that is not the first."""
    places = np.flatnonzero(occurrences > 1)
    if not len(places):
        return keys
    named = [key.partition(":") for key in keys.take(pa.array(places)).to_pylist()]
    others = pa.array([f"{kind}+{n}:{name}" for (kind, _, name), n in zip(named, occurrences[places], strict=True)], _TEXT)
    return pc.replace_with_mask(keys, pa.array(occurrences > 1), others)


def digests_of(batch: pa.RecordBatch) -> Integers:
    """A number (uint64, not GONE) of what each row says. Not of its line, nor of a message that names the line."""
    digests = np.empty(len(batch), np.uint64)
    for start in range(0, len(batch), _SLICE):
        part = batch.slice(start, _SLICE)
        columns = (pc.fill_null(part[name], "").to_pylist() for name in _IN_DIGEST)
        texts = map("\0".join, zip(*columns, strict=True))
        packed = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
        digests[start : start + len(part)] = np.frombuffer(packed, ">u8")
    digests[digests == GONE] = 1
    return digests
