"""The database of single requests and of leases on chunks: its tables, how it is opened, how it is brought up to date.

SQLite and PostgreSQL take one code path; dialects.py connects to them. What does not belong here: what the rows mean (artworks/,
inbox/, webhooks/, leases.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.types import TypeDecorator

from depth_core.display import shown_text, shown_url
from depth_core.errors import ConfigurationError
from depth_core.serving.dialects import SqliteWatcher, open_engine

HEAD = "0004"  # the newest revision in migrations/versions
_MIGRATION_LOCK = 0x6465707468  # any number, the same in every process


def now() -> datetime:
    """The time, UTC, in the microseconds that both databases keep."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time. SQLite keeps no zone: it is taken off going in and put back coming out."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# -- tables: a change here is a new file in migrations/versions, and HEAD ----------------------------------------------------

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

artworks = sa.Table(
    "artworks",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("api_key_id", sa.String(64), nullable=False),
    sa.Column("source", sa.Text, nullable=False),  # "http", or where the inbox file lay
    sa.Column("image_url", sa.Text, nullable=False),
    sa.Column("webhook", sa.Text),
    sa.Column("webhook_events", sa.JSON(none_as_null=True)),  # which it is told of; null: not given
    sa.Column("parameters", sa.JSON, nullable=False),  # the API's spelling, without imageUrl and those of the webhook
    sa.Column("model", sa.String(64), nullable=False),  # the catalogue's key
    sa.Column("batch_key", sa.String(16), nullable=False),  # equal: may run in one batch
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("started_at", UtcDateTime),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("worker", sa.String(128)),
    sa.Column("lease_until", UtcDateTime),
    sa.Column("duration", sa.Float, nullable=False),
    sa.Column("folder", sa.Text, nullable=False),
    sa.Column("results", sa.JSON, nullable=False),  # names of files in the folder
    sa.Column("error_kind", sa.String(32)),
    sa.Column("error_message", sa.Text),
    sa.Column("usable_models", sa.Text),  # for people, where its model could not be used
    sa.Column("outcome", sa.JSON(none_as_null=True)),  # what the engine says of it, for the record tables
    sa.Index(None, "status", "created_at", "id"),
    sa.Index(None, "api_key_id", "created_at", "id"),
    sa.Index(None, "worker"),
    sa.Index(None, "finished_at"),
    sa.Column("upload_id", sa.Uuid),  # where the image URL is of an upload
    sa.Index(None, "folder"),
    sa.Index(None, "upload_id"),
)

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("api_key_id", sa.String(64), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("media_type", sa.String(64), nullable=False),
    sa.Column("stored", sa.Boolean, nullable=False),  # its bytes are in the store
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False, index=True),
)

transitions = sa.Table(
    "transitions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("artwork_id", sa.Uuid, sa.ForeignKey("artworks.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("worker", sa.String(128)),
    sa.Column("note", sa.Text, nullable=False),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("api_key_id", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("body_sha256", sa.String(64), nullable=False),
    sa.Column("artwork_id", sa.Uuid, nullable=False),
    sa.Column("status_code", sa.Integer),  # null until the first request was answered
    sa.Column("created_at", UtcDateTime, nullable=False, index=True),
)

removed_folders = sa.Table(
    "removed_folders",
    metadata,
    sa.Column("folder", sa.Text, primary_key=True),  # of results: files may be gone that a worker has seen
    sa.Column("removed_at", UtcDateTime, nullable=False, index=True),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("device", sa.String(32), nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("heartbeat_at", UtcDateTime, nullable=False, index=True),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("succeeded", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("models", sa.JSON(none_as_null=True)),  # which it can use: availability and reason by key; null: not told yet
)

stage_seconds = sa.Table(
    "stage_seconds",
    metadata,
    sa.Column("stage", sa.String(32), primary_key=True),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("artworks", sa.Integer, nullable=False),
)

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("artwork_id", sa.Uuid, sa.ForeignKey("artworks.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("api_key_id", sa.String(64), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("event", sa.String(16), nullable=False, server_default="final"),  # what it tells of
    sa.Column("state", sa.String(16), nullable=False),  # pending, delivered, failed, skipped
    sa.Column("reason", sa.Text),  # why it was not attempted
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("next_attempt_at", UtcDateTime, nullable=False),
    sa.Column("lease_until", UtcDateTime),
    sa.Column("tries", sa.Integer, nullable=False),  # place in the retry schedule; a replay begins again
    sa.Column("replayed", sa.Boolean, nullable=False, server_default=sa.false()),  # tried even where its endpoint is disabled
    sa.Index(None, "state", "next_attempt_at"),
)

webhook_attempts = sa.Table(
    "webhook_attempts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("delivery_id", sa.Uuid, sa.ForeignKey("webhook_deliveries.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("status_code", sa.Integer),  # null: no answer came
    sa.Column("error", sa.Text),
)

webhook_endpoints = sa.Table(
    "webhook_endpoints",
    metadata,
    sa.Column("api_key_id", sa.String(64), primary_key=True),
    sa.Column("url_sha256", sa.String(64), primary_key=True),  # URLs are too long for a key
    sa.Column("url", sa.Text, nullable=False),  # without query and fragment
    sa.Column("failing_since", UtcDateTime, nullable=False),  # the first failure since the last success, which deletes the row
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("last_failure_at", UtcDateTime, nullable=False),
    sa.Column("last_error", sa.Text, nullable=False),
    sa.Column("disabled_at", UtcDateTime),
)

webhook_secrets = sa.Table(
    "webhook_secrets",
    metadata,
    sa.Column("api_key_id", sa.String(64), primary_key=True),
    sa.Column("encrypted", sa.LargeBinary, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

webhook_earlier_secrets = sa.Table(
    "webhook_earlier_secrets",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("api_key_id", sa.String(64), nullable=False, index=True),
    sa.Column("encrypted", sa.LargeBinary, nullable=False),
    sa.Column("until", UtcDateTime, nullable=False),  # it signs too before that time
)

inbox_files = sa.Table(
    "inbox_files",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("stamp", sa.Text, nullable=False),  # size and time or ETag: shows that a file is unchanged, without reading it
    sa.Column("is_list", sa.Boolean, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),  # claimed, answered
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("path", "sha256"),
)

inbox_entries = sa.Table(
    "inbox_entries",
    metadata,
    sa.Column("file_id", sa.Integer, sa.ForeignKey("inbox_files.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("artwork_id", sa.Uuid, sa.ForeignKey("artworks.id"), nullable=False, unique=True),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),  # what is held
    sa.Column("holder", sa.String(64), nullable=False),  # new for each process that holds some
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("lease_until", UtcDateTime, nullable=False),
    sa.Index(None, "holder"),
)

rate_limits = sa.Table(
    "rate_limits",
    metadata,
    sa.Column("api_key_id", sa.String(64), primary_key=True),
    sa.Column("full_at", sa.Float, nullable=False),  # seconds since 1970: when its bucket of tokens is full again
)


def insert(connection: Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that can be told what to do `on_conflict`."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


# -- opening ------------------------------------------------------------------------------------------------------------------


class Database:
    """An open database, and the clock by which its rows are dated. Safe to use from many threads; every process opens its own."""

    def __init__(self, url: str, connect_args: Mapping[str, Any] | None = None) -> None:
        self.clock: Callable[[], datetime] = now
        self.engine = open_engine(url, dict(connect_args or {}))
        self._reader = self.engine.execution_options(depthline_reads=True)
        self._watcher = SqliteWatcher(self.engine) if self.engine.dialect.name == "sqlite" else None

    @property
    def shown_url(self) -> str:
        """For people: without user name, password and other credentials."""
        return shown_url(self.engine.url.render_as_string(hide_password=True))

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that commits at the end. On SQLite it holds the write lock from its first statement."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that only reads, and on SQLite waits for nobody."""
        with self._reader.connect() as connection:
            yield connection

    def stamp(self) -> int | None:
        """A number that is another one once anybody has written, at a hundredth of a query's price, for those who ask often.

        None where only a query can tell: with PostgreSQL.
        """
        return None if self._watcher is None else self._watcher.stamp()

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.close()
        self.engine.dispose()


def open_database(url: str) -> Database:
    """Opens a database and migrates it where that is due.

    Raises ConfigurationError when the URL is wrong, the server does not answer, or the database is newer than this program.
    """
    database = Database(url)
    try:
        with _clear_errors(database):
            if _revision(database) != HEAD:
                migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def describe(url: str) -> str:
    """Describes a database in a line; connects for at most some seconds, and neither creates nor migrates anything.

    Raises ConfigurationError as `open_database` does.
    """
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///").partition("?")[0]).exists():
        return f"{shown_url(url)}, created when it is first needed"
    database = Database(url, connect_args={"connect_timeout": 2} if not url.startswith("sqlite") else {})
    try:
        with _clear_errors(database):
            revision = _revision(database)
    finally:
        database.close()
    return f"{database.shown_url}, " + ("ready" if revision == HEAD else "its tables are created when they are first needed")


@contextmanager
def _clear_errors(database: Database) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:  # no answer, no permission, a file that is no database
        reason = shown_text(" ".join(str(error.orig).split()))
        raise ConfigurationError(f"cannot open the database {database.shown_url} (DEPTH_DATABASE_URL): {reason}") from None


def migrate(database: Database) -> None:
    """Brings the tables to HEAD in one transaction; processes that start together take turns."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with database.write() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise ConfigurationError(
                f"the database was made by a newer depthline ({error}); update this one, or set DEPTH_DATABASE_URL"
            ) from None


def _revision(database: Database) -> str | None:
    try:
        with database.read() as connection:
            revision: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
            return revision
    except OperationalError as error:
        if database.engine.dialect.name == "sqlite" and "no such table" in str(error.orig):
            return None
        raise
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == "42P01":  # undefined_table
            return None
        raise
