"""Everything that is known of one single request: from the database, or, once it was pruned there, from the table of its day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.compute as pc

from depth_core import layout
from depth_core.explain import cures
from depth_core.explain.cures import Cure
from depth_core.output import records
from depth_core.settings import Settings
from depth_core.storage import Store


@dataclass(frozen=True)
class RequestFacts:
    """One single request."""

    artwork_id: UUID
    status: str
    image_url: str
    api_key_id: str
    origin: str  # "http" or "inbox"
    model: str
    created_at: datetime
    finished_at: datetime | None
    attempts: int
    sha256: str | None
    error_kind: str | None
    error_message: str | None
    folder: str  # URL of the folder of files
    files: tuple[str, ...]
    runs: tuple[str, ...]  # workers that had it: run, name, host, device
    history: tuple[tuple[datetime, str], ...]  # every state it was in
    cure: Cure


def read(artwork_id: UUID, store: Store, settings: Settings) -> RequestFacts | None:
    """The facts of one request; None when nobody knows it. Raises StoreError, ConfigurationError."""
    return (_from_database(artwork_id, store, settings) if _has_database(settings) else None) or _from_table(artwork_id, store)


def _has_database(settings: Settings) -> bool:
    """Returns whether a database may exist: a look-up must not create one."""
    location = settings.database_location
    return not location.startswith("sqlite:///") or Path(location.removeprefix("sqlite:///").partition("?")[0]).exists()


def _from_database(artwork_id: UUID, store: Store, settings: Settings) -> RequestFacts | None:
    from depth_core.serving.artworks.store import open_store

    artworks = open_store(settings)
    try:
        stored = artworks.get(artwork_id)
        if stored is None:
            return None
        workers = artworks.workers.that_had(artwork_id)
        history = artworks.history(artwork_id)
    finally:
        artworks.close()
    return RequestFacts(
        artwork_id=artwork_id,
        status=stored.status.value,
        image_url=stored.image_url,
        api_key_id=stored.api_key_id,
        origin=stored.source,
        model=stored.model,
        created_at=stored.created_at,
        finished_at=stored.finished_at,
        attempts=stored.attempts,
        sha256=(stored.outcome or {}).get("source_sha256") or None,
        error_kind=stored.error_kind,
        error_message=stored.error_message,
        folder=store.url(stored.folder) if stored.folder else "",
        files=stored.results,
        runs=tuple(f"{w.run_id or 'none'} ({w.name} on {w.host}, device {w.device})" for w in workers),
        history=tuple((step.at, " ".join(filter(None, (step.status.value, step.worker, step.note)))) for step in history),
        cure=cures.of_request(stored.error_kind),
    )


def _from_table(artwork_id: UUID, store: Store) -> RequestFacts | None:
    """Reads the record of a single request, which stays when the database row is pruned."""
    frame = records.read(store, profile=layout.API_PROFILE, where=pc.field("id") == str(artwork_id))
    if frame.empty:
        return None
    row: Any = frame.astype(object).where(frame.notna(), None).iloc[-1].to_dict()
    results: Sequence[str] = row["results"] if row["results"] is not None else ()
    return RequestFacts(
        artwork_id=artwork_id,
        status=row["status"],
        image_url=row["image_url"] or "",
        api_key_id=row["row_id"] or "",
        origin=row["manifest"] or "",
        model=row["model"] or "",
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        attempts=row["attempts"] or 0,
        sha256=row["source_sha256"],
        error_kind=row["error_kind"],
        error_message=row["error_message"],
        folder=store.url(row["folder"]) if row["folder"] else "",
        files=tuple(url.rpartition("/")[2] for url in results),
        runs=(),
        history=(),
        cure=cures.of_request(row["error_kind"]),
    )
