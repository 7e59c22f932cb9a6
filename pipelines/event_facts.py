"""What code reads from an event of an asset: typed facts, kept as JSON under one key of the event's metadata.

All other entries of metadata are labels for people: nothing computes from them, so they may be reworded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import dagster as dg

from depth_core import layout

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
    """Of a materialization of `manifest_index`: the chunks that were written.

    As spans of their numbers: an index run can change tens of thousands of chunks, most of them neighbours.
    """

    changed_chunks: list[str] | tuple[str, ...] = ()  # their keys, in events of earlier versions
    changed: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)  # slug -> first and last number of each span

    @classmethod
    def of(cls, chunks: Iterable[str]) -> Self:
        """The facts of an index run that changed these chunks, whose keys are as `layout.chunk_key` makes them."""
        spans: dict[str, list[list[int]]] = {}
        for slug, number in sorted((layout.slug_of_chunk(chunk), layout.number_of_chunk(chunk)) for chunk in chunks):
            of_slug = spans.setdefault(slug, [])
            if of_slug and number == of_slug[-1][1] + 1:
                of_slug[-1][1] = number
            else:
                of_slug.append([number, number])
        return cls(changed=spans)

    def chunks(self) -> list[str]:
        """The keys of the chunks."""
        numbers = ((slug, n) for slug, spans in self.changed.items() for first, last in spans for n in range(first, last + 1))
        return [*self.changed_chunks, *(layout.chunk_key(slug, number) for slug, number in numbers)]


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
    ended: float = 0.0  # when they had been spent: seconds since 1970; 0 in events of earlier versions
