"""The artworks of one database, as clients see them: create, get, list, cancel.

What does not belong here: what workers do with them (queue.py), and how one status follows another (transitions.py).
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from depth_core.contract import ArtworkStatus
from depth_core.serving import database as db
from depth_core.serving import uploads
from depth_core.serving.artworks import cursor as cursors
from depth_core.serving.artworks import idempotency, transitions
from depth_core.serving.artworks.queue import ArtworkQueue
from depth_core.serving.artworks.types import FINAL, Created, NewArtwork, Page, StoredArtwork, Transition
from depth_core.serving.artworks.worker_registry import WorkerRegistry
from depth_core.serving.database import Database, open_database
from depth_core.settings import Settings

_MOST = 2**63 - 1  # what a database takes
ACCEPTED = 202  # the status code of an answer that does not wait


def open_store(settings: Settings) -> ArtworkStore:
    """The artworks of the configured database, migrated where that is due. Raises ConfigurationError."""
    return ArtworkStore(open_database(settings.database_location))


class ArtworkStore:
    """All artworks of one database, its `queue` and its `workers`. Safe to use from many threads; every process opens its own."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.queue = ArtworkQueue(database)
        self.workers = WorkerRegistry(database)

    def close(self) -> None:
        self.database.close()

    def create(
        self,
        new: NewArtwork,
        *,
        api_key_id: str,
        source: str = "http",
        idempotency_key: str | None = None,
        status_code: int | None = ACCEPTED,
    ) -> Created:
        """Adds an artwork, or finds the one that the same owner's same Idempotency-Key made in the last 24 hours.

        `status_code`: what the request will be answered with, None when that is not known yet (see `answered`).
        Raises IdempotencyConflictError when the key came before with another body, UploadGoneError when the image is an upload
        that is not there (any more).
        """
        at = self.database.clock()
        artwork_id = uuid4()
        with self.database.write() as connection:
            if idempotency_key is not None:
                earlier = idempotency.register(connection, api_key_id, idempotency_key, new.sha256(), artwork_id, status_code, at)
                if earlier is not None:
                    artwork = _get(connection, earlier.artwork_id)
                    return Created(artwork, replayed=True, status_code=earlier.status_code)
            if new.upload_id is not None:
                uploads.hold(connection, new.upload_id, api_key_id=api_key_id, at=at)
            transitions.insert(connection, artwork_id, new, api_key_id=api_key_id, source=source, at=at)
            return Created(_get(connection, artwork_id), replayed=False, status_code=status_code)

    def answered(self, api_key_id: str, idempotency_key: str, status_code: int) -> None:
        """Keeps the status code with which the request that made a key's artwork is answered."""
        with self.database.write() as connection:
            idempotency.set_status_code(connection, api_key_id, idempotency_key, status_code)

    def get(self, artwork_id: UUID, *, api_key_id: str | None = None) -> StoredArtwork | None:
        """One artwork; None when there is none, or it has another owner (`api_key_id` None: any owner)."""
        query = sa.select(db.artworks).where(db.artworks.c.id == artwork_id, *_owned(api_key_id))
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else StoredArtwork.from_row(row)

    def page(
        self,
        *,
        api_key_id: str | None = None,
        status: ArtworkStatus | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 20,
        offset: int = 0,
        cursor: str | None = None,
    ) -> Page:
        """Newest first, `offset` of them left out. The cursor stays valid while artworks come and change. Raises CursorError."""
        table = db.artworks
        query = sa.select(table).where(*_owned(api_key_id)).order_by(table.c.created_at.desc(), table.c.id.desc())
        if status is not None:
            query = query.where(table.c.status == status)
        if created_after is not None:
            query = query.where(table.c.created_at > created_after)
        if created_before is not None:
            query = query.where(table.c.created_at < created_before)
        if cursor is not None:
            created_at, artwork_id = cursors.read(cursor)
            older = (table.c.created_at < created_at) | ((table.c.created_at == created_at) & (table.c.id < artwork_id))
            query = query.where(older)
        with self.database.read() as connection:
            rows = [StoredArtwork.from_row(row) for row in connection.execute(query.limit(limit + 1).offset(min(offset, _MOST)))]
        return Page(rows[:limit], cursors.after(rows[limit - 1]) if len(rows) > limit else None)

    def cancel(self, artwork_id: UUID, *, api_key_id: str | None = None) -> StoredArtwork | None:
        """Cancels an artwork that is not final yet, and returns it as it now is; None when there is none.

        What a worker makes of a cancelled artwork afterwards is thrown away by `queue.finish`.
        """
        with self.database.write() as connection:
            mine = sa.select(db.artworks.c.id).where(db.artworks.c.id == artwork_id, *_owned(api_key_id))
            if connection.scalar(mine.with_for_update()) is None:
                return None
            open_still = (ArtworkStatus.STARTING, ArtworkStatus.PROCESSING)
            transitions.conclude(connection, artwork_id, ArtworkStatus.CANCELED, at=self.database.clock(), leaving=open_still)
            return _get(connection, artwork_id)

    def history(self, artwork_id: UUID) -> list[Transition]:
        """Every status that an artwork had, oldest first."""
        table = db.transitions
        with self.database.read() as connection:
            rows = connection.execute(sa.select(table).where(table.c.artwork_id == artwork_id).order_by(table.c.id)).all()
        return [Transition(ArtworkStatus(row.status), row.at, row.worker, row.note) for row in rows]

    def which_final(self, ids: Collection[UUID]) -> set[UUID]:
        """Those of `ids` that have their final status, or are deleted."""
        query = sa.select(db.artworks.c.id).where(db.artworks.c.id.in_(ids), db.artworks.c.status.not_in(FINAL))
        with self.database.read() as connection:
            return set(ids).difference(connection.scalars(query))

    def finished_between(self, start: datetime, end: datetime) -> list[StoredArtwork]:
        """Artworks whose final status came in [start, end), in that order, for the record tables."""
        table = db.artworks
        query = sa.select(table).where(table.c.finished_at >= start, table.c.finished_at < end)
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(table.c.finished_at, table.c.id))
            return [StoredArtwork.from_row(row) for row in rows]


def _owned(api_key_id: str | None) -> tuple[sa.ColumnElement[bool], ...]:
    return () if api_key_id is None else (db.artworks.c.api_key_id == api_key_id,)


def _get(connection: Connection, artwork_id: UUID) -> StoredArtwork:
    return StoredArtwork.from_row(connection.execute(sa.select(db.artworks).where(db.artworks.c.id == artwork_id)).one())
