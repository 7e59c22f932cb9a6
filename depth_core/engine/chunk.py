"""One chunk under one profile: makes what is not done, and says what became of every image.

Dagster's op, and anything else that works in chunks, calls `run`. Which images a chunk has is ingest's matter; the table of
records is output's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from depth_core.engine import stale
from depth_core.engine.chunk_context import ChunkContext, Progress, Redo, Source
from depth_core.engine.independent import run_independent
from depth_core.engine.passes import ChunkRun, OpenWith
from depth_core.engine.shared_range import clear_raw_predictions, run_shared_range
from depth_core.inference.checkpoints import Checkpoint
from depth_core.output import interrupted
from depth_core.output.journal import clear_journal, read_journal
from depth_core.output.outcomes import Outcome, write_outcomes
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store


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


def run(
    images: Sequence[Source],
    *,
    profile: Profile,
    chunk: str,
    run_id: str,
    checkpoint: Checkpoint,
    open_engine: OpenWith,
    store: Store,
    settings: Settings,
    redo: Redo | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Result:
    """Makes the depth maps of a chunk that are not there yet.

    `images` may name a content hash more than once; it is done once. `open_engine` is entered only when there is work. Every
    outcome goes to a journal, so that a run that is killed leaves to the next one only what was in flight. The next one does that
    first, image by image and decoded in a process of its own, so that no image can end run after run.

    Raises StoreError, ModelUnavailableError or ConfigurationError; what was written until then stays valid and counts.
    """
    started = time.monotonic()
    context = ChunkContext.read(profile, chunk, checkpoint=checkpoint, store=store, redo=redo or Redo())
    names = {image.sha256: image.name for image in reversed(images)}
    deaths = interrupted.read(store, profile.name, chunk)
    work = ChunkRun(context, run_id, open_engine, settings.max_attempts, on_progress, names, deaths)
    wanted = _content_hashes(images)
    run_images = run_shared_range if profile.range == "chunk" else run_independent
    outcomes, progress = run_images(work, wanted)
    ordered = {sha256: outcomes[sha256] for sha256 in wanted}
    write_outcomes(store, profile.name, chunk, ordered.values(), parameters=profile.parameters)
    clear_journal(store, profile.name, chunk)
    if profile.range == "chunk":
        clear_raw_predictions(work)
    return Result(ordered, progress, time.monotonic() - started)


def is_up_to_date(images: Sequence[Source], *, profile: Profile, chunk: str, checkpoint: Checkpoint, store: Store) -> bool:
    """Whether `run` would find nothing to do, and every outcome as the last run left it. Checks the files too.

    Raises StoreError.
    """
    if read_journal(store, profile.name, chunk):
        return False  # a run did not come to its end
    context = ChunkContext.read(profile, chunk, checkpoint=checkpoint, store=store, redo=Redo(verify=True))
    return stale.is_up_to_date(context, _content_hashes(images))


def _content_hashes(images: Iterable[Source]) -> list[str]:
    return list(dict.fromkeys(image.sha256 for image in images))
