"""Figures of the queue and of all artworks, for health checks, metrics and the tables of days."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import sqlalchemy as sa

from depth_core.contract import ArtworkStatus
from depth_core.serving import database as db
from depth_core.serving.artworks.queue import count_waiting
from depth_core.serving.artworks.types import QueueStatus, Statistics
from depth_core.serving.artworks.worker_registry import alive
from depth_core.serving.database import Database


def queue_status(database: Database, *, fresh_seconds: float) -> QueueStatus:
    """The queue and its workers, cheap to ask for. `fresh_seconds`: a worker whose last heartbeat is no older is alive."""
    at, workers = database.clock(), db.workers
    with database.read() as connection:
        waiting, oldest = count_waiting(connection, at)
        live = connection.scalar(sa.select(sa.func.count()).select_from(workers).where(*alive(database, fresh_seconds)))
        last = connection.scalar(sa.select(sa.func.max(workers.c.heartbeat_at, type_=db.UtcDateTime)))
    return QueueStatus(waiting, oldest, live or 0, None if last is None else max(0.0, (at - last).total_seconds()))


def statistics(database: Database) -> Statistics:
    """Counts every artwork, so its cost grows with them: for a scrape now and then."""
    status = db.artworks.c.status
    with database.read() as connection:
        counts = {row[0]: row[1] for row in connection.execute(sa.select(status, sa.func.count()).group_by(status))}
        stages = connection.execute(sa.select(db.stage_seconds)).all()
    return Statistics(
        by_status={each: counts.get(each, 0) for each in ArtworkStatus},
        stage_seconds={row.stage: (row.seconds, row.artworks) for row in stages},
    )


def days_with_ends(database: Database, *, after: datetime | None = None) -> tuple[list[date], datetime | None]:
    """The days (UTC) on which artworks ended after a time, or at all, oldest first; and when the last of them ended.

    Costs a look at an index for each of these days, however many artworks there are.
    """
    ended = db.artworks.c.finished_at
    first, last = (function(ended, type_=db.UtcDateTime) for function in (sa.func.min, sa.func.max))
    days: list[date] = []
    with database.read() as connection:
        latest = connection.scalar(sa.select(last) if after is None else sa.select(last).where(ended > after))
        since = ended.is_not(None) if after is None else ended > after
        while found := connection.scalar(sa.select(first).where(since)):
            days.append(found.date())
            since = ended >= datetime.combine(found.date() + timedelta(days=1), time(), UTC)
    return days, latest
