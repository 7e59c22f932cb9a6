"""Waiting for artworks to be final, for `Prefer: wait`: one query to the database for all who wait, not one for each."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

from fastapi import Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from depth_api.logs import log
from depth_core.serving.artworks.store import ArtworkStore

LONGEST_WAIT = 60  # seconds
POLL_SECONDS = 0.05
RETRY_SECONDS = 1.0
_WAIT = re.compile(r'(?:^|[,;\s])wait\s*=\s*"?0*(\d+)"?\s*(?:$|[,;])', re.IGNORECASE)


class LongPolling:
    """Requests that wait, by artwork. Lives on one event loop."""

    def __init__(self, store: ArtworkStore) -> None:
        self._store = store
        self._waiters: defaultdict[UUID, set[asyncio.Event]] = defaultdict(set)
        self._poller: asyncio.Task[None] | None = None
        self._not_yet: tuple[int | None, frozenset[UUID]] = (None, frozenset())  # those not final at a stamp of the database

    async def until_final(self, artwork_id: UUID, seconds: float) -> None:
        """Returns when the artwork has its final status, or after `seconds`."""
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
                final = await run_in_threadpool(self._which_final, frozenset(self._waiters))
            except SQLAlchemyError:
                log.exception("the database does not answer; requests keep waiting")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for artwork_id in final:
                for event in self._waiters.get(artwork_id, ()):
                    event.set()
            await asyncio.sleep(POLL_SECONDS)

    def _which_final(self, ids: frozenset[UUID]) -> set[UUID]:
        """Those of `ids` that became final. The database is asked only where somebody has written since, or others wait."""
        stamp = self._store.database.stamp()
        if stamp is not None and (stamp, ids) == self._not_yet:
            return set()
        final = self._store.which_final(ids)
        self._not_yet = (stamp, ids - final)
        return final


def wait_seconds(prefer: list[str]) -> int:
    """The seconds of `Prefer: wait=N`, at most LONGEST_WAIT, 0 without; other preferences are ignored, as RFC 7240 has it."""
    found = _WAIT.search(", ".join(prefer))
    if not found:
        return 0
    return LONGEST_WAIT if len(found[1]) > 9 else min(int(found[1]), LONGEST_WAIT)


async def unless_disconnected(request: Request, answer: Coroutine[Any, Any, None]) -> None:
    """Waits for `answer`, and no longer than the client does. The body has been read. Raises ClientDisconnect."""
    waiting = asyncio.create_task(answer)
    listening = asyncio.create_task(_until_disconnected(request))
    try:
        await asyncio.wait([waiting, listening], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ClientDisconnect
        await waiting
    finally:
        for task in (waiting, listening):
            task.cancel()


async def _until_disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
