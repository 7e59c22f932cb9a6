"""Cursors of lists: 24 bytes, the microseconds and the id of the last artwork on a page, in 32 letters of base64.

Any 32 letters of the alphabet are a place in the list, so a well-formed cursor is never wrong.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

from depth_core.serving.artworks.types import CursorError, StoredArtwork

CURSOR_PATTERN = r"^[A-Za-z0-9_-]{32}$"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)


def after(artwork: StoredArtwork) -> str:
    """The cursor of the page that begins behind an artwork."""
    micros = (artwork.created_at - _EPOCH) // timedelta(microseconds=1)
    return base64.urlsafe_b64encode(micros.to_bytes(8) + artwork.id.bytes).decode()


def read(cursor: str) -> tuple[datetime, UUID]:
    """`created_at` and `id` of the artwork that a page begins behind. Raises CursorError."""
    if not re.fullmatch(CURSOR_PATTERN, cursor):
        raise CursorError(f"invalid cursor {cursor!r}; leave it out to begin with the newest artwork")
    place = base64.urlsafe_b64decode(cursor)
    return _EPOCH + timedelta(microseconds=min(int.from_bytes(place[:8]), _LAST)), UUID(bytes=place[8:])
