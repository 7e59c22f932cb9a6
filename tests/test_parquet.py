"""Parquet files of the store: one compression and content type, metadata, and many files read as one table."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from depth_core import parquet
from depth_core.errors import StoreError
from depth_core.storage import Store

SCHEMA = pa.schema([("name", pa.string()), ("size", pa.int32()), ("seconds", pa.float64())])
TABLE = pa.table({"name": ["a", "b"], "size": [1, 2], "seconds": [0.5, None]}, schema=SCHEMA)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_table_is_read_as_it_was_written(store: Store) -> None:
    parquet.write_table(store, "a.parquet", TABLE, {b"made": b"today"})
    assert parquet.read_table(store, "a.parquet").equals(TABLE)
    assert parquet.read_metadata(store, "a.parquet") == {b"made": b"today"}
    with pytest.raises(FileNotFoundError):
        parquet.read_table(store, "b.parquet")
    assert parquet.read_metadata(store, "b.parquet") is None


def test_a_table_has_no_metadata_but_what_is_asked_for(store: Store) -> None:
    parquet.write_table(store, "a.parquet", TABLE.replace_schema_metadata({b"pandas": b"{}"}))
    assert parquet.read_metadata(store, "a.parquet") == {}


def test_a_frame_keeps_its_dtypes(store: Store) -> None:
    frame = pd.DataFrame({"size": pd.array([1, None], "Int64"), "at": pd.to_datetime(["2026-01-31T00:00:00Z", None])})
    parquet.write_frame(store, "a.parquet", frame)
    read = parquet.read_frame(store, "a.parquet")
    assert read is not None
    pd.testing.assert_frame_equal(read, frame)
    assert parquet.read_frame(store, "b.parquet") is None


def test_every_file_is_compressed_alike(store: Store) -> None:
    parquet.write_table(store, "a.parquet", TABLE)
    parquet.write_frame(store, "b.parquet", TABLE.to_pandas())
    file = BytesIO()
    parquet.write_batches(file, TABLE.to_batches(), SCHEMA)
    parquet.write_file(store, "c.parquet", file)
    columns = [pq.read_metadata(store.path(key)).row_group(0).column(0) for key in ("a.parquet", "b.parquet", "c.parquet")]
    assert {column.compression for column in columns} == {"ZSTD"}


def test_batches_are_read_as_they_were_written(store: Store) -> None:
    file = BytesIO()
    parquet.write_batches(file, TABLE.to_batches(), SCHEMA)
    batches = list(parquet.iter_batches(file, 1, ["size"]))
    assert [batch.to_pydict() for batch in batches] == [{"size": [1]}, {"size": [2]}]


def test_many_files_are_one_table_in_the_order_of_their_keys(store: Store) -> None:
    parquet.write_table(store, "b.parquet", TABLE)
    parquet.write_table(store, "a.parquet", TABLE.select(["size", "name"]))
    found = parquet.scan(store, ["b.parquet", "a.parquet"], SCHEMA, ["size", "seconds"], pc.field("name") == "a")
    assert found.to_pydict() == {"size": [1, 1], "seconds": [0.5, None]}
    assert parquet.scan(store, [], SCHEMA, ["size"], None).schema == SCHEMA.empty_table().select(["size"]).schema


def test_a_file_that_is_gone_or_damaged_is_told_apart(store: Store) -> None:
    parquet.write_table(store, "a.parquet", TABLE)
    store.write("b.parquet", b"PAR1")
    with pytest.raises(FileNotFoundError):
        parquet.scan(store, ["a.parquet", "gone.parquet"], SCHEMA, ["size"], None)
    with pytest.raises(StoreError, match=r"b\.parquet"):
        parquet.scan(store, ["a.parquet", "b.parquet"], SCHEMA, ["size"], None)
