"""One chunk under one profile: what is asked of it, what earlier runs left, and where its depth maps go.

What does not belong here: which of them are missing (stale.py), and making them (passes.py and the runners above it).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from depth_core import layout
from depth_core.engine.stages import Plan
from depth_core.inference.checkpoints import Checkpoint
from depth_core.output import depth_folder
from depth_core.output.journal import read_journal
from depth_core.output.outcome_files import read_outcomes
from depth_core.output.outcomes import Outcome
from depth_core.profiles import Profile
from depth_core.storage import Store

DepthRange = tuple[float, float]  # what a gray scale spans, in the network's numbers; NaN: nothing


@dataclass(frozen=True, slots=True)
class Source:
    """One image of the chunk: its content hash and a name for messages."""

    sha256: str
    name: str = ""


@dataclass(frozen=True)
class Redo:
    """Which work that has an outcome already is done again."""

    everything: bool = False
    permanent_failures: bool = False
    verify: bool = False  # check the files of what counts as done, and do again those with missing files


@dataclass(slots=True)
class Progress:
    """Counts while a chunk runs. Rates are over the images of this run once the model is loaded, not over those done before."""

    total: int
    reused: int = 0
    done: int = 0  # by this run, failed ones among them
    failed: int = 0
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None

    @property
    def left(self) -> int:
        return self.total - self.reused - self.done

    @property
    def images_per_second(self) -> float:
        elapsed = (self.ended or time.monotonic()) - self.started
        return self.done / elapsed if elapsed > 0 else 0.0


@dataclass(frozen=True)
class Result:
    """What became of a chunk's images, and what it took."""

    outcomes: Mapping[str, Outcome]  # by content hash
    progress: Progress
    seconds: float

    @property
    def by_error_kind(self) -> dict[str, int]:
        return dict(Counter(o.error_kind for o in self.outcomes.values() if o.error_kind))

    @property
    def seconds_by_stage(self) -> dict[str, float]:
        """Thread seconds by stage over the images done in this run; stages overlap, so they add up to more than `seconds`."""
        total: Counter[str] = Counter()
        for outcome in self.outcomes.values():
            if not outcome.reused:
                total.update(outcome.seconds)
        return {stage: round(spent, 3) for stage, spent in total.items()}


@dataclass(frozen=True)
class ChunkContext:
    """What is asked of a chunk, and the outcomes that earlier runs left, by content hash."""

    profile: Profile
    chunk: str
    checkpoint: Checkpoint
    store: Store
    redo: Redo
    prior: Mapping[str, Outcome]

    @classmethod
    def read(cls, profile: Profile, chunk: str, *, checkpoint: Checkpoint, store: Store, redo: Redo) -> Self:
        """Reads the last complete table of outcomes, and the journals of runs that did not end. Raises StoreError."""
        where = (store, profile.name, chunk)
        prior = read_outcomes(*where) | read_journal(*where)
        return cls(profile, chunk, checkpoint, store, redo, prior)

    @property
    def fixed_range(self) -> DepthRange | None:
        """The range that the profile names; None: each image has its own, or the chunk's images share one."""
        return self.profile.range if isinstance(self.profile.range, tuple) else None

    def digest(self, value_range: DepthRange | None) -> str:
        """Of what makes the pixels, when the gray scale spans `value_range`."""
        return depth_folder.digest_of(self.profile.parameters, self.checkpoint.revision, value_range, self.profile.extra_files)

    def folders(self, images: Iterable[str], value_range: DepthRange | None) -> dict[str, str]:
        """The key of each image's folder in the store, by content hash."""
        digest = self.digest(value_range)
        return {sha256: layout.depth_folder(sha256, digest) for sha256 in images}

    def plan(self, value_range: DepthRange | None) -> Plan:
        return Plan(
            self.profile.parameters,
            extra_files=self.profile.extra_files,
            value_range=value_range,
            again=self.redo.everything,
        )


def span(ranges: Collection[DepthRange]) -> DepthRange | None:
    """The range that several span together; None when there is none."""
    known = [(low, high) for low, high in ranges if low <= high]  # NaN: of an image that has none, all sky for example
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def content_hashes(images: Iterable[Source]) -> list[str]:
    """Each of the images once, in their order."""
    return list(dict.fromkeys(image.sha256 for image in images))
