"""What code reads from an event of an asset: typed facts, kept as JSON under one key of the event's metadata.

All other entries of metadata are labels for people: nothing computes from them, so they may be reworded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import dagster as dg

KEY = "depthline/facts"


@dataclass(frozen=True)
class _Facts:
    def metadata(self) -> dict[str, dg.MetadataValue]:
        """The entry to put into an event's metadata."""
        return {KEY: dg.MetadataValue.json(asdict(self))}

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> Self:
        """The facts that an event's metadata carries; the defaults when it carries none."""
        entry = metadata.get(KEY)
        return cls() if entry is None else cls(**entry.value)


@dataclass(frozen=True)
class IndexFacts(_Facts):
    """Of a materialization of `manifest_index`."""

    changed_chunks: list[str] | tuple[str, ...] = ()  # keys of the chunks that were written


@dataclass(frozen=True)
class SourcesFacts(_Facts):
    """Of a materialization or observation of `source_images`."""

    retried_under: str = ""  # the profile whose own run goes on with the images: no other run need be started


@dataclass(frozen=True)
class DepthMapsFacts(_Facts):
    """Of a materialization of `depth_maps`: what this run did, not what was done before."""

    made: int = 0  # depth maps
    failed: int = 0  # images that failed in decoding or in the network
    seconds: float = 0.0  # spent on both, once the model was loaded
