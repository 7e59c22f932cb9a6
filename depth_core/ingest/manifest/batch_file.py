"""Record batches on disk: what is as large as a manifest is not held in memory. Nothing here knows what the columns mean."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from depth_core.errors import ManifestError

_CODEC = "lz4"
GROUP = 20_000  # rows that `grouped` puts together


class BatchFile:
    """Record batches in a temporary file, in parts; the file goes with this object. One batch at a time is in memory.

    Making and writing it raise ManifestError when the folder of temporary files has no room.
    """

    def __init__(self, schema: pa.Schema, parts: int = 1) -> None:
        self.schema = schema
        self.rows = 0
        self._file = temporary_file()
        weakref.finalize(self, _close, self._file)
        self._end = 0
        self._places: list[list[tuple[int, int, int]]] = [[] for _ in range(parts)]  # offset, bytes, bytes when unpacked

    def append(self, batch: pa.RecordBatch, part: int = 0) -> None:
        """Adds a batch behind the others of its part."""
        plain = batch.serialize()
        packed = pa.compress(plain, codec=_CODEC)
        with clear_errors():
            self._file.seek(self._end)
            self._file.write(packed)
            self._file.flush()
        self._places[part].append((self._end, packed.size, plain.size))
        self._end += packed.size
        self.rows += len(batch)

    def batches(self, part: int = 0) -> Iterator[pa.RecordBatch]:
        """The batches of a part, in the order in which they came."""
        for offset, packed, plain in self._places[part]:
            self._file.seek(offset)
            data = pa.decompress(self._file.read(packed), decompressed_size=plain, codec=_CODEC)
            yield pa.ipc.read_record_batch(data, self.schema)

    def table(self, part: int = 0) -> pa.Table:
        """All of a part."""
        return pa.Table.from_batches(self.batches(part), self.schema)

    def append_split(self, batch: pa.RecordBatch, parts: npt.NDArray[np.integer]) -> None:
        """Adds each row to its part, in order; rows whose part is negative are left out."""
        order = np.argsort(parts, kind="stable")
        ordered = parts[order]
        first = int(np.searchsorted(ordered, 0))
        taken, ordered = batch.take(pa.array(order[first:])), ordered[first:]
        numbers, starts = np.unique(ordered, return_index=True)
        for number, start, stop in zip(numbers.tolist(), starts, [*starts[1:], len(ordered)][: len(numbers)], strict=True):
            self.append(taken.slice(start, stop - start), number)


def temporary_file() -> BinaryIO:
    """An open file without a name. Raises ManifestError when it cannot be made."""
    with clear_errors():
        return cast(BinaryIO, tempfile.TemporaryFile(prefix="depthline-"))


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turns errors of writing a temporary file into ManifestError."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        place = f" in {tempfile.tempdir}" if tempfile.tempdir else ""  # None: no folder can be written
        raise ManifestError(f"cannot write a temporary file{place}: {why}; set TMPDIR to a folder with room") from error


def _close(file: BinaryIO) -> None:
    with suppress(OSError):  # what could not be written is written again when a file is closed
        file.close()


def grouped(batches: Iterable[pa.RecordBatch], least: int | None = None) -> Iterator[pa.RecordBatch]:
    """The same rows in larger batches, of at least `least` rows (GROUP by default), but for the last."""
    least = GROUP if least is None else least
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += len(batch)
        if rows >= least:
            group, waiting, rows = pa.concat_batches(waiting), [], 0
            yield group
            del group  # two of them are never in memory
    if rows:
        yield pa.concat_batches(waiting)
