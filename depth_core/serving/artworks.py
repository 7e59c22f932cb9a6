"""Artworks: single requests from `starting` to their final state, and the workers that work on them.

Every change of state is one transaction whose UPDATE names the state it leaves, so none goes backwards and none happens twice.
What does not belong here: running a network (engine/), sending webhooks (webhooks.py: the outbox entry alone is written here).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from depth_core.contract import Artwork, ArtworkError, ArtworkStatus, DepthParameters
from depth_core.display import shown_text, shown_url
from depth_core.errors import DepthlineError, ErrorKind
from depth_core.serving import database as db
from depth_core.serving.database import Database, open_database
from depth_core.settings import Settings

IDEMPOTENCY_HOURS = 24
ACCEPTED = 202  # the status code of an answer that does not wait

_STARTING, _PROCESSING = ArtworkStatus.STARTING, ArtworkStatus.PROCESSING
_FINAL = [status for status in ArtworkStatus if status.final]

# Lock order, so that no two transactions wait for each other: artworks, workers, stage_seconds.


class IdempotencyConflictError(DepthlineError):
    """An Idempotency-Key came again with another body."""


class CursorError(DepthlineError):
    """A cursor that no listing has handed out."""


@dataclass(frozen=True, slots=True)
class NewArtwork:
    """What a request asks for."""

    image_url: str
    parameters: DepthParameters
    webhook: str | None = None

    def as_api(self) -> dict[str, Any]:
        """The artwork's `parameters`: as accepted, defaults filled in."""
        words = {"imageUrl": self.image_url, **self.parameters.as_api()}
        return words if self.webhook is None else words | {"webhook": self.webhook}

    def sha256(self) -> str:
        """The same for two bodies that ask for the same, however they are written."""
        asked = self.parameters.identity_of(self.as_api())
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class StoredArtwork:
    """One row of the artworks table."""

    id: UUID
    api_key_id: str
    source: str
    image_url: str
    webhook: str | None
    parameters: dict[str, Any]
    model: str
    status: ArtworkStatus
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    worker: str | None
    duration: float
    folder: str
    results: tuple[str, ...]
    error_kind: str | None
    error_message: str | None
    outcome: dict[str, Any] | None

    def answer(self, public_url: str) -> Artwork:
        """The artwork as the API answers it, its results as URLs under `public_url`.

        For whoever asked: what stands in its URLs and lets somebody in is theirs, and there. `shown` is for everybody else.
        """
        words = {"imageUrl": self.image_url, **DepthParameters.filled(self.parameters)}
        base = f"{public_url.rstrip('/')}/v2/artworks/{self.id}/results/"
        return Artwork(
            id=self.id,
            artwork_type="depth_map",
            parameters=words if self.webhook is None else words | {"webhook": self.webhook},
            duration=round(self.duration, 3),
            results=[base + name for name in self.results],
            status=self.status,
            created_at=self.created_at,
            error=ArtworkError(kind=self.error_kind, message=self._public_message) if self.error_kind else None,
        )

    def shown(self, public_url: str) -> Artwork:
        """The artwork for terminals and pages: its URLs without what lets somebody in."""
        whole = self.answer(public_url)
        urls = {name: shown_url(whole.parameters[name]) for name in ("imageUrl", "webhook") if name in whole.parameters}
        error = whole.error and ArtworkError(kind=whole.error.kind, message=shown_text(whole.error.message))
        return whole.model_copy(update={"parameters": whole.parameters | urls, "error": error})

    @property
    def _public_message(self) -> str:
        """What whoever asked is told. Why a model cannot be used names files and settings: history and records have that."""
        if self.error_kind == ErrorKind.MODEL_UNAVAILABLE:
            return f"the model {self.parameters['model']} cannot be used here; ask for another one, or the operator for this one"
        return self.error_message or ""


@dataclass(frozen=True, slots=True)
class Created:
    artwork: StoredArtwork
    replayed: bool  # an Idempotency-Key named an artwork that was there
    status_code: int | None  # what the request that made it was answered with; None: not answered yet


@dataclass(frozen=True, slots=True)
class Page:
    artworks: list[StoredArtwork]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """An artwork that one worker, and no other, works on until its lease ends."""

    id: UUID
    image_url: str
    parameters: DepthParameters
    attempt: int  # 1: never tried before
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Transition:
    status: ArtworkStatus
    at: datetime
    worker: str | None
    note: str


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A process that works on artworks, `run_id` of Dagster."""

    name: str
    device: str
    run_id: str
    host: str
    pid: int
    started_at: datetime
    heartbeat_at: datetime
    ended_at: datetime | None
    succeeded: int
    failed: int


@dataclass(frozen=True, slots=True)
class Reconciled:
    released: list[UUID] = field(default_factory=list)  # wait again, and will run alone
    failed: list[UUID] = field(default_factory=list)  # their workers died too often


@dataclass(frozen=True, slots=True)
class Pulse:
    """How the queue is doing."""

    waiting: int
    oldest_waiting_seconds: float  # 0 when nothing waits
    live_workers: int
    last_worker_seconds: float | None  # since the newest sign of life of any worker; None: there was none


@dataclass(frozen=True, slots=True)
class Statistics:
    """Figures over all artworks there are."""

    by_status: dict[str, int]
    stage_seconds: dict[str, tuple[float, int]]  # stage -> seconds in all, artworks


def open_store(settings: Settings) -> ArtworkStore:
    """The artworks of the configured database, migrated where that is due. Raises ConfigurationError."""
    return ArtworkStore(open_database(settings.database_location))


class ArtworkStore:
    """All artworks of one database. Safe to use from many threads; every process opens its own.

    Leases compare times of different machines: their clocks may differ by much less than a lease.
    """

    def __init__(self, database: Database, *, clock: Callable[[], datetime] = db.now) -> None:
        self.database = database
        self.clock = clock

    def close(self) -> None:
        self.database.close()

    # -- requests -------------------------------------------------------------------------------------------------------------

    def create(
        self,
        new: NewArtwork,
        *,
        api_key_id: str,
        source: str = "http",
        idempotency_key: str | None = None,
        status_code: int | None = ACCEPTED,
    ) -> Created:
        """Adds an artwork, or finds the one that the same key's same Idempotency-Key made in the last 24 hours.

        `status_code`: what the request will be answered with, None when that is not known yet (see `answered`).
        Raises IdempotencyConflictError when the key came before with another body.
        """
        at = self.clock()
        artwork_id = uuid4()
        with self.database.write() as connection:
            if idempotency_key is not None:
                earlier = self._claim_key(connection, api_key_id, idempotency_key, new.sha256(), artwork_id, status_code, at)
                if earlier is not None:
                    artwork = _get(connection, earlier.artwork_id)
                    return Created(artwork, replayed=True, status_code=earlier.status_code)
            insert(connection, artwork_id, new, api_key_id=api_key_id, source=source, at=at)
            return Created(_get(connection, artwork_id), replayed=False, status_code=status_code)

    @staticmethod
    def _claim_key(
        connection: Connection, api_key_id: str, key: str, body: str, artwork_id: UUID, status_code: int | None, at: datetime
    ) -> Any | None:
        """The key's row when an earlier request made it; None when this one did."""
        table = db.idempotency_keys
        same = (table.c.api_key_id == api_key_id) & (table.c.key == key)
        connection.execute(sa.delete(table).where(same, table.c.created_at <= at - timedelta(hours=IDEMPOTENCY_HOURS)))
        try:
            with connection.begin_nested():
                connection.execute(
                    sa.insert(table).values(
                        api_key_id=api_key_id,
                        key=key,
                        body_sha256=body,
                        artwork_id=artwork_id,
                        status_code=status_code,
                        created_at=at,
                    )
                )
        except IntegrityError:
            row = connection.execute(sa.select(table).where(same)).one()
            if row.body_sha256 != body:
                raise IdempotencyConflictError(
                    f"Idempotency-Key {key!r} was used with another body; send the same body or another key"
                ) from None
            return row
        return None

    def answered(self, api_key_id: str, idempotency_key: str, status_code: int) -> None:
        """Keeps the status code with which the request that made a key's artwork is answered."""
        table = db.idempotency_keys
        same = (table.c.api_key_id == api_key_id) & (table.c.key == idempotency_key)
        with self.database.write() as connection:
            connection.execute(sa.update(table).where(same).values(status_code=status_code))

    def get(self, artwork_id: UUID, *, api_key_id: str | None = None) -> StoredArtwork | None:
        """One artwork; None when there is none, or it is another key's (`api_key_id` None: whoever's)."""
        query = sa.select(db.artworks).where(db.artworks.c.id == artwork_id, *_owned(api_key_id))
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _stored(row)

    def page(
        self,
        *,
        api_key_id: str | None = None,
        status: ArtworkStatus | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> Page:
        """Newest first. The cursor stays valid while artworks come and change. Raises CursorError."""
        table = db.artworks
        query = sa.select(table).where(*_owned(api_key_id)).order_by(table.c.created_at.desc(), table.c.id.desc())
        if status is not None:
            query = query.where(table.c.status == status)
        if cursor is not None:
            created_at, artwork_id = _read_cursor(cursor)
            older = (table.c.created_at < created_at) | ((table.c.created_at == created_at) & (table.c.id < artwork_id))
            query = query.where(older)
        with self.database.read() as connection:
            rows = [_stored(row) for row in connection.execute(query.limit(limit + 1))]
        return Page(rows[:limit], _cursor(rows[limit - 1]) if len(rows) > limit else None)

    def finished_between(self, start: datetime, end: datetime) -> list[StoredArtwork]:
        """Artworks whose final state came in [start, end), in that order, for the record tables."""
        table = db.artworks
        query = sa.select(table).where(table.c.finished_at >= start, table.c.finished_at < end)
        with self.database.read() as connection:
            return [_stored(row) for row in connection.execute(query.order_by(table.c.finished_at, table.c.id))]

    def which_final(self, ids: Collection[UUID]) -> set[UUID]:
        """Those of `ids` that have their final state."""
        query = sa.select(db.artworks.c.id).where(db.artworks.c.id.in_(ids), db.artworks.c.status.in_(_FINAL))
        with self.database.read() as connection:
            return set(connection.scalars(query))

    def history(self, artwork_id: UUID) -> list[Transition]:
        """Every state an artwork was in, oldest first."""
        table = db.transitions
        with self.database.read() as connection:
            rows = connection.execute(sa.select(table).where(table.c.artwork_id == artwork_id).order_by(table.c.id)).all()
        return [Transition(ArtworkStatus(row.status), row.at, row.worker, row.note) for row in rows]

    def workers_of(self, artwork_id: UUID) -> list[WorkerInfo]:
        """Every worker that had an artwork, in the order in which they began."""
        named = sa.select(db.transitions.c.worker).where(db.transitions.c.artwork_id == artwork_id)
        query = sa.select(db.workers).where(db.workers.c.name.in_(named)).order_by(db.workers.c.started_at)
        with self.database.read() as connection:
            return [WorkerInfo(**row._mapping) for row in connection.execute(query)]

    def prune(self, *, before: datetime, limit: int = 1000) -> int:
        """Forgets up to `limit` artworks that were asked for before a time and have ended; returns how many.

        Their histories and delivered or failed webhooks go with them, and so do workers from before that time. Files in the store
        stay: bulk and other requests share them by content. What is still to be delivered stays, and so does the note of which
        inbox files were picked up, so that a file which still lies there is no new request.
        """
        table, outbox = db.artworks, db.webhook_deliveries
        undelivered = sa.exists().where(outbox.c.artwork_id == table.c.id, outbox.c.state == "pending")
        old = sa.select(table.c.id).where(table.c.status.in_(_FINAL), table.c.created_at < before, sa.not_(undelivered))
        with self.database.write() as connection:
            ids = list(connection.scalars(old.order_by(table.c.created_at).limit(limit).with_for_update(skip_locked=True)))
            connection.execute(sa.delete(db.inbox_entries).where(db.inbox_entries.c.artwork_id.in_(ids)))
            connection.execute(sa.delete(table).where(table.c.id.in_(ids)))
            connection.execute(sa.delete(db.workers).where(db.workers.c.heartbeat_at < before))
        return len(ids)

    def cancel(self, artwork_id: UUID, *, api_key_id: str | None = None) -> StoredArtwork | None:
        """Cancels what is not final yet, waiting or at work, and returns the artwork as it now is; None when there is none.

        What a worker makes of a cancelled artwork afterwards is thrown away by `finish`.
        """
        with self.database.write() as connection:
            mine = sa.select(db.artworks.c.id).where(db.artworks.c.id == artwork_id, *_owned(api_key_id))
            if connection.scalar(mine) is None:
                return None
            _conclude(connection, artwork_id, ArtworkStatus.CANCELED, at=self.clock(), leaving=(_STARTING, _PROCESSING))
            return _get(connection, artwork_id)

    # -- the queue ------------------------------------------------------------------------------------------------------------

    def waiting(self) -> tuple[int, float]:
        """How many artworks wait, and for how many seconds the oldest has."""
        with self.database.read() as connection:
            return self._waiting(connection)

    def _waiting(self, connection: Connection) -> tuple[int, float]:
        oldest = sa.func.min(db.artworks.c.created_at, type_=db.UtcDateTime)
        count, since = connection.execute(sa.select(sa.func.count(), oldest).where(db.artworks.c.status == _STARTING)).one()
        return count, self._age(since)

    def claim(
        self,
        worker: str,
        *,
        limit: int,
        lease_seconds: float,
        loaded: Sequence[str] = (),
        patience_seconds: float = 10.0,
    ) -> list[Claimed]:
        """Up to `limit` waiting artworks with equal parameters, oldest first; nobody else is given them while the lease lasts.

        `loaded`: keys of models that are in memory. They go first, but not before what has waited for `patience_seconds`.
        What was tried before comes alone, so that an image that kills its process does not use up its neighbours' attempts.
        """
        table, at = db.artworks, self.clock()
        waits = table.c.status == _STARTING
        order: list[Any] = [table.c.created_at, table.c.id]
        if loaded:
            impatient = table.c.created_at <= at - timedelta(seconds=patience_seconds)
            order.insert(0, sa.case((table.c.model.in_(loaded) | impatient, 0), else_=1))
        first = sa.select(table.c.id, table.c.batch_key, table.c.attempts).where(waits).order_by(*order).limit(1)
        with self.database.read() as connection:  # most looks find nothing, and then take no lock
            if connection.execute(first).one_or_none() is None:
                return []
        with self.database.write() as connection:
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
                    worker=worker,
                    started_at=at,
                    lease_until=at + timedelta(seconds=lease_seconds),
                    attempts=table.c.attempts + 1,
                )
            )
            _note(connection, ids, _PROCESSING, at, worker)
            rows = connection.execute(sa.select(table).where(table.c.id.in_(ids)).order_by(table.c.created_at, table.c.id)).all()
        parameters = DepthParameters.model_validate(rows[0].parameters)
        return [Claimed(row.id, row.image_url, parameters, row.attempts, row.created_at) for row in rows]

    def finish(
        self,
        artwork_id: UUID,
        worker: str,
        *,
        folder: str,
        results: Sequence[str],
        seconds: Mapping[str, float],
        outcome: Mapping[str, Any] | None = None,
    ) -> bool:
        """Records success: the store's folder key, names of its files, seconds by stage, and the engine's own words.

        False, and nothing changed, when the artwork is no longer this worker's: cancelled, or its lease went to another.
        """
        with self.database.write() as connection:
            done = _conclude(
                connection,
                artwork_id,
                ArtworkStatus.SUCCEEDED,
                at=self.clock(),
                worker=worker,
                folder=folder,
                results=list(results),
                duration=sum(seconds.values()),
                outcome=None if outcome is None else dict(outcome),
            )
            if done:
                _count(connection, worker, "succeeded", seconds)
            return done

    def fail(
        self,
        artwork_id: UUID,
        worker: str,
        kind: ErrorKind,
        message: str,
        *,
        seconds: Mapping[str, float] | None = None,
        outcome: Mapping[str, Any] | None = None,
    ) -> bool:
        """Records failure with its reason. False as in `finish`."""
        with self.database.write() as connection:
            done = _conclude(
                connection,
                artwork_id,
                ArtworkStatus.FAILED,
                at=self.clock(),
                worker=worker,
                note=_storable(f"{kind.value}: {message}"),
                error_kind=kind.value,
                error_message=_storable(message),
                duration=sum((seconds or {}).values()),
                outcome=None if outcome is None else dict(outcome),
            )
            if done:
                _count(connection, worker, "failed", seconds or {})
            return done

    def release(self, ids: Iterable[UUID], worker: str, *, tried: bool = True) -> list[UUID]:
        """Gives claims back, to be claimed again; returns those that were this worker's.

        `tried`: the work was begun, so the attempt counts and the next one is made alone.
        """
        table = db.artworks
        with self.database.write() as connection:
            mine = (table.c.id.in_(list(ids))) & (table.c.status == _PROCESSING) & (table.c.worker == worker)
            held = list(connection.scalars(sa.select(table.c.id).where(mine).with_for_update()))
            _put_back(connection, held, at=self.clock(), note="given back", worker=worker, uncounted=not tried)
        return held

    # -- workers ---------------------------------------------------------------------------------------------------------------

    def start_worker(self, name: str, device: str, *, run_id: str = "") -> None:
        """Announces a worker. Its name is never used twice."""
        at = self.clock()
        with self.database.write() as connection:
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

    def heartbeat(self, worker: str, *, lease_seconds: float) -> set[UUID]:
        """Renews a worker's leases; returns what it still holds: what is missing was cancelled or went to another."""
        table, at = db.artworks, self.clock()
        mine = (table.c.worker == worker) & (table.c.status == _PROCESSING)
        with self.database.write() as connection:
            connection.execute(sa.update(table).where(mine).values(lease_until=at + timedelta(seconds=lease_seconds)))
            held = set(connection.scalars(sa.select(table.c.id).where(mine)))
            connection.execute(sa.update(db.workers).where(db.workers.c.name == worker).values(heartbeat_at=at))
        return held

    def end_worker(self, worker: str) -> list[UUID]:
        """Marks a worker as ended in good order; what it claimed and did not do goes back. Returns that."""
        table, at = db.artworks, self.clock()
        with self.database.write() as connection:
            mine = sa.select(table.c.id).where(table.c.worker == worker, table.c.status == _PROCESSING).with_for_update()
            held = list(connection.scalars(mine))
            _put_back(connection, held, at=at, note="the worker ended", worker=worker, uncounted=True)
            connection.execute(sa.update(db.workers).where(db.workers.c.name == worker).values(ended_at=at, heartbeat_at=at))
        return held

    def workers(self, *, fresh_seconds: float | None = None, device: str | None = None, limit: int = 100) -> list[WorkerInfo]:
        """Workers, newest first. `fresh_seconds`: only those that have not ended and gave a sign of life since."""
        table = db.workers
        query = sa.select(table).order_by(table.c.started_at.desc()).limit(limit)
        if fresh_seconds is not None:
            query = query.where(*self._alive(fresh_seconds))
        if device is not None:
            query = query.where(table.c.device == device)
        with self.database.read() as connection:
            return [WorkerInfo(**row._mapping) for row in connection.execute(query)]

    def _alive(self, fresh_seconds: float) -> tuple[Any, ...]:
        table = db.workers
        return (table.c.ended_at.is_(None), table.c.heartbeat_at > self.clock() - timedelta(seconds=fresh_seconds))

    def reconcile(self, *, max_attempts: int, dead_workers: Collection[str] = ()) -> Reconciled:
        """Takes claims back whose lease has run out, or whose worker is known to be dead.

        They wait again and then run alone; one tried `max_attempts` times fails with worker_lost. Also forgets old
        Idempotency-Keys.
        """
        table, at = db.artworks, self.clock()
        lost = (table.c.status == _PROCESSING) & ((table.c.lease_until < at) | table.c.worker.in_(dead_workers))
        keys = db.idempotency_keys
        old = keys.c.created_at <= at - timedelta(hours=IDEMPOTENCY_HOURS)
        with self.database.read() as connection:  # asked for often, and most often for nothing
            something = sa.exists().where(lost) | sa.exists().where(old)
            if not dead_workers and not connection.scalar(sa.select(something)):
                return Reconciled()
        with self.database.write() as connection:
            query = sa.select(table.c.id, table.c.attempts, table.c.worker).where(lost).order_by(table.c.id)
            rows = connection.execute(query.with_for_update(skip_locked=True)).all()
            again = [row.id for row in rows if row.attempts < max_attempts]
            over = [row for row in rows if row.attempts >= max_attempts]
            _put_back(connection, again, at=at, note="its worker gave no sign of life")
            for row in over:
                _conclude(
                    connection,
                    row.id,
                    ArtworkStatus.FAILED,
                    at=at,
                    note=f"{ErrorKind.WORKER_LOST.value} ({row.worker})",
                    error_kind=ErrorKind.WORKER_LOST.value,
                    error_message=f"the process working on it died {row.attempts} times; the image may be what kills it",
                )
            connection.execute(sa.delete(keys).where(old))
            if dead_workers:
                gone = db.workers.c.name.in_(dead_workers) & db.workers.c.ended_at.is_(None)
                connection.execute(sa.update(db.workers).where(gone).values(ended_at=at))
        return Reconciled(again, [row.id for row in over])

    # -- figures --------------------------------------------------------------------------------------------------------------

    def pulse(self, *, fresh_seconds: float) -> Pulse:
        """The queue and its workers, cheap to ask for. `fresh_seconds`: a worker is alive that gave a sign of life since."""
        workers = db.workers
        with self.database.read() as connection:
            waiting, oldest = self._waiting(connection)
            live = connection.scalar(sa.select(sa.func.count()).select_from(workers).where(*self._alive(fresh_seconds)))
            last = connection.scalar(sa.select(sa.func.max(workers.c.heartbeat_at, type_=db.UtcDateTime)))
        return Pulse(waiting, oldest, live or 0, None if last is None else self._age(last))

    def statistics(self) -> Statistics:
        """Counts every artwork, so its cost grows with them: for a scrape now and then."""
        status = db.artworks.c.status
        with self.database.read() as connection:
            counts = {row[0]: row[1] for row in connection.execute(sa.select(status, sa.func.count()).group_by(status))}
            stages = connection.execute(sa.select(db.stage_seconds)).all()
        return Statistics(
            by_status={each: counts.get(each, 0) for each in ArtworkStatus},
            stage_seconds={row.stage: (row.seconds, row.artworks) for row in stages},
        )

    def _age(self, since: datetime | None) -> float:
        return 0.0 if since is None else max(0.0, (self.clock() - since).total_seconds())


# -- statements that several transactions share -------------------------------------------------------------------------------


def insert(connection: Connection, artwork_id: UUID, new: NewArtwork, *, api_key_id: str, source: str, at: datetime) -> None:
    """Adds one waiting artwork within the caller's transaction."""
    connection.execute(
        sa.insert(db.artworks).values(
            id=artwork_id,
            api_key_id=api_key_id,
            source=source,
            image_url=new.image_url,
            webhook=new.webhook,
            parameters=new.parameters.as_api(),
            model=new.parameters.spec.key,
            batch_key=new.parameters.digest(),
            status=_STARTING,
            created_at=at,
            attempts=0,
            duration=0.0,
            folder="",
            results=[],
        )
    )
    _note(connection, [artwork_id], _STARTING, at, None, source)


def _conclude(
    connection: Connection,
    artwork_id: UUID,
    status: ArtworkStatus,
    *,
    at: datetime,
    worker: str | None = None,
    leaving: Sequence[ArtworkStatus] = (_PROCESSING,),
    note: str = "",
    **values: Any,
) -> bool:
    """The final state, its transition and its webhook, unless the artwork has left the state, or the worker, it must be in."""
    table = db.artworks
    here = sa.update(table).where(table.c.id == artwork_id, table.c.status.in_(leaving))
    if worker is not None:
        here = here.where(table.c.worker == worker)
    changed = connection.execute(here.values(status=status, finished_at=at, lease_until=None, **values))
    if changed.rowcount == 0:
        return False
    _note(connection, [artwork_id], status, at, worker, note)
    row = connection.execute(sa.select(table.c.webhook, table.c.api_key_id).where(table.c.id == artwork_id)).one()
    if row.webhook is not None:
        connection.execute(
            sa.insert(db.webhook_deliveries).values(
                id=uuid4(),
                artwork_id=artwork_id,
                api_key_id=row.api_key_id,
                url=row.webhook,
                host=(urlsplit(row.webhook).hostname or "")[:255],
                state="pending",
                created_at=at,
                next_attempt_at=at,
                tries=0,
            )
        )
    return True


def _put_back(
    connection: Connection,
    ids: Sequence[UUID],
    *,
    at: datetime,
    note: str,
    worker: str | None = None,
    uncounted: bool = False,
) -> None:
    """Claims become waiting artworks again. The caller holds the rows."""
    if not ids:
        return
    table = db.artworks
    values: dict[str, Any] = {"status": _STARTING, "worker": None, "lease_until": None, "started_at": None}
    if uncounted:
        values["attempts"] = table.c.attempts - 1
    connection.execute(sa.update(table).where(table.c.id.in_(ids)).values(values))
    _note(connection, ids, _STARTING, at, worker, note)


def _note(
    connection: Connection, ids: Sequence[UUID], status: ArtworkStatus, at: datetime, worker: str | None, note: str = ""
) -> None:
    rows = [{"artwork_id": each, "status": status, "at": at, "worker": worker, "note": note} for each in ids]
    connection.execute(sa.insert(db.transitions), rows)


def _count(connection: Connection, worker: str, outcome: str, seconds: Mapping[str, float]) -> None:
    column = db.workers.c[outcome]
    connection.execute(sa.update(db.workers).where(db.workers.c.name == worker).values({column: column + 1}))
    table = db.stage_seconds
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    for stage in sorted(seconds):  # sorted: see the lock order
        added = dialect.insert(table).values(stage=stage, seconds=seconds[stage], artworks=1)
        sums = {"seconds": table.c.seconds + added.excluded.seconds, "artworks": table.c.artworks + 1}
        connection.execute(added.on_conflict_do_update(index_elements=[table.c.stage], set_=sums))


def _owned(api_key_id: str | None) -> tuple[sa.ColumnElement[bool], ...]:
    return () if api_key_id is None else (db.artworks.c.api_key_id == api_key_id,)


def _get(connection: Connection, artwork_id: UUID) -> StoredArtwork:
    return _stored(connection.execute(sa.select(db.artworks).where(db.artworks.c.id == artwork_id)).one())


def _stored(row: Any) -> StoredArtwork:
    words = row._mapping
    kept = {name: words[name] for name in StoredArtwork.__slots__}
    return StoredArtwork(**kept | {"status": ArtworkStatus(row.status), "results": tuple(row.results)})


def _storable(text: str) -> str:
    """PostgreSQL's text takes no NUL and no lone surrogates; messages quote what strangers sent."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


# A cursor is 24 bytes, the microseconds and the id of the last artwork shown: any 32 letters of the alphabet are a place in the
# list, so there is no such thing as a well-formed cursor that is wrong.
CURSOR_PATTERN = r"^[A-Za-z0-9_-]{32}$"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


def _cursor(artwork: StoredArtwork) -> str:
    micros = (artwork.created_at - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(micros.to_bytes(8) + artwork.id.bytes).decode()


def _read_cursor(cursor: str) -> tuple[datetime, UUID]:
    if not re.fullmatch(CURSOR_PATTERN, cursor):
        raise CursorError(f"cursor {cursor!r} is none that a listing has handed out; begin without one")
    place = base64.urlsafe_b64decode(cursor)
    return _EPOCH + timedelta(microseconds=min(int.from_bytes(place[:8]), _LAST)), UUID(bytes=place[8:])
