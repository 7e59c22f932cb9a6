"""What a worker has done so far, for its log and its summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from depth_core import layout
from depth_core.errors import ErrorKind
from depth_core.output import formats
from depth_core.output.outcomes import SUCCEEDED, Outcome

REMEMBERED = 10_000  # artworks named in a report; more are counted


@dataclass
class Report:
    """Counts, seconds and ids of the artworks that a worker has finished."""

    succeeded: list[UUID] = field(default_factory=list)
    failed: dict[UUID, str] = field(default_factory=dict)  # why
    successes: int = 0  # of all, also those that are not named
    dropped: int = 0  # cancelled while at work, or taken back
    by_error_kind: Counter[str] = field(default_factory=Counter)
    seconds_by_stage: Counter[str] = field(default_factory=Counter)  # download, and the engine's
    last_pictures: list[str] = field(default_factory=list)  # keys in the store, newest last
    new: list[tuple[UUID, str]] = field(default_factory=list)  # finished since the last call of on_progress, and how

    @property
    def failures(self) -> int:
        return self.by_error_kind.total()

    def add(self, artwork_id: UUID, outcome: Outcome, seconds: Mapping[str, float]) -> None:
        """`seconds`: what this worker spent, by stage; not those of an outcome that was found done."""
        self.new.append((artwork_id, outcome.error_kind or outcome.status))
        self.seconds_by_stage.update(seconds)
        if outcome.status == SUCCEEDED:
            self.successes += 1
            if len(self.succeeded) < REMEMBERED:
                self.succeeded.append(artwork_id)
            self.last_pictures = [*self.last_pictures[-7:], layout.file_key(outcome.folder, formats.PNG)]
        else:
            self.by_error_kind[outcome.error_kind or ErrorKind.INTERNAL] += 1
            if len(self.failed) < REMEMBERED:
                self.failed[artwork_id] = f"{outcome.error_kind}: {outcome.error_message}"
