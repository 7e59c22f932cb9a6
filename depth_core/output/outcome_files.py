"""The file that has all outcomes of a chunk. What an outcome is: outcomes.py."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from depth_core import layout, parquet
from depth_core.contract import DepthParameters
from depth_core.output.outcomes import KIND_IN_FILES, Kind, Outcome, outcome_from_files, outcome_to_files
from depth_core.storage import Store

ARROW_TYPE = {
    Kind.TEXT: pa.string(),
    Kind.INTEGER: pa.int32(),
    Kind.NUMBER: pa.float64(),
    Kind.FLAG: pa.bool_(),
    Kind.TEXTS: pa.list_(pa.string()),
    Kind.NUMBERS: pa.list_(pa.float64()),
    Kind.NUMBER_BY_NAME: pa.map_(pa.string(), pa.float64()),
}
_SCHEMA = pa.schema([(name, ARROW_TYPE[kind]) for name, kind in KIND_IN_FILES.items()])
_PARAMETERS = b"parameters"  # where the file's metadata have them


def write_outcomes(store: Store, profile: str, chunk: str, outcomes: Iterable[Outcome], *, parameters: DepthParameters) -> str:
    """Writes all outcomes of a chunk, and the parameters that they were made with, as one file, and returns its key.

    Raises StoreError; the old file then stays.
    """
    rows = [outcome_to_files(outcome) | {"seconds": list(outcome.seconds.items())} for outcome in outcomes]
    metadata = {_PARAMETERS: json.dumps(parameters.as_api()).encode()}
    key = layout.outcomes_key(profile, chunk)
    parquet.write_table(store, key, pa.Table.from_pylist(rows, schema=_SCHEMA), metadata)
    return key


def read_outcomes(store: Store, profile: str, chunk: str) -> dict[str, Outcome]:
    """The outcomes of a chunk by source sha256; empty when it never came to its end. Raises StoreError."""
    try:
        rows = parquet.read_table(store, layout.outcomes_key(profile, chunk)).to_pylist()
    except FileNotFoundError:
        return {}
    outcomes = (outcome_from_files({**row, "seconds": dict(row["seconds"])}) for row in rows)
    return {outcome.source_sha256: outcome for outcome in outcomes}


def read_parameters(store: Store, profile: str, chunk: str) -> dict[str, Any] | None:
    """What the outcomes of a chunk were made with, in the API's spelling, whatever the profile says by now.

    None when the chunk never came to its end. Raises StoreError.
    """
    metadata = parquet.read_metadata(store, layout.outcomes_key(profile, chunk)) or {}
    return dict(json.loads(metadata[_PARAMETERS])) if _PARAMETERS in metadata else None
