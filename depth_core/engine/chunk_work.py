"""One chunk on its way through an engine: what is left of it to do, what became of its images, and its end in the store.

Several threads have a part in it; chunks.py says which does what, and guards what they share.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Self

from depth_core.engine import chunk_context, shared_range, stale
from depth_core.engine.chunk_context import ChunkContext, Progress, Redo, Result, Source
from depth_core.engine.passes import ChunkRun
from depth_core.engine.shared_range import Found
from depth_core.errors import StoreError
from depth_core.inference.checkpoints import Checkpoint
from depth_core.output import interrupted
from depth_core.output.journal import Journal, clear_journal
from depth_core.output.outcome_files import write_outcomes
from depth_core.output.outcomes import FAILED, SUCCEEDED, Outcome
from depth_core.profiles import Profile
from depth_core.storage import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What is asked of every chunk."""

    profile: Profile
    read_images: Callable[[str], Sequence[Source]]
    run_id: str
    checkpoint: Checkpoint
    store: Store
    redo: Redo
    max_attempts: int  # runs that may die while one image is at work alone
    on_progress: Callable[[str, Progress], None]


@dataclass(frozen=True)
class ChunkResult:
    """A chunk that has come to its end: its result or its error, one of the two."""

    chunk: str
    result: Result | None
    error: Exception | None


@dataclass(eq=False)
class ChunkWork:
    """A chunk that this run holds. `outcomes` and `missing` are by content hash; together they are all its images."""

    chunk: str
    run: ChunkRun
    wanted: list[str]
    outcomes: dict[str, Outcome]  # those found done at first
    missing: dict[str, str]  # folders of what is to be made; empty where a range is shared
    found: Found | None  # where a range is shared: what there is to begin with; None: all is done
    progress: Progress
    seconds: float  # what finding all this took
    journal: Journal
    note: interrupted.Note
    lease: ExitStack = field(default_factory=ExitStack)
    behind: Sequence[ChunkWork] = ()  # that were under way when this one was looked up: what they make need not be made again
    as_made: dict[str, Outcome] = field(default_factory=dict)  # as the engine gave them
    waiting: set[str] = field(default_factory=set)  # images at the engine, for this chunk or another one
    turn: float | None = None  # time.monotonic() when its first image was handed out
    claimed: bool = False  # all of its images: those that have not ended are in `waiting`
    ending: bool = False
    error: Exception | None = None

    @classmethod
    def find(cls, chunk: str, task: Task) -> Self:
        """Reads a chunk's images and what earlier runs left. Raises StoreError, and what `read_images` or a damaged table
        raises."""
        started = time.monotonic()
        images = task.read_images(chunk)
        context = ChunkContext.read(task.profile, chunk, checkpoint=task.checkpoint, store=task.store, redo=task.redo)
        names = {image.sha256: image.name for image in reversed(images)}
        deaths = interrupted.read(task.store, task.profile.name, chunk)
        run = ChunkRun(context, task.run_id, task.max_attempts, lambda progress: task.on_progress(chunk, progress), names, deaths)
        wanted = chunk_context.content_hashes(images)
        missing: dict[str, str] = {}
        found = None
        if task.profile.range == "chunk":
            known = stale.done_with_shared_range(context, wanted)
            done = known or {}
            found = shared_range.find(run, wanted) if known is None else None
        else:
            folders = context.folders(wanted, context.fixed_range)
            done = stale.done_before(context, folders)
            missing = {sha256: folder for sha256, folder in folders.items() if sha256 not in done}
        where = (task.store, task.profile.name, chunk, task.run_id)
        return cls(
            chunk,
            run,
            wanted,
            done,
            missing,
            found,
            Progress(total=len(wanted), reused=len(done)),
            time.monotonic() - started,
            Journal(*where),
            interrupted.Note(*where, deaths),
        )

    @property
    def shares_range(self) -> bool:
        return self.run.context.profile.range == "chunk"

    @property
    def is_done(self) -> bool:
        return not self.missing and self.found is None

    @property
    def suspects(self) -> list[str]:
        """Images that were at work when an earlier run died, fewest deaths first."""
        deaths = self.run.deaths
        return sorted((sha256 for sha256 in self.missing if sha256 in deaths), key=lambda sha256: deaths[sha256])

    def begin(self) -> None:
        self.turn = self.progress.started = time.monotonic()

    def add(self, sha256: str, made: Outcome, *, by_another: bool) -> Outcome | None:
        """Counts an image that has ended, and returns its outcome for the journal; None: the store has it already.

        `by_another`: made for another chunk of this run that has the same image.
        """
        self.as_made[sha256] = made
        if by_another and made.status == SUCCEEDED:
            self.outcomes[sha256] = replace(made, reused=True)
            self.progress.reused += 1
            return None
        earlier = self.run.context.prior.get(sha256)
        attempts = earlier.attempts if earlier is not None and earlier.status == FAILED else 0
        seconds = {} if by_another else made.seconds  # the work is counted once
        outcome = replace(made, attempts=attempts + made.attempts, seconds=seconds)
        self.outcomes[sha256] = outcome
        self.progress.done += 1
        self.progress.failed += outcome.status == FAILED
        return outcome

    def complete(self) -> Result:
        """Writes all outcomes as one file and removes what was kept until then. Raises StoreError."""
        context = self.run.context
        outcomes = {sha256: self.outcomes[sha256] for sha256 in self.wanted}
        where = (context.store, context.profile.name, self.chunk)
        self.note.remove()
        write_outcomes(*where, outcomes.values(), parameters=context.profile.parameters)
        clear_journal(*where)
        if self.shares_range:
            shared_range.clear_raw_predictions(self.run)
        spent = 0.0 if self.turn is None else time.monotonic() - self.turn
        return Result(outcomes, self.progress, self.seconds + spent)

    def break_off(self) -> None:
        """Leaves the chunk to a later run: writes what is not journalled yet, and that no image was at work."""
        try:
            with suppress(StoreError):
                self.note.remove()
            self.journal.flush()
        except StoreError as error:
            log.warning("%s: not all of its journal could be written: %s", self.chunk, error)
