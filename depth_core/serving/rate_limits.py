"""How often each API key may call, in the database, so that it holds over all processes of the API.

What does not belong here: which keys there are, and what a refused call is answered.
"""

from __future__ import annotations

import math

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from depth_core.serving import database as db
from depth_core.serving.database import Database

_BURST_SECONDS = 4.0
_ROUNDING = 0.01  # of a token: sums of times in floating point are a little off
_SKEW_SECONDS = 60.0  # by which the clocks of several machines may differ


class RateLimits:
    """A bucket of tokens for each key: `per_second` refills it, four seconds' worth fit in, and at least one. 0: no limit.

    A row says when its bucket would be full again. One that says a time further ahead than an empty bucket needs is of a clock
    that was set back since, or of a lower limit: it begins anew. A row is not worth waiting for a disk: what a machine that loses
    its power forgets are some calls of the last moment. Safe to use from many threads.
    """

    def __init__(self, url: str, per_second: float) -> None:
        self._rate = per_second
        self._size = max(1.0, per_second * _BURST_SECONDS)
        self.database = Database(url)  # connections of its own, which do not wait for the disk; opens none yet
        if self.database.engine.dialect.name == "sqlite":
            sa.event.listen(self.database.engine, "connect", _commit_without_sync)
        else:
            sa.event.listen(self.database.engine, "begin", _commit_asynchronously)

    def __bool__(self) -> bool:
        return self._rate > 0

    def take(self, who: str) -> int:
        """0 when the call may go on, else the whole seconds after which it may come again. Raises errors of the database."""
        if not self:
            return 0
        table, cost = db.rate_limits, 1 / self._rate
        slack = (self._size - 1 + _ROUNDING) * cost  # a bucket that is full no later than that from now has a token
        with self.database.write() as connection:
            now = self.database.clock().timestamp()  # not when it began to wait for other writers
            astray = table.c.full_at > now + self._size * cost + _SKEW_SECONDS
            later = sa.case((sa.or_(table.c.full_at <= now, astray), now), else_=table.c.full_at) + cost
            may_go_on = sa.or_(table.c.full_at <= now + slack, astray)
            new = db.insert(connection, table).values(api_key_id=who, full_at=now + cost)
            taken = new.on_conflict_do_update(index_elements=[table.c.api_key_id], set_={"full_at": later}, where=may_go_on)
            if connection.scalar(taken.returning(table.c.full_at)) is not None:
                return 0
            full_at: float | None = connection.scalar(sa.select(table.c.full_at).where(table.c.api_key_id == who))
        return max(1, math.ceil((full_at or now) - now - slack))

    def close(self) -> None:
        self.database.close()


def _commit_without_sync(connection: object, _record: object) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")  # type: ignore[attr-defined]  # with a WAL no commit waits, and none is half


def _commit_asynchronously(connection: Connection) -> None:
    connection.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")
