"""How many rows a chunk of a manifest has: chosen at its first index, and kept. What does not belong here: which row gets which
chunk (chunks.py)."""

from __future__ import annotations

from depth_core import layout
from depth_core.ingest.manifest.index import Index
from depth_core.settings import Settings

ROWS = 1_000  # of a chunk, up to MANY_ROWS
MANY_ROWS = 1_000_000
MOST_ROWS = 100_000

# Chunks times profiles. Dagster's own advice is at most 100,000 partitions of an asset; its UI grows slow before that.
MANY_PARTITIONS = 50_000

_ROUND = tuple(100 * n for n in (10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 250, 300, 400, 500, 750))


def rows_per_chunk(rows: int, profiles: int, settings: Settings, previous: Index | None) -> int:
    """Rows of a chunk of a manifest.

    One that was indexed keeps what its index says; where an earlier version wrote that, what its chunks show. A new one gets
    DEPTH_ROWS_PER_CHUNK, or what its number of rows asks for. `previous`: the index of the last time, None when there was none.
    """
    if previous is not None and len(previous):
        return previous.rows_per_chunk or _as_before(previous, settings)
    return settings.rows_per_chunk or by_size(rows, profiles)


def by_size(rows: int, profiles: int) -> int:
    """1,000 up to a million rows; beyond, a round number, so that chunks times profiles stay below MANY_PARTITIONS."""
    if rows <= MANY_ROWS:
        return ROWS
    return next((size for size in _ROUND if -(-rows // size) * profiles < MANY_PARTITIONS), MOST_ROWS)


def _as_before(index: Index, settings: Settings) -> int:
    """What an index without that record was made with: all chunks but the last are full."""
    by_number = sorted((layout.number_of_chunk(name), rows) for name, rows in index.rows_by_chunk().items())
    if len(by_number) > 1:
        return by_number[-2][1]
    return settings.rows_per_chunk or max(ROWS, by_number[0][1])
