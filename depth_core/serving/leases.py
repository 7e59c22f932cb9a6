"""Leases: what one run at a time may work on, over all machines that share the database.

A lease has a holder and an end. Its holder's heartbeats put the end off; a holder that was killed sends none, and whoever asks
after the end takes the lease over. What does not belong here: what a name stands for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from depth_core.errors import ConfigurationError, DepthlineError
from depth_core.serving.database import Database, leases, open_database
from depth_core.settings import Settings

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # between two questions for what others hold, when nothing else is left

Lease = AbstractContextManager[None]


class LeaseLostError(DepthlineError):
    """A run no longer has a lease that it took: another one has, or has had it since."""


@contextmanager
def open_leases(settings: Settings, *, run_id: str) -> Iterator[Leases]:
    """The leases of one run in the configured database, migrated where that is due, with heartbeats as long as the block runs.

    Raises ConfigurationError when the database cannot be opened.
    """
    database = open_database(settings.database_location)
    try:
        held = Leases(database, run_id=run_id, seconds=settings.lease_seconds)
        with held.heartbeats():
            yield held
    finally:
        database.close()


class Leases:
    """The leases that one run asks for and holds. Safe to use from many threads. `seconds`: how long one lasts by itself."""

    def __init__(self, database: Database, *, run_id: str, seconds: float) -> None:
        self._database = database
        self._holder = uuid4().hex
        self._run_id = run_id
        self.seconds = seconds
        self._lasts = timedelta(seconds=seconds)
        self._held_here: set[str] = set()  # and not known to be lost
        self._seen: dict[str, str] = {}  # name -> the run that had it when somebody asked for news

    def hold(self, name: str) -> Lease | None:
        """Takes a lease at once and returns what gives it back at its end; None while another one, or this one, holds it.

        The end may be in another thread. Raises ConfigurationError when the database does not answer.
        """
        with self._clear_errors(), self._database.write() as connection:
            at = self._database.clock()  # not when it began to wait for other writers
            mine = {"holder": self._holder, "run_id": self._run_id, "lease_until": at + self._lasts}
            insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            taken = connection.execute(
                insert(leases)
                .values(name=name, **mine)
                .on_conflict_do_update(index_elements=["name"], set_=mine, where=leases.c.lease_until <= at)
                .returning(leases.c.name)
            )
            if taken.first() is None:
                return None
        self._held_here.add(name)
        return self._held(name)

    def held_by(self, name: str) -> str | None:
        """The run that holds a lease; None when nobody does. Raises ConfigurationError as `hold`."""
        query = sa.select(leases.c.run_id).where(leases.c.name == name, leases.c.lease_until > self._database.clock())
        with self._clear_errors(), self._database.read() as connection:
            run_id: str | None = connection.scalar(query)
            return run_id

    def news_of(self, name: str) -> str | None:
        """The run that holds a lease, where that is another one than at the last call; None otherwise."""
        run_id = self.held_by(name)
        if run_id is None or self._seen.get(name) == run_id:
            return None
        self._seen[name] = run_id
        return run_id

    def confirm(self, name: str) -> None:
        """Makes sure that a lease is held here, and lasts by itself for at least half as long as a new one.

        For the moment before what only its holder may do. Raises LeaseLostError when another run has taken it over, also where
        that has given it back since; ConfigurationError as `hold`.
        """
        mine = (leases.c.name == name) & (leases.c.holder == self._holder)
        with self._clear_errors():
            with self._database.read() as connection:
                until = connection.scalar(sa.select(leases.c.lease_until).where(mine))
            kept = until is not None and until - self._database.clock() >= self._lasts / 2
            if until is not None and not kept:
                kept = bool(self._extend(mine))
        if not kept:
            self._held_here.discard(name)
            raise LeaseLostError(
                f"run {self._run_id} sent no heartbeat for {self.seconds:g} s (DEPTH_LEASE_SECONDS), and another "
                f"one has taken over {name}"
            )

    def renew(self) -> None:
        """Puts off the end of every lease that is held here. What another run has taken over is lost: it is logged, once."""
        held = self._held_here.copy()
        kept = self._extend(leases.c.holder == self._holder)
        for name in (held - kept) & self._held_here:
            self._held_here.discard(name)
            log.warning(
                "run %s sent no heartbeat for %s s, and another one has taken over %s: both are at work on it",
                self._run_id,
                self.seconds,
                name,
            )

    def _extend(self, which: sa.ColumnElement[bool]) -> set[str]:
        """Puts off the end of leases; returns their names."""
        with self._database.write() as connection:
            until = self._database.clock() + self._lasts
            return set(connection.scalars(sa.update(leases).where(which).values(lease_until=until).returning(leases.c.name)))

    @contextmanager
    def heartbeats(self) -> Generator[None, None, None]:
        """Renews what is held here, in a thread, as long as the block runs."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(self.seconds / 4):
                try:
                    self.renew()
                except Exception:
                    log.exception("the leases of run %s could not be renewed; trying again", self._run_id)

        thread = threading.Thread(target=beat, name="leases", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _held(self, name: str) -> Lease:
        @contextmanager
        def until_left() -> Iterator[None]:
            try:
                yield
            finally:
                self._give_back(name)

        return until_left()

    def _give_back(self, name: str) -> None:
        """Of a lease that was taken over meanwhile, nothing."""
        self._held_here.discard(name)
        try:
            with self._database.write() as connection:
                connection.execute(sa.delete(leases).where(leases.c.name == name, leases.c.holder == self._holder))
        except SQLAlchemyError:  # what was done under it is done; it ends by itself
            log.exception("the lease on %s could not be given back; it ends by itself", name)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            where = self._database.shown_url
            raise ConfigurationError(
                f"the database {where} (DEPTH_DATABASE_URL) does not answer: {type(error).__name__}"
            ) from error


def one_by_one(names: Iterable[str], hold: Callable[[str], Lease | None], *, pause: float = POLL_SECONDS) -> Iterator[str]:
    """Yields each name while its lease is held. What others hold is waited for, and what is free goes first."""
    waiting, busy = deque(names), 0
    while waiting:
        name = waiting.popleft()
        lease = hold(name)
        if lease is None:
            waiting.append(name)
            busy += 1
            if busy >= len(waiting):
                time.sleep(pause)
                busy = 0
            continue
        busy = 0
        with lease:
            yield name
