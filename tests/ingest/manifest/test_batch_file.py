"""Record batches on disk come back as they were, part by part, and a full disk is named with its cure."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from depth_core.errors import ManifestError
from depth_core.ingest.manifest import batch_file
from depth_core.ingest.manifest.batch_file import BatchFile
from depth_core.ingest.manifest.index import Index

SCHEMA = pa.schema([("n", pa.int64()), ("name", pa.large_string())])


def batch(*numbers: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([numbers, [f"é{n}" if n else None for n in numbers]], schema=SCHEMA)


def test_batches_come_back_in_their_order_also_slices_and_empty_ones() -> None:
    file = BatchFile(SCHEMA)
    for each in (batch(1, 0, 3), batch(), batch(4, 5, 6).slice(1, 1)):
        file.append(each)
    assert [each.to_pydict() for each in file.batches()] == [
        batch(1, 0, 3).to_pydict(),
        batch().to_pydict(),
        batch(5).to_pydict(),
    ]
    assert file.rows == 4
    assert file.table().column("n").to_pylist() == [1, 0, 3, 5]


def test_rows_are_split_over_parts_in_order_and_negative_parts_are_left_out() -> None:
    file = BatchFile(SCHEMA, parts=3)
    file.append_split(batch(1, 2, 3, 4, 5), np.array([2, 0, -1, 2, 0]))
    file.append_split(batch(6, 7), np.array([-1, -1]))
    file.append_split(batch(8), np.array([0]))
    assert [file.table(part).column("n").to_pylist() for part in range(3)] == [[2, 5, 8], [], [1, 4]]


def test_batches_are_put_together_and_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_file, "GROUP", 3)
    grouped = batch_file.grouped([batch(1), batch(2, 3), batch(4)])
    assert [each.column("n").to_pylist() for each in grouped] == [[1, 2, 3], [4]]


def test_a_full_disk_is_an_error_that_names_the_folder_and_the_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(batch_file.tempfile, "tempdir", str(tmp_path))
    file = BatchFile(SCHEMA)
    assert os.listdir(tmp_path) == []  # nothing stays of it, however the process ends
    monkeypatch.setattr(batch_file.tempfile, "TemporaryFile", lambda **_: Path("/dev/full").open("w+b"))  # noqa: SIM115
    file = BatchFile(SCHEMA)
    message = rf"temporary file in {tmp_path}: No space left on device; set TMPDIR"
    with pytest.raises(ManifestError, match=message):
        file.append(batch(1))
    with pytest.raises(ManifestError, match=message):
        Index.empty()


def test_without_a_folder_for_temporary_files_the_error_names_the_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(batch_file.tempfile, "tempdir", str(tmp_path / "gone"))
    for make in (lambda: BatchFile(SCHEMA), Index.empty):
        with pytest.raises(ManifestError, match="gone: No such file or directory; set TMPDIR"):
            make()
