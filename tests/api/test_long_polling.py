"""Waiting for artworks to end: how often the database is asked."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from depth_api.long_polling import LongPolling
from depth_core.contract import DepthParameters
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import NewArtwork


class Database:
    """Counts how often it is asked; at the last time everything is final. `stamps`: what it is at, look after look."""

    def __init__(self, stamps: list[int | None], *, final_at: int) -> None:
        self.database = self
        self.stamps = stamps
        self.final_at = final_at
        self.asked = 0

    def stamp(self) -> int | None:
        return self.stamps.pop(0)

    def which_final(self, ids: frozenset[Any]) -> set[Any]:
        self.asked += 1
        return set(ids) if self.asked == self.final_at else set()


def wait_in(database: Database, clients: int) -> None:
    async def wait() -> None:
        polling = LongPolling(database)  # type: ignore[arg-type]
        await asyncio.gather(*(polling.until_final(uuid4(), 30) for _ in range(clients)))

    asyncio.run(wait())


def test_many_who_wait_share_one_question_to_the_database() -> None:
    database = Database([None] * 3, final_at=3)
    wait_in(database, 50)
    assert database.asked == 3


def test_it_is_not_asked_again_until_somebody_has_written() -> None:
    database = Database([7, 7, 7, 8, 8, 9], final_at=3)
    wait_in(database, 2)
    assert (database.asked, database.stamps) == (3, [])


def test_what_had_ended_before_is_told_to_each_who_comes_though_nobody_has_written_since(artworks: ArtworkStore) -> None:
    new = NewArtwork("https://example.com/a.jpg", DepthParameters.model_validate({"model": "tiny"}))
    ended = artworks.create(new, api_key_id="bob").artwork.id
    artworks.cancel(ended)

    async def wait() -> None:
        polling = LongPolling(artworks)
        for _ in range(2):
            await asyncio.wait_for(polling.until_final(ended, 600), 60)

    asyncio.run(wait())
