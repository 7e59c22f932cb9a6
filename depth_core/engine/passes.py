"""One pass of a chunk's images through an engine: journal, progress, and what was at work when an earlier run died first."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace

from depth_core.engine import stages
from depth_core.engine.base import Engine, Steps
from depth_core.engine.chunk_context import ChunkContext, Progress
from depth_core.engine.stages import Item, Plan
from depth_core.errors import ErrorKind, ImageError
from depth_core.inference.checkpoints import Checkpoint
from depth_core.ingest import sources
from depth_core.output import interrupted
from depth_core.output.journal import Journal
from depth_core.output.outcomes import FAILED, Outcome

OpenWith = Callable[[Checkpoint], AbstractContextManager[Engine]]


@dataclass(frozen=True)
class ChunkRun:
    """One run over a chunk."""

    context: ChunkContext
    run_id: str
    max_attempts: int  # runs that may die while one image is at work alone
    on_progress: Callable[[Progress], None]
    names: Mapping[str, str]  # of the images, by content hash
    deaths: Mapping[str, int]  # of earlier runs, as interrupted.read tells

    def items(self, folders: Mapping[str, str]) -> list[Item]:
        """The images as the engine takes them. `folders`: where their files go, by content hash."""
        store = self.context.store
        return [Item(sha, sources.reader(store, sha), folder, self.names[sha]) for sha, folder in folders.items()]


def run_pass(
    run: ChunkRun,
    engine: Engine,
    folders: Mapping[str, str],
    plan: Plan,
    progress: Progress,
    *,
    steps: Steps | None = None,
    journal: bool = True,
) -> dict[str, Outcome]:
    """Takes images through the steps and returns their outcomes, by content hash. Counts in `progress`.

    `folders`: where their files go, by content hash. `journal`: keep the outcomes for whoever comes after a crash. Raises as
    Engine.run does.
    """
    context = run.context
    where = (context.store, context.profile.name, context.chunk, run.run_id)
    outcomes: dict[str, Outcome] = {}
    with (
        Journal(*where) as kept,
        interrupted.Note(*where, run.deaths) as note,
        closing(_ended(run, engine, run.items(folders), note, plan, steps)) as ended,
    ):
        for item, outcome in ended:
            note.ended(item.source)
            earlier = context.prior.get(item.source)
            if earlier is not None and earlier.status == FAILED:
                outcome = replace(outcome, attempts=earlier.attempts + outcome.attempts)
            if journal:
                kept.append(outcome)
            outcomes[item.source] = outcome
            progress.done += 1
            progress.failed += outcome.status == FAILED
            run.on_progress(progress)
    return outcomes


def _ended(
    run: ChunkRun, engine: Engine, items: Sequence[Item], note: interrupted.Note, plan: Plan, steps: Steps | None
) -> Generator[tuple[Item, Outcome], None, None]:
    """Yields each image with its outcome: the suspects first, alone and isolated, fewest deaths first; then the others.

    Suspects are the images that may have been in progress when an earlier run died.
    """
    suspects = sorted((item for item in items if item.source in run.deaths), key=lambda item: run.deaths[item.source])
    for item in suspects:
        if run.deaths[item.source] >= run.max_attempts:
            yield item, worker_lost(run, item)
    isolated = [replace(item, isolate=True) for item in suspects if run.deaths[item.source] < run.max_attempts]
    if isolated:
        with closing(engine.run(note.alone(isolated), plan, steps=steps, alone=True)) as ended:
            yield from ended
    others = [item for item in items if item.source not in run.deaths]
    if others:
        with closing(engine.run(note.together(others), plan, steps=steps)) as ended:
            yield from ended


def worker_lost(run: ChunkRun, item: Item) -> Outcome:
    """The outcome of an image that was at work alone when as many runs died as may."""
    message = f"{run.max_attempts} runs died while processing this image alone (DEPTH_MAX_ATTEMPTS)"
    error = ImageError(ErrorKind.WORKER_LOST, message, attempts=run.max_attempts)
    return stages.failed(item, error, run.context.checkpoint)
