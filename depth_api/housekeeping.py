"""What the API tidies up while it runs: expired uploads, and notes that nobody needs. Several processes share the work."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.concurrency import run_in_threadpool

from depth_api.logs import log
from depth_core.serving import uploads
from depth_core.serving.artworks import deletion
from depth_core.serving.database import Database
from depth_core.storage import Store

SECONDS = 60.0  # between two times


async def tidy_loop(database: Database, store: Store, stop: asyncio.Event) -> None:
    """Tidies up at once and then every SECONDS, until `stop` is set. What fails is logged, and tried again."""
    while not stop.is_set():
        try:
            await run_in_threadpool(tidy, database, store)
        except Exception:  # noqa: BLE001 - by place: the next time may succeed
            log.exception("expired uploads stay for now")
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), SECONDS)


def tidy(database: Database, store: Store) -> None:
    """Raises StoreError, and errors of the database."""
    uploads.delete_expired(database, store)
    deletion.forget_removed(database)
