"""The statements that change the status of artworks, each within the caller's transaction, each noted in the history."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from depth_core.contract import ArtworkStatus, WebhookEvent
from depth_core.serving import database as db
from depth_core.serving.artworks.types import NewArtwork


def insert(connection: Connection, artwork_id: UUID, new: NewArtwork, *, api_key_id: str, source: str, at: datetime) -> None:
    """Adds one waiting artwork."""
    connection.execute(
        sa.insert(db.artworks).values(
            id=artwork_id,
            api_key_id=api_key_id,
            source=source,
            image_url=new.image_url,
            upload_id=new.upload_id,
            webhook=new.webhook,
            webhook_events=new.webhook_events,
            parameters=new.parameters.as_api(),
            model=new.parameters.spec.key,
            batch_key=new.parameters.digest(),
            status=ArtworkStatus.STARTING,
            created_at=at,
            attempts=0,
            duration=0.0,
            folder="",
            results=[],
        )
    )
    record(connection, [artwork_id], ArtworkStatus.STARTING, at, None, source)


def conclude(
    connection: Connection,
    artwork_id: UUID,
    status: ArtworkStatus,
    *,
    at: datetime,
    worker_name: str | None = None,
    leaving: Sequence[ArtworkStatus] = (ArtworkStatus.PROCESSING,),
    note: str = "",
    **values: Any,
) -> bool:
    """Sets the final status and adds the webhook to the outbox, in place of one of an earlier event that was not sent.

    Returns False, and changes nothing, when the artwork is in no status of `leaving`, or another worker has it.
    """
    table = db.artworks
    here = sa.update(table).where(table.c.id == artwork_id, table.c.status.in_(leaving))
    if worker_name is not None:
        here = here.where(table.c.worker == worker_name)
    changed = connection.execute(here.values(status=status, finished_at=at, lease_until=None, **values))
    if changed.rowcount == 0:
        return False
    record(connection, [artwork_id], status, at, worker_name, note)
    columns = (table.c.id, table.c.api_key_id, table.c.webhook, table.c.webhook_events)
    row = connection.execute(sa.select(*columns).where(table.c.id == artwork_id)).one()
    if _wants(row, WebhookEvent.PROCESSING) and _wants(row, WebhookEvent.FINAL):
        told = db.webhook_deliveries
        late = (told.c.artwork_id == artwork_id) & (told.c.event == WebhookEvent.PROCESSING) & (told.c.state == "pending")
        skipped = {"state": "skipped", "reason": "the artwork ended before this was sent"}
        connection.execute(sa.update(told).where(late).values(skipped))
    _tell(connection, [row], WebhookEvent.FINAL, at)
    return True


def tell_processing(connection: Connection, rows: Sequence[Any], at: datetime) -> None:
    """Adds to the outbox that artworks are being processed, for those that want it; once, however often they are claimed.

    The caller holds the rows, so that no other process adds the same.
    """
    ids = [row.id for row in rows if _wants(row, WebhookEvent.PROCESSING)]
    if not ids:
        return
    table = db.webhook_deliveries
    told = sa.select(table.c.artwork_id).where(table.c.artwork_id.in_(ids), table.c.event == WebhookEvent.PROCESSING)
    before = set(connection.scalars(told))
    _tell(connection, [row for row in rows if row.id not in before], WebhookEvent.PROCESSING, at)


def _wants(row: Any, event: WebhookEvent) -> bool:
    """Whether an artwork's webhook is to be told of an event."""
    return row.webhook is not None and event in (row.webhook_events or (WebhookEvent.FINAL,))


def _tell(connection: Connection, rows: Sequence[Any], event: WebhookEvent, at: datetime) -> None:
    """Adds an event of artworks to the outbox, for those that want it."""
    entries = [
        {
            "id": uuid4(),
            "artwork_id": row.id,
            "api_key_id": row.api_key_id,
            "event": event,
            "url": row.webhook,
            "host": (urlsplit(row.webhook).hostname or "")[:255],
            "state": "pending",
            "created_at": at,
            "next_attempt_at": at,
            "tries": 0,
        }
        for row in rows
        if _wants(row, event)
    ]
    if entries:
        connection.execute(sa.insert(db.webhook_deliveries), entries)


def put_back(
    connection: Connection,
    ids: Sequence[UUID],
    *,
    at: datetime,
    note: str,
    worker_name: str | None = None,
    uncounted: bool = False,
) -> None:
    """Makes claims waiting artworks again. `uncounted`: the attempt does not count. The caller holds the rows."""
    if not ids:
        return
    table = db.artworks
    values: dict[str, Any] = {"status": ArtworkStatus.STARTING, "worker": None, "lease_until": None, "started_at": None}
    if uncounted:
        values["attempts"] = table.c.attempts - 1
    connection.execute(sa.update(table).where(table.c.id.in_(ids)).values(values))
    record(connection, ids, ArtworkStatus.STARTING, at, worker_name, note)


def record(
    connection: Connection, ids: Sequence[UUID], status: ArtworkStatus, at: datetime, worker_name: str | None, note: str = ""
) -> None:
    """Adds a step to the history of artworks."""
    rows = [{"artwork_id": each, "status": status, "at": at, "worker": worker_name, "note": note} for each in ids]
    connection.execute(sa.insert(db.transitions), rows)
