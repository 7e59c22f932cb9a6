"""The queue of artworks, the workers' side: claims are leased rows that no two workers get.

Leases compare times of different machines: their clocks may differ by much less than a lease.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from depth_core.contract import ArtworkStatus, DepthParameters
from depth_core.errors import ErrorKind
from depth_core.serving import database as db
from depth_core.serving.artworks import deletion, idempotency, transitions
from depth_core.serving.artworks.types import Claimed, Reconciled
from depth_core.serving.database import Database
from depth_core.storage import Store

_STARTING, _PROCESSING = ArtworkStatus.STARTING, ArtworkStatus.PROCESSING
_ANY_WAITING = sa.select(sa.exists().where(db.artworks.c.status == _STARTING))


class ArtworkQueue:
    """Waiting artworks, and those that workers have claimed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._nothing_at: int | None = None  # the database's stamp when nothing waited

    def waiting(self) -> tuple[int, float]:
        """How many artworks wait, and for how many seconds the oldest has."""
        with self._database.read() as connection:
            return count_waiting(connection, self._database.clock())

    def claim(
        self,
        worker_name: str,
        *,
        limit: int,
        lease_seconds: float,
        loaded: Sequence[str] = (),
        patience_seconds: float = 10.0,
    ) -> list[Claimed]:
        """Up to `limit` waiting artworks with equal parameters, oldest first; nobody else gets them while the lease lasts.

        `loaded`: keys of models that are in memory. They go first, but not before what has waited for `patience_seconds`.
        What was tried before comes alone, so that an image that kills its process does not use up its neighbours' attempts.
        """
        if not self._any_waiting():
            return []
        table, at = db.artworks, self._database.clock()
        waits = table.c.status == _STARTING
        order: list[Any] = [table.c.created_at, table.c.id]
        if loaded:
            impatient = table.c.created_at <= at - timedelta(seconds=patience_seconds)
            order.insert(0, sa.case((table.c.model.in_(loaded) | impatient, 0), else_=1))
        first = sa.select(table.c.id, table.c.batch_key, table.c.attempts).where(waits).order_by(*order).limit(1)
        with self._database.write() as connection:
            head = connection.execute(first.with_for_update(skip_locked=True)).one_or_none()
            if head is None:
                return []
            ids = [head.id]
            if head.attempts == 0 and limit > 1:
                alike = waits & (table.c.batch_key == head.batch_key) & (table.c.attempts == 0) & (table.c.id != head.id)
                rest = sa.select(table.c.id).where(alike).order_by(table.c.created_at, table.c.id).limit(limit - 1)
                ids += connection.scalars(rest.with_for_update(skip_locked=True))
            taken = sa.update(table).where(table.c.id.in_(ids), waits)
            connection.execute(
                taken.values(
                    status=_PROCESSING,
                    worker=worker_name,
                    started_at=at,
                    lease_until=at + timedelta(seconds=lease_seconds),
                    attempts=table.c.attempts + 1,
                )
            )
            transitions.record(connection, ids, _PROCESSING, at, worker_name)
            rows = connection.execute(sa.select(table).where(table.c.id.in_(ids)).order_by(table.c.created_at, table.c.id)).all()
            transitions.tell_processing(connection, rows, at)
        parameters = DepthParameters.model_validate(rows[0].parameters)
        return [Claimed(row.id, row.image_url, parameters, row.attempts, row.created_at, row.upload_id) for row in rows]

    def _any_waiting(self) -> bool:
        """Most often nothing waits: then no lock is taken, and where nothing was written since, no query is made."""
        stamp = self._database.stamp()
        if stamp is not None and stamp == self._nothing_at:
            return False
        with self._database.read() as connection:
            waits = bool(connection.scalar(_ANY_WAITING))
        self._nothing_at = None if waits else stamp
        return waits

    def finish(
        self,
        artwork_id: UUID,
        worker_name: str,
        *,
        folder: str,
        results: Sequence[str],
        seconds: Mapping[str, float],
        outcome: Mapping[str, Any] | None = None,
        store: Store | None = None,
    ) -> bool:
        """Records success: the store's folder key, names of its files, seconds by stage, and the engine's outcome.

        False, and nothing changed, when this worker no longer has the artwork: cancelled, or its lease went to another.
        Raises FolderRemovedError when files were removed meanwhile from the folder in `store`, and StoreError.
        """
        with self._database.write() as connection:
            if store is not None:
                deletion.check(connection, store, folder, results)
            done = transitions.conclude(
                connection,
                artwork_id,
                ArtworkStatus.SUCCEEDED,
                at=self._database.clock(),
                worker_name=worker_name,
                folder=folder,
                results=list(results),
                duration=sum(seconds.values()),
                outcome=None if outcome is None else dict(outcome),
            )
            if done:
                _count(connection, worker_name, "succeeded", seconds)
            return done

    def fail(
        self,
        artwork_id: UUID,
        worker_name: str,
        kind: ErrorKind,
        message: str,
        *,
        seconds: Mapping[str, float] | None = None,
        outcome: Mapping[str, Any] | None = None,
        usable_models: str | None = None,
    ) -> bool:
        """Records failure with its reason. `usable_models`: for model_unavailable, those that can be used, in words.

        False as in `finish`.
        """
        with self._database.write() as connection:
            done = transitions.conclude(
                connection,
                artwork_id,
                ArtworkStatus.FAILED,
                at=self._database.clock(),
                worker_name=worker_name,
                note=_storable(f"{kind.value}: {message}"),
                error_kind=kind.value,
                error_message=_storable(message),
                usable_models=usable_models,
                duration=sum((seconds or {}).values()),
                outcome=None if outcome is None else dict(outcome),
            )
            if done:
                _count(connection, worker_name, "failed", seconds or {})
            return done

    def release(self, ids: Iterable[UUID], worker_name: str, *, tried: bool = True) -> list[UUID]:
        """Gives claims back, to be claimed again; returns those that this worker had.

        `tried`: the work was begun, so the attempt counts and the next one is made alone.
        """
        table = db.artworks
        with self._database.write() as connection:
            mine = (table.c.id.in_(list(ids))) & (table.c.status == _PROCESSING) & (table.c.worker == worker_name)
            held = list(connection.scalars(sa.select(table.c.id).where(mine).with_for_update()))
            transitions.put_back(
                connection, held, at=self._database.clock(), note="given back", worker_name=worker_name, uncounted=not tried
            )
        return held

    def reconcile(self, *, max_attempts: int, dead_workers: Collection[str] = ()) -> Reconciled:
        """Takes claims back whose lease has run out, or whose worker (a name of `dead_workers`) is known to be dead.

        They wait again and then run alone; one tried `max_attempts` times fails with worker_lost. Also deletes old
        Idempotency-Keys.
        """
        table, at = db.artworks, self._database.clock()
        lost = (table.c.status == _PROCESSING) & ((table.c.lease_until < at) | table.c.worker.in_(dead_workers))
        old_keys = idempotency.expired(at)
        with self._database.read() as connection:  # asked for often, and most often for nothing
            something = sa.exists().where(lost) | sa.exists().where(old_keys)
            if not dead_workers and not connection.scalar(sa.select(something)):
                return Reconciled()
        with self._database.write() as connection:
            query = sa.select(table.c.id, table.c.attempts, table.c.worker).where(lost).order_by(table.c.id)
            rows = connection.execute(query.with_for_update(skip_locked=True)).all()
            released = [row.id for row in rows if row.attempts < max_attempts]
            failed = [row for row in rows if row.attempts >= max_attempts]
            transitions.put_back(connection, released, at=at, note="its worker gave no sign of life")
            for row in failed:
                transitions.conclude(
                    connection,
                    row.id,
                    ArtworkStatus.FAILED,
                    at=at,
                    note=f"{ErrorKind.WORKER_LOST.value} ({row.worker})",
                    error_kind=ErrorKind.WORKER_LOST.value,
                    error_message=f"the process working on it died {row.attempts} times; the image may be what kills it",
                )
            connection.execute(sa.delete(db.idempotency_keys).where(old_keys))
            if dead_workers:
                gone = db.workers.c.name.in_(dead_workers) & db.workers.c.ended_at.is_(None)
                connection.execute(sa.update(db.workers).where(gone).values(ended_at=at))
        return Reconciled(released, [row.id for row in failed])


def count_waiting(connection: Connection, at: datetime) -> tuple[int, float]:
    """How many artworks wait, and for how many seconds the oldest has at a time."""
    oldest = sa.func.min(db.artworks.c.created_at, type_=db.UtcDateTime)
    count, since = connection.execute(sa.select(sa.func.count(), oldest).where(db.artworks.c.status == _STARTING)).one()
    return count, 0.0 if since is None else max(0.0, (at - since).total_seconds())


def _count(connection: Connection, worker_name: str, outcome: str, seconds: Mapping[str, float]) -> None:
    column = db.workers.c[outcome]
    connection.execute(sa.update(db.workers).where(db.workers.c.name == worker_name).values({column: column + 1}))
    table = db.stage_seconds
    for stage in sorted(seconds):  # sorted: see the lock order
        added = db.insert(connection, table).values(stage=stage, seconds=seconds[stage], artworks=1)
        sums = {"seconds": table.c.seconds + added.excluded.seconds, "artworks": table.c.artworks + 1}
        connection.execute(added.on_conflict_do_update(index_elements=[table.c.stage], set_=sums))


def _storable(text: str) -> str:
    """PostgreSQL's text takes no NUL and no lone surrogates; messages quote what strangers sent."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
