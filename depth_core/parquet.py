"""Parquet files of the store: their compression, content type and metadata, and reading many of them as one table.

What does not belong here: what the columns mean, and Parquet manifests that strangers wrote (ingest/manifest/parquet.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import BinaryIO, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from depth_core.storage import Store

CONTENT_TYPE = "application/vnd.apache.parquet"
_COMPRESSION: Literal["zstd"] = "zstd"
_BUFFER = 1 << 16  # bytes of a column that are read at once from a large file
_FILES_AHEAD = 8  # of many files: opened before they are needed, as a read from s3 is tens of milliseconds of waiting
_BATCHES_AHEAD = 4


def format_of(columns: Iterable[str]) -> str:
    """A short name of a table's format: another one when its columns are others. `columns`: each as "name type", or its name."""
    return hashlib.sha256("\n".join(columns).encode()).hexdigest()[:8]


# -- one file -----------------------------------------------------------------------------------------------------------------


def write_table(store: Store, key: str, table: pa.Table, metadata: Mapping[bytes, bytes] | None = None) -> None:
    """Writes a table as one file. `metadata`: of the whole file, in place of what the table's schema has.

    Raises StoreError; the old file then stays.
    """
    buffer = BytesIO()
    pq.write_table(table.replace_schema_metadata(dict(metadata) if metadata else None), buffer, compression=_COMPRESSION)
    write_encoded(store, key, buffer.getbuffer())


def read_table(store: Store, key: str, schema: pa.Schema | None = None) -> pa.Table:
    """The table of a file. `schema`: its columns in this order, null where the file lacks one.

    Raises FileNotFoundError when it is not there, StoreError when the store cannot be read, ArrowException for a damaged file.
    """
    return pq.read_table(BytesIO(store.read(key)), schema=schema)


def read_metadata(store: Store, key: str) -> dict[bytes, bytes] | None:
    """The metadata of a whole file; None when it is not there. Raises StoreError."""
    data = store.read_or_none(key)
    return None if data is None else dict(pq.read_schema(BytesIO(data)).metadata or {})


def read_table_and_columns(store: Store, key: str, schema: pa.Schema) -> tuple[pa.Table, list[str]]:
    """The table of a file as `read_table` gives it, and the names of the columns that the file has. Raises as that."""
    data = store.read(key)
    return pq.read_table(BytesIO(data), schema=schema), list(pq.read_schema(BytesIO(data)).names)


def write_frame(store: Store, key: str, frame: pd.DataFrame) -> None:
    """Writes a frame so that `read_frame` gives it back with the same dtypes; without its index. Raises StoreError."""
    write_encoded(store, key, encode_frame(frame))


def read_frame(store: Store, key: str) -> pd.DataFrame | None:
    """The frame of a file; None when it is not there. Raises StoreError."""
    data = store.read_or_none(key)
    return None if data is None else pd.read_parquet(BytesIO(data))


def encode_frame(frame: pd.DataFrame) -> memoryview:
    """The bytes that `write_frame` writes, for `write_encoded` in another thread."""
    buffer = BytesIO()
    frame.to_parquet(buffer, index=False, compression=_COMPRESSION)
    return buffer.getbuffer()


def write_encoded(store: Store, key: str, data: memoryview) -> None:
    """Writes the bytes of a Parquet file. Raises StoreError."""
    store.write(key, data, content_type=CONTENT_TYPE)


# -- a file that is too large to be in memory as a table ----------------------------------------------------------------------


def write_batches(file: BinaryIO, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
    """Writes one batch after the other, each a row group, into an open file."""
    with pq.ParquetWriter(file, schema, compression=_COMPRESSION) as writer:
        for batch in batches:
            writer.write_batch(batch)


def iter_batches(file: BinaryIO, rows: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of an open file, so many at a time."""
    opened = pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
    yield from opened.iter_batches(rows, columns=list(columns), use_threads=False)  # each thread keeps memory


def facts_of(file: BinaryIO) -> tuple[int, dict[bytes, bytes]]:
    """Number of rows and metadata of an open file. Raises ArrowException when it is no Parquet file."""
    opened = pq.ParquetFile(file)
    return opened.metadata.num_rows, dict(opened.metadata.metadata or {})


def write_file(store: Store, key: str, file: BinaryIO) -> None:
    """Writes all of an open Parquet file. Raises StoreError."""
    store.write_file(key, file, content_type=CONTENT_TYPE)


# -- many files ---------------------------------------------------------------------------------------------------------------


def scan(store: Store, keys: Sequence[str], schema: pa.Schema, columns: Sequence[str], rows: ds.Expression | None) -> pa.Table:
    """The columns of many files as one table, in the order of `keys`; only rows for which the expression `rows` holds.

    Files are read as `schema`, whatever the order of their columns, null where one lacks a column. Other columns are not read,
    and no more than a few files are in memory at once. Raises FileNotFoundError when a file is gone, StoreError when the store
    cannot be read or a file is damaged.
    """
    if not keys:
        return schema.empty_table().select(list(columns))
    with store.clear_errors("read", keys[0] if len(keys) == 1 else ""):
        files = ds.dataset([store.path(key) for key in keys], schema=schema, format="parquet", filesystem=store.fs)
        return files.to_table(columns=list(columns), filter=rows, fragment_readahead=_FILES_AHEAD, batch_readahead=_BATCHES_AHEAD)
