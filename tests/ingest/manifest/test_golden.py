"""Manifests that were indexed once are found unchanged: rows, keys, digests, chunks are what version 0.1 made of these files."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from depth_core.ingest import manifest
from depth_core.settings import Settings
from depth_core.storage import Store

HERE = Path(__file__).parents[2] / "data" / "manifests"
SLUG = "golden-00000000"
NAMES = sorted(file.name for file in HERE.iterdir() if ".2." not in file.name and file.name != "expected.json")


def plain(frame: pd.DataFrame) -> dict[str, Any]:
    """A table as JSON has it, with dtypes; the folder's name is taken out of messages."""
    columns = {}
    for name in frame:
        values = [None if pd.isna(value) else value for value in frame[name].tolist()]
        columns[name] = [value.replace(f"{HERE}/", "") if isinstance(value, str) else value for value in values]
    return {"dtypes": {name: str(kind) for name, kind in frame.dtypes.items()}, "columns": columns}


def made_of(name: str, store: Store) -> dict[str, Any]:
    """Everything that indexing a manifest, and then its next version where there is one, leaves in the store."""
    settings = Settings(_env_file=None, max_field_chars=100)  # type: ignore[call-arg]
    stem, _, ending = name.partition(".")
    result: dict[str, Any] = {}
    for version in (name, f"{stem}.2.{ending}"):
        if (HERE / version).exists():
            rows = manifest.read(str(HERE / version), settings)
            assignment = manifest.assign_chunks(rows, manifest.read_index(store, SLUG), slug=SLUG, rows_per_chunk=3)
            manifest.write_chunks(store, SLUG, assignment, rows, run_id="run")
            index = manifest.read_index(store, SLUG)
            assert index is not None
            chunks = {chunk: plain(manifest.read_chunk(store, chunk)) for chunk in sorted(index.names)}
            result[version] = {
                "sha256": rows.sha256,
                "rows": plain(rows.frame),
                "index": plain(pd.read_parquet(BytesIO(index.to_parquet()))),
                "changed": list(assignment.changed),
                "chunks": chunks,
            }
    return result


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_is_what_it_always_was(name: str, store: Store) -> None:
    expected = json.loads((HERE / "expected.json").read_text("utf-8"))
    assert made_of(name, store) == expected[name]
