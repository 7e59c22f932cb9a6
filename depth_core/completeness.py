"""Whether a chunk is complete under a profile, and if not, why: asked of the store alone, by whoever wants to know.

Complete means that another run would find nothing to do and change nothing. What does not belong here: making what is missing
(engine/, ingest/), and what Dagster knows of the runs that made it (pipelines/materialize).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import pandas as pd
import pyarrow as pa

from depth_core import layout
from depth_core.contract import DepthParameters
from depth_core.engine import chunk as chunk_engine
from depth_core.engine.chunk_context import Source
from depth_core.errors import ManifestError
from depth_core.inference.checkpoints import Checkpoint
from depth_core.ingest import manifest, sources
from depth_core.output import records
from depth_core.output.outcome_files import read_outcomes
from depth_core.output.record_schema import SCHEMA
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store


class Reason(StrEnum):
    """Why a chunk is not complete. The first one that applies is given."""

    NO_ROWS = "its rows are not validated yet"
    ROWS_CHANGED = "its rows have changed"
    NO_SOURCES = "its images are not fetched yet"
    SOURCES_CHANGED = "an image is missing, has changed or failed for a temporary reason"
    NO_RECORDS = "its records are not written yet"
    DEPTH_MAPS_CHANGED = "a depth map is missing, is not what the profile asks for or failed for a temporary reason"
    RECORDS_CHANGED = "its records are not those of its rows, images and depth maps"
    SEVERAL_RUNS = "its records are of several runs"
    NO_GALLERY = "its gallery is not drawn yet"


@dataclass(frozen=True)
class Completeness:
    """What was found. `run_id`: the run that wrote the records, "" when there is none: not complete, or no row."""

    reason: Reason | None = None
    run_id: str = ""

    @property
    def is_complete(self) -> bool:
        return self.reason is None


# What a record says of the runs that fetched its image and wrote it, and not of its row: another profile's run fetches again.
_OF_ITS_RUN = {"run_id", "created_at", "reused", "seconds_download"}
_LASTING = pa.schema([column for column in SCHEMA if column.name not in _OF_ITS_RUN])


def _lasting(frame: pd.DataFrame, parameters: DepthParameters, columns: Collection[str]) -> pa.Table:
    """Records without what is of their run, to be compared: parameters are the same whichever version wrote them."""
    same = (json.dumps(parameters.identity_of(json.loads(asked)), sort_keys=True) for asked in frame["parameters"])
    schema = pa.schema([column for column in _LASTING if column.name in columns])
    return pa.Table.from_pandas(frame.assign(parameters=pd.Series(same, frame.index, dtype=object)), schema)


def check(chunk: str, profile: Profile, *, checkpoint: Checkpoint, store: Store, settings: Settings) -> Completeness:
    """Compares what the store has of a chunk with what a run would write now.

    That is: the rows as the manifest has them, the images, every file of the depth maps, the table of records, which must agree
    with all of these, and the page of the gallery. `checkpoint`: the profile's weights. Raises StoreError.
    """
    reason, frame = _reason(chunk, profile, checkpoint, store, settings)
    if reason is not None:
        return Completeness(reason)
    runs = set(frame["run_id"])
    if len(runs) > 1:
        return Completeness(Reason.SEVERAL_RUNS)
    if store.size(layout.gallery_page_key(profile.name, chunk)) is None:
        return Completeness(Reason.NO_GALLERY)
    return Completeness(run_id=str(runs.pop()) if runs else "")


def _reason(
    chunk: str, profile: Profile, checkpoint: Checkpoint, store: Store, settings: Settings
) -> tuple[Reason | None, pd.DataFrame]:
    """The reason for which records cannot stay as they are, None when they can; and the records."""
    nothing = pd.DataFrame()
    try:
        rows = manifest.read_rows(store, chunk)
        due_rows = manifest.validate(manifest.read_chunk(store, chunk), settings)
        if not due_rows.drop(columns="error_message").equals(rows.drop(columns="error_message")):  # a message may be reworded
            return Reason.ROWS_CHANGED, nothing
    except ManifestError:
        return Reason.NO_ROWS, nothing
    table, facts = sources.read_table(store, chunk), manifest.read_facts(store, layout.slug_of_chunk(chunk))
    if table is None or facts is None:
        return Reason.NO_SOURCES, nothing
    if not sources.is_up_to_date(table, rows.loc[rows["error_kind"].isna(), "image_url"], store):
        return Reason.SOURCES_CHANGED, nothing
    try:
        frame, columns = records.read_chunk_and_columns(store, profile.name, chunk)
    except FileNotFoundError:
        return Reason.NO_RECORDS, nothing
    images = [Source(sha256) for sha256 in table["sha256"].dropna()]
    if not chunk_engine.is_up_to_date(images, profile=profile, chunk=chunk, checkpoint=checkpoint, store=store):
        return Reason.DEPTH_MAPS_CHANGED, nothing
    due = records.build(
        rows,
        table,
        read_outcomes(store, profile.name, chunk).values(),
        manifest=facts["uri"],
        chunk=chunk,
        profile=profile.name,
        parameters=profile.parameters.as_api(),
        store=store,
    )
    if not _lasting(frame, profile.parameters, columns).equals(_lasting(due, profile.parameters, columns)):
        return Reason.RECORDS_CHANGED, nothing
    return None, frame
