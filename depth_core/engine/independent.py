"""Runs a chunk whose images have nothing to do with each other: the gray scale spans a fixed range, or each image's own."""

from __future__ import annotations

import time
from collections.abc import Sequence

from depth_core.engine import stale
from depth_core.engine.chunk_context import Progress
from depth_core.engine.passes import ChunkRun, run_pass
from depth_core.output.outcomes import Outcome


def run_independent(run: ChunkRun, images: Sequence[str]) -> tuple[dict[str, Outcome], Progress]:
    """Makes what is not done of `images`, content hashes; returns the outcomes of all. Raises as Engine.run does."""
    context = run.context
    value_range = context.fixed_range
    folders = context.folders(images, value_range)
    done = stale.done_before(context, folders)
    progress = Progress(total=len(images), reused=len(done))
    run.on_progress(progress)
    missing = {sha256: folder for sha256, folder in folders.items() if sha256 not in done}
    if not missing:
        return done, progress
    with run.open_engine(context.checkpoint) as engine:
        progress.started = time.monotonic()
        made = run_pass(run, engine, missing, context.plan(value_range), progress)
        progress.ended = time.monotonic()
    return done | made, progress
