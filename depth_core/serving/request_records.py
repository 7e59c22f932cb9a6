"""Artworks as records: the same table, with the same columns, as bulk has, under the profile `api`, one chunk a day.

What does not belong here: the records of manifests (output/records.py) and the life of an artwork (artworks/).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa

from depth_core import layout
from depth_core.output import records
from depth_core.output.outcomes import STAGES, image_columns_of
from depth_core.output.record_schema import SCHEMA
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import StoredArtwork
from depth_core.storage import Store


def write_day(artworks: ArtworkStore, store: Store, day: date, *, run_id: str = "") -> pd.DataFrame:
    """Writes the records of the artworks that ended on a day, whatever was there before; returns them. Raises StoreError."""
    start = datetime.combine(day, time(), UTC)
    table = frame(
        artworks.finished_between(start, start + timedelta(days=1)), store, chunk=layout.request_chunk(day), run_id=run_id
    )
    records.write(store, table, layout.API_PROFILE, layout.request_chunk(day))
    return table


def frame(artworks: Sequence[StoredArtwork], store: Store, *, chunk: str, run_id: str = "") -> pd.DataFrame:
    """One record per artwork, in the order given; columns as `record_schema.COLUMNS`."""
    rows = [_row(artwork, store, chunk, position, run_id) for position, artwork in enumerate(artworks)]
    return records.to_frame(pa.Table.from_pylist(rows, schema=SCHEMA))


def _row(artwork: StoredArtwork, store: Store, chunk: str, position: int, run_id: str) -> dict[str, Any]:
    outcome = artwork.outcome or {}
    seconds = outcome.get("seconds") or {}
    return image_columns_of(outcome) | {
        "id": str(artwork.id),
        "artwork_type": "depth_map",
        "status": artwork.status.value,
        "parameters": json.dumps(artwork.parameters | {"imageUrl": artwork.image_url}),
        "results": [store.url(layout.file_key(artwork.folder, name)) for name in artwork.results],
        "duration": artwork.duration,
        "created_at": artwork.created_at,
        "finished_at": artwork.finished_at,
        "error_kind": artwork.error_kind,
        "error_message": artwork.error_message,
        "image_url": artwork.image_url,
        "row_id": artwork.api_key_id,
        "row_key": str(artwork.id),
        "manifest": artwork.source,
        "file": artwork.source,
        "line": None,
        "chunk": chunk,
        "position": position,
        "profile": layout.API_PROFILE,
        "source_sha256": outcome.get("source_sha256") or None,
        "source_bytes": None,
        "seconds_download": seconds.get("download"),
        **{f"seconds_{stage}": seconds.get(stage) for stage in STAGES},
        "attempts": artwork.attempts,
        "reused": bool(outcome.get("reused")),
        "folder": artwork.folder or None,
        "run_id": run_id,
        layout.EXTRA_COLUMNS: json.dumps({"worker": artwork.worker} if artwork.worker else {}),
    }
