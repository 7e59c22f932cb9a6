"""The database of single requests, open for a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.database import open_database


@contextmanager
def opened(url: str) -> Iterator[ArtworkStore]:
    store = ArtworkStore(open_database(url))
    try:
        yield store
    finally:
        store.close()
