"""Idempotency-Keys: for a day, a key of an owner names the artwork that its first request made."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from depth_core.serving import database as db
from depth_core.serving.artworks.types import IdempotencyConflictError

IDEMPOTENCY_HOURS = 24


def register(
    connection: Connection, api_key_id: str, key: str, body_sha256: str, artwork_id: UUID, status_code: int | None, at: datetime
) -> Any | None:
    """Registers a key for an artwork. Returns the key's row when an earlier request registered it, None when this one did.

    Raises IdempotencyConflictError when the earlier request had another body.
    """
    table, same = db.idempotency_keys, _same(api_key_id, key)
    connection.execute(sa.delete(table).where(same, expired(at)))
    new = sa.insert(table).values(
        api_key_id=api_key_id, key=key, body_sha256=body_sha256, artwork_id=artwork_id, status_code=status_code, created_at=at
    )
    while True:
        try:
            with connection.begin_nested():
                connection.execute(new)
                return None
        except IntegrityError:
            row = connection.execute(sa.select(table).where(same).with_for_update()).one_or_none()
        if row is None:
            continue  # deleted meanwhile, together with its artwork
        if row.body_sha256 != body_sha256:
            raise IdempotencyConflictError(
                f"Idempotency-Key {key!r} was used with another body; send the same body or another key"
            )
        return row


def set_status_code(connection: Connection, api_key_id: str, key: str, status_code: int) -> None:
    """Keeps the status code with which the request that registered a key is answered."""
    connection.execute(sa.update(db.idempotency_keys).where(_same(api_key_id, key)).values(status_code=status_code))


def expired(at: datetime) -> sa.ColumnElement[bool]:
    """The condition for keys that are too old to count at a time."""
    return db.idempotency_keys.c.created_at <= at - timedelta(hours=IDEMPOTENCY_HOURS)


def _same(api_key_id: str, key: str) -> sa.ColumnElement[bool]:
    return (db.idempotency_keys.c.api_key_id == api_key_id) & (db.idempotency_keys.c.key == key)
