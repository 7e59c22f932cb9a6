"""Source images in a store, as fetching leaves them there."""

from __future__ import annotations

import hashlib

from depth_core import layout
from depth_core.engine.chunk_context import Source
from depth_core.storage import Store


def keep(store: Store, *images: bytes) -> list[str]:
    """Writes the bytes of images; returns their content hashes."""
    hashes = [hashlib.sha256(data).hexdigest() for data in images]
    for sha, data in zip(hashes, images, strict=True):
        store.write(layout.source_key(sha), data)
    return hashes


def keep_sources(store: Store, *images: bytes) -> list[Source]:
    """As `keep`; returns them as chunks name their images."""
    return [Source(sha, f"{sha[:6]}.jpg") for sha in keep(store, *images)]
