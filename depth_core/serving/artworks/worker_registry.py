"""Which workers there are and which of them are alive. A worker's heartbeat also renews the leases of its claims."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from depth_core.contract import ArtworkStatus
from depth_core.inference import availability
from depth_core.inference.availability import Availability, ModelState
from depth_core.serving import database as db
from depth_core.serving.artworks import transitions
from depth_core.serving.artworks.types import WorkerInfo
from depth_core.serving.database import Database


class WorkerRegistry:
    """The workers of one database, by name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(self, name: str, device: str, *, run_id: str = "") -> None:
        """Announces a worker. Its name is never used twice."""
        at = self._database.clock()
        with self._database.write() as connection:
            connection.execute(
                sa.insert(db.workers).values(
                    name=name,
                    device=device,
                    run_id=run_id,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    started_at=at,
                    heartbeat_at=at,
                    succeeded=0,
                    failed=0,
                )
            )

    def heartbeat(self, name: str, *, lease_seconds: float) -> set[UUID]:
        """Renews a worker's leases; returns what it still holds: what is missing was cancelled or went to another."""
        table, at = db.artworks, self._database.clock()
        mine = (table.c.worker == name) & (table.c.status == ArtworkStatus.PROCESSING)
        with self._database.write() as connection:
            connection.execute(sa.update(table).where(mine).values(lease_until=at + timedelta(seconds=lease_seconds)))
            held = set(connection.scalars(sa.select(table.c.id).where(mine)))
            connection.execute(sa.update(db.workers).where(db.workers.c.name == name).values(heartbeat_at=at))
        return held

    def end(self, name: str) -> list[UUID]:
        """Marks a worker as ended in good order; what it claimed and did not do goes back. Returns that."""
        table, at = db.artworks, self._database.clock()
        with self._database.write() as connection:
            mine = sa.select(table.c.id).where(table.c.worker == name, table.c.status == ArtworkStatus.PROCESSING)
            held = list(connection.scalars(mine.with_for_update()))
            transitions.put_back(connection, held, at=at, note="the worker ended", worker_name=name, uncounted=True)
            connection.execute(sa.update(db.workers).where(db.workers.c.name == name).values(ended_at=at, heartbeat_at=at))
        return held

    def report_models(self, name: str, states: Mapping[str, ModelState]) -> None:
        """Notes which models a worker can use."""
        models = {key: [state.availability.value, state.reason] for key, state in states.items()}
        with self._database.write() as connection:
            connection.execute(sa.update(db.workers).where(db.workers.c.name == name).values(models=models))

    def models(self, *, fresh_seconds: float) -> tuple[dict[str, ModelState], bool]:
        """Which models the living workers can use, together, and True; or those of the worker that was alive last, and False.

        Empty where no worker ever told.
        """
        table = db.workers
        told = sa.select(table.c.models).where(table.c.models.is_not(None))
        with self._database.read() as connection:
            living = list(connection.scalars(told.where(*alive(self._database, fresh_seconds))))
            found = living or list(connection.scalars(told.order_by(table.c.heartbeat_at.desc()).limit(1)))
        states = [{key: ModelState(Availability(value), why) for key, (value, why) in models.items()} for models in found]
        return availability.best(states), bool(living)

    def find(self, *, fresh_seconds: float | None = None, device: str | None = None, limit: int = 100) -> list[WorkerInfo]:
        """Workers, newest first. `fresh_seconds`: only those that have not ended and whose last heartbeat is no older."""
        table = db.workers
        query = sa.select(table).order_by(table.c.started_at.desc()).limit(limit)
        if fresh_seconds is not None:
            query = query.where(*alive(self._database, fresh_seconds))
        if device is not None:
            query = query.where(table.c.device == device)
        with self._database.read() as connection:
            return [WorkerInfo(**row._mapping) for row in connection.execute(query)]

    def that_had(self, artwork_id: UUID) -> list[WorkerInfo]:
        """Every worker that had an artwork, in the order in which they began."""
        named = sa.select(db.transitions.c.worker).where(db.transitions.c.artwork_id == artwork_id)
        query = sa.select(db.workers).where(db.workers.c.name.in_(named)).order_by(db.workers.c.started_at)
        with self._database.read() as connection:
            return [WorkerInfo(**row._mapping) for row in connection.execute(query)]


def alive(database: Database, fresh_seconds: float) -> tuple[Any, ...]:
    """The conditions for workers that have not ended and whose last heartbeat is at most `fresh_seconds` old."""
    table = db.workers
    return (table.c.ended_at.is_(None), table.c.heartbeat_at > database.clock() - timedelta(seconds=fresh_seconds))
