"""The index of a manifest: which chunk each row is in, and what it said when it was last read.

Numbers instead of text where that is possible, since an index has as many rows as its manifest ever had. What does not belong
here: which rows get which chunk (chunks.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from depth_core import parquet

GONE = np.uint64(0)  # digest of a row that the manifest no longer has; it keeps its place
_SLICE = 10_000  # rows that are Python objects at once
_ROW_GROUP = 50_000  # of a Parquet file: what its reader and writer hold at once
_TEXT = pa.large_string()

Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Index:
    """Every row that the manifest has or ever had, in order of first sight.

    `keys`: large_string. `chunks`: int32, places in `names`. `digests`: uint64 of what the row says, GONE for one that is gone.
    `rows_per_chunk`: with which it was made; 0 in an index of earlier versions.
    """

    keys: pa.Array
    names: list[str]
    chunks: Integers
    digests: Integers
    rows_per_chunk: int = 0

    @classmethod
    def empty(cls) -> Index:
        return cls(pa.array([], _TEXT), [], np.empty(0, np.int32), np.empty(0, np.uint64))

    def __len__(self) -> int:
        return len(self.keys)

    def rows_by_chunk(self) -> dict[str, int]:
        """How many rows each chunk has, those that are gone among them."""
        return dict(zip(self.names, np.bincount(self.chunks, minlength=len(self.names)).tolist(), strict=True))

    def places_of(self, keys: pa.Array, hashes: Integers) -> Integers:
        """Where in the index each key is, by its hash; -1 for a key that is not there."""
        if not len(self):
            return np.full(len(keys), -1, np.int32)
        own = hashes_of(self.keys)
        order = np.argsort(own).astype(np.int32)
        own = own[order]
        at = np.minimum(np.searchsorted(own, hashes), len(own) - 1)
        places: Integers = np.where(own[at] == hashes, order[at], np.int32(-1))
        # Two keys of one hash are very rare. A table of all keys needs no hashes, but as much memory as they.
        if (own[1:] == own[:-1]).any() or not self._are_there(keys, places):
            places = pc.fill_null(pc.index_in(keys, value_set=self.keys), -1).to_numpy()
        return places

    def _are_there(self, keys: pa.Array, places: Integers) -> bool:
        slices = (slice(start, start + _SLICE) for start in range(0, len(keys), _SLICE))
        found = ((keys[part], pa.array(places[part], mask=places[part] < 0)) for part in slices)
        return all(pc.all(pc.equal(wanted, self.keys.take(there))).as_py() is not False for wanted, there in found)

    def to_parquet(self) -> memoryview:
        """The file that the store has: row_key, chunk, digest (16 hex digits, "" for a row that is gone)."""
        return parquet.encode_batches(self._batches(), _SCHEMA.with_metadata({_ROWS_PER_CHUNK: str(self.rows_per_chunk)}))

    def _batches(self) -> Iterator[pa.RecordBatch]:
        names = pa.array(self.names, _TEXT)
        for start in range(0, len(self), _ROW_GROUP):
            part = slice(start, start + _ROW_GROUP)
            chunks, digests = names.take(pa.array(self.chunks[part])), pa.array(_as_hex(self.digests[part]), _TEXT)
            yield pa.RecordBatch.from_arrays([self.keys[part], chunks, digests], schema=_SCHEMA)

    @classmethod
    def from_parquet(cls, data: bytes) -> Index:
        keys, chunks, digests, numbers = [], [], [], dict[str, int]()
        for batch in parquet.iter_batches(data, _SLICE, _SCHEMA.names):
            named = batch["chunk"].dictionary_encode()
            of_batch = [numbers.setdefault(name, len(numbers)) for name in named.dictionary.to_pylist()]
            keys.append(batch["row_key"].cast(_TEXT))
            chunks.append(np.array(of_batch, np.int32)[named.indices.to_numpy()])
            digests.append(_from_hex(batch["digest"].to_pylist()))
        if not keys:
            return cls.empty()
        size = int(parquet.metadata_of(data).get(_ROWS_PER_CHUNK.encode(), 0))
        return cls(pa.concat_arrays(keys), list(numbers), np.concatenate(chunks), np.concatenate(digests), size)


def find(data: bytes, matches: Callable[[pa.Array], pa.Array]) -> Iterator[tuple[str, str]]:
    """Key and chunk of each row of an index file that the manifest still has and whose key matches.

    `matches`: given keys (large_string), a boolean for each. Holds some thousand rows at once.
    """
    for batch in parquet.iter_batches(data, _SLICE, _SCHEMA.names):
        there = pc.and_(matches(batch["row_key"].cast(_TEXT)), pc.not_equal(batch["digest"].cast(_TEXT), ""))
        for row in batch.filter(there).to_pylist():
            yield row["row_key"], row["chunk"]


_ROWS_PER_CHUNK = "depthline.rows_per_chunk"  # in the metadata of the file
_SCHEMA = pa.schema([("row_key", _TEXT), ("chunk", _TEXT), ("digest", _TEXT)])


def hashes_of(keys: pa.Array) -> Integers:
    """One int64 for each key, the same for the same key in this process only."""
    hashes = np.empty(len(keys), np.int64)
    for start in range(0, len(keys), _SLICE):
        part = keys[start : start + _SLICE].to_pylist()
        hashes[start : start + len(part)] = np.fromiter(map(hash, part), np.int64, len(part))
    return hashes


def _as_hex(digests: Integers) -> list[str]:
    text = digests.astype(">u8").tobytes().hex()
    return ["" if digest == GONE else text[16 * n : 16 * n + 16] for n, digest in enumerate(digests)]


def _from_hex(texts: list[str]) -> Integers:
    return np.frombuffer(bytes.fromhex("".join(text or "0" * 16 for text in texts)), ">u8").astype(np.uint64)
