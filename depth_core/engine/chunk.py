"""One chunk under one profile: makes what is not done, and says what became of every image.

Whoever has one chunk calls `run`; chunks.py takes many through one engine. Which images a chunk has is ingest's matter; the
table of records is output's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing

from depth_core.engine import stale
from depth_core.engine.chunk_context import ChunkContext, Progress, Redo, Source, content_hashes
from depth_core.engine.chunk_context import Result as Result
from depth_core.engine.chunks import run_chunks
from depth_core.engine.passes import OpenWith
from depth_core.inference.checkpoints import Checkpoint
from depth_core.output.journal import read_journal
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store


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
    one = run_chunks(
        [chunk],
        profile=profile,
        read_images=lambda chunk: images,
        run_id=run_id,
        checkpoint=checkpoint,
        open_engine=open_engine,
        store=store,
        settings=settings,
        redo=redo,
        on_progress=lambda chunk, progress: on_progress(progress),
    )
    with closing(one):
        ended = next(one)
    if ended.error is not None:
        raise ended.error
    assert ended.result is not None
    return ended.result


def is_up_to_date(images: Sequence[Source], *, profile: Profile, chunk: str, checkpoint: Checkpoint, store: Store) -> bool:
    """Whether `run` would find nothing to do, and every outcome as the last run left it. Checks the files too.

    Raises StoreError.
    """
    if read_journal(store, profile.name, chunk):
        return False  # a run did not come to its end
    context = ChunkContext.read(profile, chunk, checkpoint=checkpoint, store=store, redo=Redo(verify=True))
    return stale.is_up_to_date(context, content_hashes(images))
