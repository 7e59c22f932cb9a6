"""Deletes old artworks from the database."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from depth_core.serving import database as db
from depth_core.serving.artworks.types import FINAL
from depth_core.serving.database import Database


def prune(database: Database, *, before: datetime, limit: int = 1000) -> int:
    """Deletes up to `limit` final artworks that were created before a time; returns how many.

    Their histories and delivered or failed webhooks go with them, and so do workers from before that time. Files in the store
    stay, since the record tables of requests name them. What is still to be delivered stays, and so does the note of which
    inbox files were picked up, so that a file which still lies there is no new request. Failures of webhook endpoints from before
    that time are forgotten, and secrets that had ended by then; what is disabled stays so.
    """
    table, outbox = db.artworks, db.webhook_deliveries
    undelivered = sa.exists().where(outbox.c.artwork_id == table.c.id, outbox.c.state == "pending")
    old = sa.select(table.c.id).where(table.c.status.in_(FINAL), table.c.created_at < before, sa.not_(undelivered))
    with database.write() as connection:
        ids = list(connection.scalars(old.order_by(table.c.created_at).limit(limit).with_for_update(skip_locked=True)))
        connection.execute(sa.delete(db.inbox_entries).where(db.inbox_entries.c.artwork_id.in_(ids)))
        connection.execute(sa.delete(table).where(table.c.id.in_(ids)))
        endpoints = db.webhook_endpoints
        connection.execute(sa.delete(endpoints).where(endpoints.c.disabled_at.is_(None), endpoints.c.last_failure_at < before))
        connection.execute(sa.delete(db.webhook_earlier_secrets).where(db.webhook_earlier_secrets.c.until < before))
        connection.execute(sa.delete(db.workers).where(db.workers.c.heartbeat_at < before))
    return len(ids)
