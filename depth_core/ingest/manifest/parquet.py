"""Parquet: rows in batches, each cell converted by itself where its neighbours' conversion fails.

The size after decompression is known from a file's metadata before any of it is read. What does not belong here: what the cells
mean (validation.py).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from depth_core.display import shown_text
from depth_core.errors import ManifestError, is_installation_error
from depth_core.ingest.manifest.rows import (
    ID_COLUMN,
    URL_COLUMNS,
    Limits,
    Rows,
    as_text,
    distinct,
    message_of,
    no_url_column,
    position,
    template,
    to_json,
    too_large,
    too_long,
    too_many_rows,
)

_BUFFER = 1 << 16  # bytes of a column that are read at once
_SIGNATURE = 28  # bytes
_BATCH = 8192  # rows that are converted at once
_CELLS = 1_000_000
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "BYTE_ARRAY": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}  # bytes in memory

_Report = Callable[[int, str], object]  # gets the row's place in its batch, and what is wrong with it


def read(file: BinaryIO, uri: str, limits: Limits) -> Rows:
    """Rows of a Parquet manifest, with the columns of ManifestRows; `line` is the row's number from 1.

    Binary columns are left out. Raises ManifestError when it is no Parquet file, has no column of URLs, or is too large.
    """
    rows = Rows(uri, limits)
    try:
        parquet, wanted = _opened(file, uri, limits)
        at, size = 0, max(1, min(_BATCH, _CELLS // len(wanted)))
        for batch in parquet.iter_batches(size, columns=None if all(wanted) else _names(parquet, wanted), use_threads=False):
            _add(batch, at, rows)
            at += len(batch)
    except ManifestError:
        raise
    except Exception as error:
        if is_installation_error(error):
            raise
        raise ManifestError(f"{uri} is not a readable Parquet file: {shown_text(str(error).strip())[:300]}") from error
    return rows


def _opened(file: BinaryIO, uri: str, limits: Limits) -> tuple[pq.ParquetFile, list[bool]]:
    """The file, and which columns are read."""
    parquet = pq.ParquetFile(file)
    if _is_signed(file, parquet.metadata):
        raise ManifestError(f"{uri} has encrypted columns; write it without encryption")
    schema, names = parquet.schema_arrow, parquet.schema_arrow.names
    url_at = position(names, *URL_COLUMNS)
    if url_at is None:
        raise no_url_column(uri, ", ".join(names)[:1000], "its columns:")
    url_type = schema.field(url_at).type
    if pa.types.is_dictionary(url_type):
        url_type = url_type.value_type
    if not (_is_text(url_type) or pa.types.is_null(url_type)):
        raise ManifestError(f"{uri}: its column {names[url_at]} holds {url_type}, not text")
    named = (url_at, position(names, ID_COLUMN))
    wanted = [n in named or not _is_binary(field.type) for n, field in enumerate(schema)]
    if parquet.metadata.num_rows > limits.rows:
        raise too_many_rows(uri, limits)
    if _uncompressed_bytes(parquet, {names[n] for n, read in enumerate(wanted) if read}) > limits.bytes:
        raise too_large(uri, limits.bytes)
    options = {"metadata": parquet.metadata, "pre_buffer": False, "buffer_size": _BUFFER, "page_checksum_verification": True}
    texts = [field.name for field, read in zip(schema, wanted, strict=True) if read and _is_text(field.type)]
    with_long = _with_long_texts(pq.ParquetFile(file, read_dictionary=texts, **options), texts, limits)
    return pq.ParquetFile(file, read_dictionary=with_long, **options), wanted


def _with_long_texts(parquet: pq.ParquetFile, texts: list[str], limits: Limits) -> list[str]:
    """Returns the columns to read as dictionaries: those with a dictionary that holds a text too long for a field, or whose
    texts cannot be seen.

    A long text that millions of rows share is then held once. For other columns a dictionary would take several times the memory.
    """
    found: set[str] = set()
    for number in range(parquet.num_row_groups if texts else 0):
        group = parquet.metadata.row_group(number)
        columns = [group.column(n) for n in range(group.num_columns)]
        packed = {column.path_in_schema for column in columns if column.has_dictionary_page} & set(texts)
        for name in sorted(packed - found):  # one at a time: dictionaries of several columns take more than all rows do later
            batch = next(parquet.iter_batches(1, row_groups=[number], columns=[name], use_threads=False), None)
            for column in [] if batch is None else batch.columns:
                if pa.types.is_dictionary(column.type):
                    longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
                    if len(column.dictionary) < min(2, group.num_rows) or longest > 4 * limits.field_chars:
                        found.add(name)
    return sorted(found)


def _is_signed(file: BinaryIO, metadata: pq.FileMetaData) -> bool:
    """Whether the footer bears the signature of a file with encrypted columns: Arrow ends the process when asked about those."""
    file.seek(-8, io.SEEK_END)
    return bool(int.from_bytes(file.read(4), "little") == metadata.serialized_size + _SIGNATURE)


def _uncompressed_bytes(parquet: pq.ParquetFile, names: set[str]) -> int:
    """Returns the named columns' uncompressed bytes, by the file's metadata: of pages, or of list values where that is more."""
    total = 0
    for group in map(parquet.metadata.row_group, range(parquet.num_row_groups)):
        for n in range(group.num_columns):
            column = group.column(n)
            if column.path_in_schema in names or column.path_in_schema.partition(".")[0] in names:
                repeated = parquet.schema.column(n).max_repetition_level > 0
                values = column.num_values * _WIDTHS.get(column.physical_type, 16) if repeated else 0
                total += max(column.total_uncompressed_size, values)
    return total


def _names(parquet: pq.ParquetFile, wanted: list[bool]) -> list[str] | None:
    """Names of the wanted columns; None, which is all, where names do not tell columns apart."""
    names = parquet.schema_arrow.names
    if len(set(names)) < len(names):
        return None
    return [name for name, read in zip(names, wanted, strict=True) if read]


def _add(batch: pa.RecordBatch, at: int, rows: Rows) -> None:
    """Adds the rows of one batch; `at` were before them."""
    max_chars = rows.limits.field_chars
    names = batch.schema.names
    url_at, id_at = position(names, *URL_COLUMNS), position(names, ID_COLUMN)
    assert url_at is not None
    errors: dict[int, str] = {}

    def cells(n: int, name: str, to_text: Callable[[Any], str]) -> list[str]:
        texts = _cells(_finite(batch.column(n)), name, to_text, max_chars, errors.setdefault)
        if max(map(len, texts), default=0) > max_chars:
            for at, text in enumerate(texts):
                if len(text) > max_chars:
                    errors.setdefault(at, too_long(name, max_chars))
        return texts

    image_url = cells(url_at, names[url_at], lambda value: value.strip() if value else "")
    row_id = cells(id_at, ID_COLUMN, as_text) if id_at is not None else [""] * len(batch)
    every = distinct(names)
    extra_at = [n for n, field in enumerate(batch.schema) if n not in (url_at, id_at) and not _is_binary(field.type)]
    extra_names = [every[n] for n in extra_at]
    encoded = [cells(n, name, _any_to_json) for n, name in zip(extra_at, extra_names, strict=True)]
    objects = template(extra_names)
    extra = [objects % row for row in zip(*encoded, strict=True)] if encoded else ["{}"] * len(batch)
    for n in errors:
        extra[n] = "{}"
    rows.extend(range(at + 1, at + len(batch) + 1), row_id, image_url, extra, errors)


def _cells(column: pa.Array, name: str, to_text: Callable[[Any], str], max_chars: int, report: _Report) -> list[str]:
    """Every cell as text. A cell that cannot be converted is "", and its row has an error."""
    if not (pa.types.is_dictionary(column.type) and _is_text(column.type.value_type)):
        return list(_texts(column, to_text, report))
    # The same text is converted once, whatever the number of its rows, and of one that is too long only what is kept.
    used = pc.unique(column.indices.drop_null())
    values = column.dictionary.take(used)
    long = pc.fill_null(pc.greater(pc.binary_length(values), 4 * max_chars), False)
    of_value: dict[int, str] = {}
    texts = list(_texts(pc.if_else(long, pa.scalar(None, values.type), values), to_text, of_value.setdefault))
    for n in pc.indices_nonzero(long).to_pylist():
        of_value[n] = too_long(name, max_chars)
        texts[n] = to_text(values[n].as_buffer()[: 4 * max_chars].to_pybytes().decode("utf-8", "ignore"))
    places, absent = column.indices.to_pylist(), to_text(None)
    of_place = dict(zip(used.to_pylist(), texts, strict=True))
    if of_value:
        errors = {used[n].as_py(): why for n, why in of_value.items()}
        for n, place in enumerate(places):
            if place in errors:
                report(n, errors[place])
    return [absent if place is None else of_place[place] for place in places]


def _texts(column: pa.Array, to_text: Callable[[Any], str], report: _Report) -> Iterator[str]:
    try:
        yield from list(map(to_text, column.to_pylist()))
    except Exception as error:
        if is_installation_error(error):
            raise
        for n, cell in enumerate(column):
            try:
                yield to_text(_value(cell))
            except Exception as error:  # noqa: BLE001 - the boundary of a row
                report(n, message_of(error))
                yield ""


def _value(cell: pa.Scalar) -> Any:
    """A cell as Python has it; as text where it is beyond Python: bytes that are not UTF-8, a date after the year 9999."""
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        if not _is_text(cell.type):
            raise
        return cell.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
    except Exception:
        if not pa.types.is_temporal(cell.type):
            raise
        try:
            return str(cell.cast(pa.string()).as_py())
        except pa.ArrowException:  # a time zone that is not known here
            return f"{cell.value} ({cell.type})"


def _finite(column: pa.Array) -> pa.Array:
    """NaN and infinity are no JSON values: null stands for them."""
    return pc.if_else(pc.is_finite(column), column, None) if pa.types.is_floating(column.type) else column


def _any_to_json(value: Any) -> str:
    try:
        return to_json(value)
    except (ValueError, TypeError):  # NaN deep inside, or keys that are no text
        return to_json(str(value))


def _is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _is_binary(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(test(kind) for test in tests)
