"""Many chunks of one profile through one engine, opened once, and each given back as soon as it is complete.

Which images a chunk has, and who else may be at work on it, is the caller's matter.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass

from depth_core.engine import chunk_context
from depth_core.engine.base import Engine
from depth_core.engine.chunk_context import ChunkContext, Progress, Redo, Result, Source
from depth_core.engine.independent import run_independent
from depth_core.engine.passes import ChunkRun, OpenWith
from depth_core.engine.shared_range import clear_raw_predictions, run_shared_range
from depth_core.inference.checkpoints import Checkpoint
from depth_core.output import interrupted
from depth_core.output.journal import clear_journal
from depth_core.output.outcomes import write_outcomes
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store

POLL_SECONDS = 1.0  # between two questions for chunks that other runs hold, when nothing else is left


@dataclass(frozen=True)
class ChunkResult:
    """A chunk that has come to its end: its result or its error, one of the two."""

    chunk: str
    result: Result | None
    error: Exception | None


Hold = Callable[[str], AbstractContextManager[None] | None]


def always_free(chunk: str) -> AbstractContextManager[None]:
    """For chunks that nobody else works on."""
    return nullcontext()


def run_chunks(
    chunks: Sequence[str],
    *,
    profile: Profile,
    read_images: Callable[[str], Sequence[Source]],
    run_id: str,
    checkpoint: Checkpoint,
    open_engine: OpenWith,
    store: Store,
    settings: Settings,
    redo: Redo | None = None,
    hold: Hold = always_free,
    on_progress: Callable[[str, Progress], None] = lambda chunk, progress: None,
) -> Generator[ChunkResult, None, None]:
    """Makes the depth maps of chunks that are not there yet; yields each chunk once, as soon as it is complete.

    `read_images` gives a chunk's images; it may name a content hash more than once, which is done once. `hold` is asked before
    that, and gives a lease that is kept until the chunk's end is written, or None while another run has the chunk: then the
    others go first, and it is waited for when nothing else is left. `read_images`, `hold` and its lease are called from other
    threads, the lease perhaps left in another one than it was entered in; `on_progress` from the caller's. `open_engine` is
    entered once, and only when there is work.

    Nothing but what ends the caller is raised: what goes wrong is its chunk's error. What goes wrong for all (StoreError,
    ModelUnavailableError, ConfigurationError, a device that is gone) is the error of each chunk that had work left. What was
    written stays valid and counts. Closing the generator stops the work: journals are written, leases given back.
    """
    given = _Given(profile, read_images, run_id, checkpoint, store, settings, redo or Redo(), on_progress)
    waiting, busy = deque(dict.fromkeys(chunks)), 0
    with ExitStack() as opened:
        engine: list[Engine] = []

        def open_once(checkpoint: Checkpoint) -> AbstractContextManager[Engine]:
            if not engine:
                engine.append(opened.enter_context(open_engine(checkpoint)))
            return nullcontext(engine[0])

        while waiting:
            chunk = waiting.popleft()
            try:
                lease = hold(chunk)
                if lease is not None:
                    with lease:
                        ended = ChunkResult(chunk, given.run(chunk, open_once), None)
            except Exception as error:  # noqa: BLE001 - one chunk must not cost the others
                ended = ChunkResult(chunk, None, error)
            else:
                if lease is None:
                    waiting.append(chunk)
                    busy += 1
                    if busy >= len(waiting):
                        time.sleep(POLL_SECONDS)
                    continue
            busy = 0
            yield ended


@dataclass(frozen=True)
class _Given:
    """What is asked of every chunk."""

    profile: Profile
    read_images: Callable[[str], Sequence[Source]]
    run_id: str
    checkpoint: Checkpoint
    store: Store
    settings: Settings
    redo: Redo
    on_progress: Callable[[str, Progress], None]

    def run(self, chunk: str, open_engine: OpenWith) -> Result:
        started = time.monotonic()
        profile, store = self.profile, self.store
        images = self.read_images(chunk)
        context = ChunkContext.read(profile, chunk, checkpoint=self.checkpoint, store=store, redo=self.redo)
        names = {image.sha256: image.name for image in reversed(images)}
        deaths = interrupted.read(store, profile.name, chunk)
        work = ChunkRun(
            context,
            self.run_id,
            open_engine,
            self.settings.max_attempts,
            lambda progress: self.on_progress(chunk, progress),
            names,
            deaths,
        )
        wanted = chunk_context.content_hashes(images)
        run_images = run_shared_range if profile.range == "chunk" else run_independent
        outcomes, progress = run_images(work, wanted)
        ordered = {sha256: outcomes[sha256] for sha256 in wanted}
        write_outcomes(store, profile.name, chunk, ordered.values(), parameters=profile.parameters)
        clear_journal(store, profile.name, chunk)
        if profile.range == "chunk":
            clear_raw_predictions(work)
        return Result(ordered, progress, time.monotonic() - started)
