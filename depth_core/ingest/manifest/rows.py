"""What all formats of a manifest share: columns of rows as they are being read, names of columns, cells as JSON.

Rows become Arrow columns, a batch at a time, and go to disk: a million of them as Python objects take over a gigabyte. What does
not belong here: how a format is read (formats.py, delimited.py, parquet.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pandas as pd
import pyarrow as pa

from depth_core import layout
from depth_core.display import shown_text
from depth_core.errors import ErrorKind, ManifestError, row_failure
from depth_core.ingest.manifest.batch_file import BatchFile

URL_COLUMNS = ("image_url", "imageUrl", "url")  # the first that is there counts
ID_COLUMN = "id"
BATCH = 5000  # rows that are Python objects at once
_UNREADABLE = re.compile("[\0\ud800-\udfff]")  # NUL, and what invalid UTF-8 was decoded to
_PRIMES = 20  # repeats of a column's name that get a prime each; further ones a number
_TEXT = pa.large_string()


@contextmanager
def frugal() -> Iterator[None]:
    """Makes Arrow take its memory from the system, and give all of it back at the end; also a decorator.

    Arrow's own pools keep a third as much again.
    """
    before, system = pa.default_memory_pool(), pa.system_memory_pool()
    pa.set_memory_pool(system)
    try:
        yield
    finally:
        pa.set_memory_pool(before)
        system.release_unused()


to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=str).encode


@dataclass(frozen=True)
class Limits:
    """Of a manifest: characters of a field, rows, and bytes after decompression. Text that is kept may be twice as many."""

    field_chars: int
    rows: int
    bytes: int


class Rows:
    """Columns as they are being read. A row that could not be read has an error: why."""

    def __init__(self, uri: str, limits: Limits) -> None:
        self.uri = uri
        self.limits = limits
        self._line: list[int] = []
        self._row_id: list[str] = []
        self._image_url: list[str] = []
        self._extra: list[str] = []
        self._errors: dict[int, str] = {}
        self.bad_rows = 0
        self._file = BatchFile(_SCHEMA)
        self._nothing = pa.nulls(0, _TEXT)
        self._rows = 0
        self._bytes = 0

    def add(self, line: int, row_id: str = "", image_url: str = "", extra: str = "{}", error: str = "") -> None:
        """One row; `line` is counted from 1."""
        if error:
            self._errors[len(self._line)] = error
        self._line.append(line)
        self._row_id.append(row_id)
        self._image_url.append(image_url)
        self._extra.append(extra)
        if len(self._line) >= BATCH:
            self._flush()

    def extend(
        self,
        line: Sequence[int],
        row_id: Sequence[str],
        image_url: Sequence[str],
        extra: Sequence[str],
        errors: Mapping[int, str],
    ) -> None:
        """Many rows; `errors` by position in these."""
        start = len(self._line)
        self._errors |= {start + n: error for n, error in errors.items()}
        self._line += line
        self._row_id += row_id
        self._image_url += image_url
        self._extra += extra
        if len(self._line) >= BATCH:
            self._flush()

    def finished(self) -> Rows:
        """These rows, when all were added. Raises ManifestError when they are more than the limits allow."""
        self._flush()
        return self

    def __len__(self) -> int:
        return self._file.rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, some thousand at a time, with the columns of ManifestRows."""
        return self._file.batches()

    def frame(self) -> pd.DataFrame:
        """All rows in memory."""
        frame: pd.DataFrame = self._file.table().to_pandas()
        return frame

    def _flush(self) -> None:
        """Turns pending rows into Arrow. A cell that cannot be stored as text is replaced, and its row has an error."""
        count = len(self._line)
        self._rows += count
        if self._rows > self.limits.rows:
            raise too_many_rows(self.uri, self.limits)
        for cells in (self._row_id, self._image_url, self._extra):
            if _UNREADABLE.search("".join(cells)):
                for n, cell in enumerate(cells):
                    if _UNREADABLE.search(cell):
                        self._errors.setdefault(n, "has a NUL byte or is not valid UTF-8; save the manifest as UTF-8")
                        cells[n] = _UNREADABLE.sub("\N{REPLACEMENT CHARACTER}", cell)
        for n in self._errors:
            self._image_url[n] = self._image_url[n][: self.limits.field_chars]
            self._row_id[n] = self._row_id[n][: self.limits.field_chars]
        arrays = [pa.array(self._line, pa.int64())]
        arrays += [pa.array(cells, _TEXT) for cells in (self._row_id, self._image_url, self._extra)]
        arrays += self._error_columns(count)
        self._bytes += sum(array.nbytes for array in arrays[1:4])
        if self._bytes > 2 * self.limits.bytes:
            raise ManifestError(
                f"the rows of {self.uri} take more than {2 * self.limits.bytes:,} bytes of memory, twice "
                "DEPTH_MAX_MANIFEST_BYTES; split it, or raise that setting"
            )
        self._file.append(pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))
        self.bad_rows += len(self._errors)
        self._line, self._row_id, self._image_url, self._extra, self._errors = [], [], [], [], {}

    def _error_columns(self, count: int) -> list[pa.Array]:
        """Kind and message of each pending row. Batches without errors share one array of nulls."""
        if not self._errors:
            if len(self._nothing) < count:
                self._nothing = pa.nulls(count, _TEXT)
            return [self._nothing.slice(0, count)] * 2
        kinds = [ErrorKind.BAD_ROW.value if n in self._errors else None for n in range(count)]
        messages = [f"{self.uri}:{self._line[n]}: {self._errors[n]}" if n in self._errors else None for n in range(count)]
        return [pa.array(kinds, _TEXT), pa.array(messages, _TEXT)]


COLUMNS = ("line", "row_id", "image_url", layout.EXTRA_COLUMNS, "error_kind", "error_message")
_SCHEMA = pa.schema([(COLUMNS[0], pa.int64()), *((name, _TEXT) for name in COLUMNS[1:])])


def too_many_rows(uri: str, limits: Limits) -> ManifestError:
    return ManifestError(f"{uri} has more than {limits.rows:,} rows (DEPTH_MAX_MANIFEST_ROWS); split it, or raise that setting")


def too_large(uri: str, limit: int) -> ManifestError:
    return ManifestError(f"{uri} is larger than {limit:,} bytes (DEPTH_MAX_MANIFEST_BYTES)")


def too_long(name: object, max_chars: int) -> str:
    """What is wrong with a row that has a field of that name that is too long."""
    return f"its field {str(name)[:80]!r} is longer than {max_chars} characters (DEPTH_MAX_FIELD_CHARS)"


def message_of(error: Exception) -> str:
    """What is wrong with a row that made a library raise. Raises the error again when it is one of the installation."""
    return f"cannot be read: {row_failure(error).message}"


def no_url_column(uri: str, names: str, what: str = "its first line names") -> ManifestError:
    return ManifestError(f"{uri} has no column {' or '.join(URL_COLUMNS)}; {what} {shown_text(names[:1000])}")


def position(names: Sequence[str], *wanted: str) -> int | None:
    """Position of the first wanted column that exists; matched without case when none matches exactly."""
    lower = [name.lower() for name in names]
    as_wanted = (names.index(name) for name in wanted if name in names)
    in_any_case = (lower.index(name.lower()) for name in wanted if name.lower() in lower)
    return next(chain(as_wanted, in_any_case), None)


def distinct(names: Sequence[str]) -> list[str]:
    """Unique names: columns without one get a number, repeated names get primes, after many of them a number."""
    seen: set[str] = set()
    repeats: dict[str, int] = {}
    result = []
    for n, name in enumerate(names, 1):
        name = name or f"column {n}"
        unused, count = name, repeats.get(name, 0)
        while unused in seen:
            count += 1
            unused = name + ("'" * count if count <= _PRIMES else f"'{count}")
        repeats[name] = count
        seen.add(unused)
        result.append(unused)
    return result


def template(names: Sequence[str]) -> str:
    """A format string that `% cells` turns into a JSON object, for cells that are JSON."""
    return "{" + ", ".join(to_json(name).replace("%", "%%") + ": %s" for name in names) + "}"


def as_text(value: Any) -> str:
    """A value as an id or URL: text as it is, others as JSON, whole numbers without a fraction. Raises ValueError."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():  # whole numbers beside a null are floats to many writers
        value = int(value)
    return value.strip() if isinstance(value, str) else to_json(value)
