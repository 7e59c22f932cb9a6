"""Waits for artworks to end, for `Prefer: wait`: one question to the database for all who wait, not one for each."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from depth_api.telemetry import log
from depth_core.serving.artworks.store import ArtworkStore

POLL_SECONDS = 0.05
RETRY_SECONDS = 1.0


class Waiting:
    """Who waits for what. Lives on one event loop."""

    def __init__(self, store: ArtworkStore) -> None:
        self._store = store
        self._waiters: defaultdict[UUID, set[asyncio.Event]] = defaultdict(set)
        self._poller: asyncio.Task[None] | None = None

    async def until_final(self, artwork_id: UUID, seconds: float) -> None:
        """Returns when the artwork has its final state, or after `seconds`."""
        event = asyncio.Event()
        self._waiters[artwork_id].add(event)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            pass
        finally:
            self._waiters[artwork_id].discard(event)
            if not self._waiters[artwork_id]:
                del self._waiters[artwork_id]

    async def _poll(self) -> None:
        while self._waiters:
            try:
                final = await run_in_threadpool(self._store.which_final, list(self._waiters))
            except SQLAlchemyError:
                log.exception("waits go on: the database does not answer")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for artwork_id in final:
                for event in self._waiters.get(artwork_id, ()):
                    event.set()
            await asyncio.sleep(POLL_SECONDS)
