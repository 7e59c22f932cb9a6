"""Everything that the store knows of one row of a manifest: the row, its source, its outcome under each profile."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd

from depth_core import layout
from depth_core.errors import ManifestError
from depth_core.explain import cures
from depth_core.explain.cures import Cure, Stage
from depth_core.ingest import manifest, sources
from depth_core.output import interrupted, records
from depth_core.output.journal import read_journal
from depth_core.output.outcomes import SUCCEEDED, Outcome
from depth_core.storage import Store


@dataclass(frozen=True)
class Source:
    """What is known of the image file that a row names."""

    sha256: str | None
    bytes: int | None
    content_type: str  # as the server said
    robots: str  # what the server said against machine learning: "noai"
    fetched_at: datetime | None
    attempts: int  # at the last download
    error_kind: str | None
    error_message: str | None


@dataclass(frozen=True)
class ProfileOutcome:
    """What became of a row under one profile. Of a row without a record only `profile`, `stage` and `cure` are known."""

    profile: str
    stage: Stage
    cure: Cure
    status: str = ""  # "succeeded", "failed", "" without a record
    error_kind: str | None = None
    error_message: str | None = None
    attempts: int = 0
    finished_at: datetime | None = None
    artwork_id: str = ""
    run_id: str = ""  # the run that wrote the record
    model: str = ""
    folder: str = ""  # URL of the folder of files
    files: tuple[str, ...] = ()
    lost_files: tuple[str, ...] = ()  # of `files`, those that are not there
    unfinished: Outcome | None = None  # newer, of a run that has not come to its end
    deaths: int | None = None  # the image was at work when a run died; how often alone


@dataclass(frozen=True)
class RowFacts:
    """One row of a manifest."""

    manifest: str  # URI
    file: str
    line: int | None
    row_id: str
    row_key: str
    chunk: str
    position: int | None
    image_url: str
    source: Source | None  # None: nobody has tried to fetch it
    profiles: tuple[ProfileOutcome, ...]


def read(chunk: str, row_key: str, profiles: Sequence[str], store: Store) -> RowFacts | None:
    """The facts of one row; None when the store knows no such row. Raises StoreError."""
    recorded = {profile: _record(store, profile, chunk, row_key) for profile in profiles}
    row = _row(store, chunk, row_key) or next((record | {"error_kind": None} for record in recorded.values() if record), None)
    if row is None:
        return None
    facts = manifest.read_facts(store, layout.slug_of_chunk(chunk)) or {}
    source = _source(store, chunk, row["image_url"])
    return RowFacts(
        manifest=facts.get("uri") or row.get("manifest") or "",
        file=row["file"] or "",
        line=row["line"],
        row_id=row["row_id"] or "",
        row_key=row_key,
        chunk=chunk,
        position=row["position"],
        image_url=row["image_url"] or "",
        source=source,
        profiles=tuple(_outcome(store, profile, chunk, row, source, record) for profile, record in recorded.items()),
    )


def _outcome(
    store: Store, profile: str, chunk: str, row: dict[str, Any], source: Source | None, record: dict[str, Any] | None
) -> ProfileOutcome:
    unfinished = deaths = None
    if source is not None and source.sha256:
        unfinished = read_journal(store, profile, chunk).get(source.sha256)
        deaths = interrupted.read(store, profile, chunk).get(source.sha256)
    if record is None:
        stage, kind = _stage_without_record(row, source)
        cure = cures.of_row(stage, kind, chunk=chunk, profile=profile)
        return ProfileOutcome(profile, stage, cure, unfinished=unfinished, deaths=deaths)
    folder, files = record["folder"] or "", tuple(url.rpartition("/")[2] for url in record["results"])
    lost = tuple(name for name in files if not store.size(layout.file_key(folder, name))) if folder else ()
    stage = _stage(row, source, record, lost)
    return ProfileOutcome(
        profile,
        stage,
        cures.of_row(stage, record["error_kind"], chunk=chunk, profile=profile),
        status=record["status"],
        error_kind=record["error_kind"],
        error_message=record["error_message"],
        attempts=record["attempts"] or 0,
        finished_at=record["finished_at"],
        artwork_id=record["id"],
        run_id=record["run_id"] or "",
        model=record["model"] or "",
        folder=store.url(folder) if folder else "",
        files=files,
        lost_files=lost,
        unfinished=unfinished,
        deaths=deaths,
    )


def _stage(row: dict[str, Any], source: Source | None, record: dict[str, Any], lost: Sequence[str]) -> Stage:
    if record["status"] == SUCCEEDED:
        return Stage.FILES_LOST if lost else Stage.DONE
    if row["error_kind"]:
        return Stage.ROW
    if record["source_sha256"]:
        return Stage.IMAGE
    return Stage.NOT_MADE if source is not None and source.sha256 else Stage.SOURCE  # fetched since the record was written


def _stage_without_record(row: dict[str, Any], source: Source | None) -> tuple[Stage, str | None]:
    """Returns how far a row has got that has no record under the profile, and the kind of error that stopped it."""
    if row["error_kind"]:
        return Stage.ROW, row["error_kind"]
    if source is None:
        return Stage.NOT_FETCHED, None
    return (Stage.NOT_MADE, None) if source.sha256 else (Stage.SOURCE, source.error_kind)


def _row(store: Store, chunk: str, row_key: str) -> dict[str, Any] | None:
    """A row as it was validated; else as the manifest has it."""
    for read_rows in (manifest.read_rows, manifest.read_chunk):
        try:
            return _only(read_rows(store, chunk), "row_key", row_key)
        except ManifestError:
            continue
    return None


def _record(store: Store, profile: str, chunk: str, row_key: str) -> dict[str, Any] | None:
    try:
        return _only(records.read_chunk(store, profile, chunk), "row_key", row_key)
    except FileNotFoundError:
        return None


def _source(store: Store, chunk: str, url: str | None) -> Source | None:
    table = sources.read_table(store, chunk)
    found = _only(table, "image_url", url) if table is not None and url else None
    if found is None:
        return None
    return Source(
        sha256=found["sha256"],
        bytes=found["bytes"],
        content_type=found["content_type"] or "",
        robots=found.get("robots") or "",
        fetched_at=found["fetched_at"],
        attempts=found["attempts"] or 0,
        error_kind=found["error_kind"],
        error_message=found["error_message"],
    )


def _only(frame: pd.DataFrame, column: str, value: str) -> dict[str, Any] | None:
    """The last row of a table with a value, None for what it lacks."""
    found = frame[frame[column] == value].tail(1)
    if found.empty:
        return None
    row: dict[Hashable, Any] = found.astype(object).iloc[0].to_dict()
    return {str(name): None if _is_missing(each) else each for name, each in row.items()}


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)
