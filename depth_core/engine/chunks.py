"""Many chunks of one profile through one engine, opened once: their images come one after the other, with no gap between chunks.

Which images a chunk has, and who else may be at work on it, is the caller's matter; how it runs is chunk_stream.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

from depth_core.engine.chunk_context import Progress, Redo, Source
from depth_core.engine.chunk_stream import ChunkStream
from depth_core.engine.chunk_work import ChunkResult, Task
from depth_core.engine.passes import OpenWith
from depth_core.engine.read_ahead import Hold
from depth_core.inference.checkpoints import Checkpoint
from depth_core.profiles import Profile
from depth_core.settings import Settings
from depth_core.storage import Store

__all__ = ["ChunkResult", "Hold", "always_free", "run_chunks"]


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

    The next chunks are read and looked up, and the last ones written, while the engine works: at most a few chunks' tables are in
    memory, more only for an engine that takes all images at once. An image that several of them have is made once; again only
    where it failed, or where everything is to be made again, if the first of them had ended when the next was read. Chunks whose
    images share a range go through the engine one by one, each in its two passes; they too are read ahead and written aside.

    `read_images` gives a chunk's images; it may name a content hash more than once, which is done once. `hold` is asked before
    that, and gives a lease that is kept until the chunk's end is written, or None while another run has the chunk: then the
    others go first, and it is waited for when nothing else is left. `read_images`, `hold` and its lease are called from other
    threads, the lease perhaps left in another one than it was entered in; `on_progress` from the caller's. `open_engine` is
    entered once, and only when there is work. While the caller does something with a chunk that was yielded, a local engine sends
    no further batch: that should not take long.

    Nothing is raised but what ends the caller, and what `on_progress` raises: what goes wrong is its chunk's error. What ends the
    engine (StoreError, a device that is gone), or keeps it from being opened (ModelUnavailableError, ConfigurationError), is the
    error of each chunk that has work left; those that have none still complete. What was written stays valid and counts. Closing
    the generator stops the work: journals are written, leases given back; of a chunk that is just being read, when that ends.
    """
    task = Task(profile, read_images, run_id, checkpoint, store, redo or Redo(), settings.max_attempts, on_progress)
    with ExitStack() as opened:
        stream = ChunkStream(chunks, task, hold, lambda: opened.enter_context(open_engine(checkpoint)))
        yield from stream.results()
