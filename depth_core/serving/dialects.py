"""How SQLite and PostgreSQL are connected to. What does not belong here: tables, rows, migrations."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import PoolProxiedConnection

from depth_core.errors import ConfigurationError

_BUSY_SECONDS = 30.0
SQLITE_PRAGMAS = ("synchronous=FULL", "foreign_keys=ON")


def open_engine(url: str, connect_args: dict[str, Any]) -> Engine:
    """The engine for a database URL; connects to nothing yet. `connect_args`: PostgreSQL's. Raises ConfigurationError."""
    try:
        parsed = sa.make_url(url)
        if parsed.drivername == "sqlite":
            return _sqlite(parsed)
        if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
            return _postgresql(parsed, connect_args)
    except (ArgumentError, ValueError):  # nothing is quoted: of what cannot be read, any part may be the password
        raise ConfigurationError(
            "DEPTH_DATABASE_URL is not a database URL (not shown here, it may contain a password); e.g. sqlite:///data/depthline.db"
        ) from None
    raise ConfigurationError(
        f"DEPTH_DATABASE_URL: {parsed.drivername} is not supported; sqlite:///file or postgresql://host/name"
    )


def _postgresql(url: URL, connect_args: dict[str, Any]) -> Engine:
    if "@" in f"{url.host}{url.database}":  # the rest of the password, and errors quote the host
        raise ConfigurationError("DEPTH_DATABASE_URL has more than one @; write an @ in a password as %40")
    address = url.set(drivername="postgresql+psycopg")
    return sa.create_engine(address, connect_args=connect_args, pool_pre_ping=True, pool_size=10, max_overflow=20)


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise ConfigurationError(
            "DEPTH_DATABASE_URL: several processes share the database, so SQLite needs a file: sqlite:///file"
        )
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_SECONDS}, pool_size=10, max_overflow=20)

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not where the driver guesses
        _to_wal(connection)
        for pragma in SQLITE_PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # One that reads first and writes later can find itself locked out half-way; one that takes the lock at once cannot.
        reads = connection.get_execution_options().get("depthline_reads", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _to_wal(connection: Any) -> None:
    """Waits for others who do the same: SQLite answers that change with "locked" at once, whatever the timeout."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


class SqliteWatcher:
    """Notices that a SQLite file was written, by any process, without a transaction of the engine. Safe to use from many threads.

    Its connection is opened when it is first asked, and writes nothing: so every write is another connection's.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: PoolProxiedConnection | None = None
        self._lock = threading.Lock()

    def stamp(self) -> int | None:
        """A number that is another one once somebody has written; None where the file cannot be opened or read: a query tells."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._engine.raw_connection()
                    self._connection.detach()  # the pool's places are for transactions
                ((number,),) = self._connection.cursor().execute("PRAGMA data_version").fetchall()
            except sqlite3.Error:
                return None
            return int(number)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
