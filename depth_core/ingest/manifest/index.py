"""The index of a manifest: which chunk each row is in, and what it said when it was last read. A file, read in batches: it has as
many rows as its manifest ever had.

What does not belong here: which rows get which chunk (matching.py, chunks.py).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import cached_property
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from depth_core import parquet
from depth_core.ingest.manifest import batch_file

GONE = np.uint64(0)  # digest of a row that the manifest no longer has; it keeps its place
_SLICE = 10_000  # rows that are Python objects at once
_ROW_GROUP = 50_000  # of a Parquet file: what its reader and writer hold at once
_TEXT = pa.large_string()
_ROWS_PER_CHUNK = "depthline.rows_per_chunk"  # in the metadata of the file

Integers = npt.NDArray[np.integer[Any]]


class Part(NamedTuple):
    """Some rows of an index.

    `keys`: large_string. `chunks`: int32, places in the index's `names`. `digests`: uint64 of what the row says, GONE for one
    that is gone.
    """

    keys: pa.Array
    chunks: Integers
    digests: Integers


class Index:
    """Every row that the manifest has or ever had, in order of first sight: the file that the store has, open for reading.

    Its columns: row_key, chunk, digest (16 hex digits, "" for a row that is gone).
    """

    def __init__(self, file: BinaryIO) -> None:
        """`file`: a Parquet file, which is closed with this object. Raises ArrowException when it is none."""
        weakref.finalize(self, file.close)
        self._file = file
        self._rows, metadata = parquet.facts_of(file)
        self.rows_per_chunk = int(metadata.get(_ROWS_PER_CHUNK.encode(), 0))  # with which it was made; 0: by an earlier version

    @classmethod
    def empty(cls) -> Self:
        return cls.written(iter(()), 0)

    @classmethod
    def written(cls, batches: Iterator[pa.RecordBatch], rows_per_chunk: int) -> Self:
        """A new index of batches with columns as SCHEMA, in a temporary file. Raises ManifestError when
        that has no room."""
        file = batch_file.temporary_file()
        with batch_file.clear_errors():
            schema = SCHEMA.with_metadata({_ROWS_PER_CHUNK: str(rows_per_chunk)})
            parquet.write_batches(file, batch_file.grouped(batches, _ROW_GROUP), schema)
            file.flush()
        return cls(file)

    @classmethod
    def from_parquet(cls, data: bytes) -> Self:
        return cls(BytesIO(data))

    def to_parquet(self) -> bytes:
        """All of the file."""
        return self.file().read()

    def file(self) -> BinaryIO:
        """The file, at its start."""
        self._file.seek(0)
        return self._file

    def __len__(self) -> int:
        return self._rows

    @property
    def names(self) -> list[str]:
        """Its chunks, in order of first sight."""
        return list(self._counts)

    def rows_by_chunk(self) -> dict[str, int]:
        """How many rows each chunk has, those that are gone among them."""
        return dict(self._counts)

    @cached_property
    def _counts(self) -> dict[str, int]:
        counts = dict[str, int]()
        for batch in self.batches("chunk"):
            for each in pc.value_counts(batch["chunk"]).to_pylist():
                counts[each["values"]] = counts.get(each["values"], 0) + each["counts"]
        return counts

    def batches(self, *columns: str) -> Iterator[pa.RecordBatch]:
        """Its rows as the file has them, some thousand at a time; `columns`: all without any."""
        yield from parquet.iter_batches(self._file, _SLICE, columns or SCHEMA.names)

    def parts(self) -> Iterator[Part]:
        """Its rows, some thousand at a time."""
        numbers = {name: number for number, name in enumerate(self.names)}
        for batch in self.batches():
            named = batch["chunk"].dictionary_encode()
            of_batch = np.array([numbers[name] for name in named.dictionary.to_pylist()], np.int32)
            digests = _from_hex(batch["digest"].to_pylist())
            yield Part(batch["row_key"].cast(_TEXT), of_batch[named.indices.to_numpy()], digests)


SCHEMA = pa.schema([("row_key", _TEXT), ("chunk", _TEXT), ("digest", _TEXT)])


def find(file: BinaryIO, matches: Callable[[pa.Array], pa.Array]) -> Iterator[tuple[str, str]]:
    """Key and chunk of each row of an open index file that the manifest still has and whose key matches.

    `matches`: given keys (large_string), a boolean for each. Holds some thousand rows at once.
    """
    for batch in parquet.iter_batches(file, _SLICE, SCHEMA.names):
        there = pc.and_(matches(batch["row_key"].cast(_TEXT)), pc.not_equal(batch["digest"].cast(_TEXT), ""))
        for row in batch.filter(there).to_pylist():
            yield row["row_key"], row["chunk"]


def rows_of(keys: pa.Array, chunks: pa.Array, digests: Integers) -> pa.RecordBatch:
    """Rows of an index file; `chunks`: their names."""
    return pa.RecordBatch.from_arrays([keys, chunks.cast(_TEXT), pa.array(as_hex(digests), _TEXT)], schema=SCHEMA)


def hashes_of(keys: pa.Array) -> Integers:
    """One int64 for each key, the same for the same key in this process only."""
    hashes = np.empty(len(keys), np.int64)
    for start in range(0, len(keys), _SLICE):
        part = keys[start : start + _SLICE].to_pylist()
        hashes[start : start + len(part)] = np.fromiter(map(hash, part), np.int64, len(part))
    return hashes


def as_hex(digests: Integers) -> list[str]:
    """16 hex digits of each digest, "" for GONE."""
    text = digests.astype(">u8").tobytes().hex()
    return ["" if digest == GONE else text[16 * n : 16 * n + 16] for n, digest in enumerate(digests)]


def _from_hex(texts: list[str]) -> Integers:
    return np.frombuffer(bytes.fromhex("".join(text or "0" * 16 for text in texts)), ">u8").astype(np.uint64)
