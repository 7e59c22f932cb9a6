"""How many chunks share one engine: what is read ahead, what is at the engine, what is being written, and for which chunk.

What one chunk is and how it ends is in chunk_work.py; what comes next in read_ahead.py.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from depth_core.engine import passes
from depth_core.engine.base import Engine
from depth_core.engine.chunk_context import Progress
from depth_core.engine.chunk_work import ChunkResult, ChunkWork, Task
from depth_core.engine.pools import Pool
from depth_core.engine.read_ahead import AHEAD, Hold, ReadAhead
from depth_core.engine.shared_range import run_shared_range
from depth_core.engine.stages import Item
from depth_core.output.outcomes import Outcome

STOP_SECONDS = 1.0  # how long a run that is stopped waits for a chunk that is being read


class _Feed(Iterator[Item]):
    """Items for one pass through the engine. Once it is closed, no thread is or comes in the middle of reading one."""

    def __init__(self, items: Generator[Item, None, None]) -> None:
        self._items = items
        self._closed = False
        self._lock = threading.Lock()

    def __next__(self) -> Item:
        with self._lock:
            if self._closed:
                raise StopIteration
            return next(self._items)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._items.close()


class ChunkStream:
    """One run over chunks, as chunks.run_chunks describes it.

    Threads: the caller's runs the engine and gives out results; one reads ahead; one records, which is journals and the ends of
    chunks; and the engine may read items in another. `_changed` guards everything here.
    """

    def __init__(self, chunks: Sequence[str], task: Task, hold: Hold, open_engine: Callable[[], Engine]) -> None:
        self._on_progress = task.on_progress
        task = replace(task, on_progress=self._report)
        self._open_engine = open_engine
        self._engine: Engine | None = None
        self._failure: Exception | None = None  # of the engine, which ends all that needs it
        self._changed = threading.Condition()
        self._under_way: list[ChunkWork] = []  # from when a chunk was looked up until its end is written
        self._ready: deque[ChunkWork] = deque()  # those with work to do, whose turn has not come
        self._begun: deque[ChunkWork] = deque()  # whose progress has changed before an outcome of theirs came
        self._at_engine: dict[str, list[ChunkWork]] = {}  # by content hash: who waits for it, first who handed it out
        self._ended: deque[tuple[ChunkWork | None, ChunkResult]] = deque()
        self._pass_over = False
        self._suspended = False  # the caller is busy with a result
        self._crash: BaseException | None = None
        self._recorder = Pool(1, "record")
        self._ahead = ReadAhead(
            chunks,
            hold=hold,
            find=lambda chunk: ChunkWork.find(chunk, task),
            room=self._has_room,
            under_way=lambda: list(self._under_way),
            accept=self._accept,
            fail=self._fail_unread,
            changed=self._changed,
        )

    def results(self) -> Generator[ChunkResult, None, None]:
        try:
            self._ahead.start()
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._ended or self._ready or self._is_over())
                    work = None if self._ended or not self._ready else self._ready.popleft()
                    over = self._is_over() and not self._ended and work is None
                    self._changed.notify_all()
                if crash := self._ahead.crash or self._crash:
                    yield from self._give_ended()
                    raise crash
                if over:
                    return
                if work is None:
                    yield from self._give_ended()
                else:
                    yield from self._run(work)
        finally:
            self._close()

    def _report(self, chunk: str, progress: Progress) -> None:
        """What the caller's own function raises is raised where the results are, after those that are there already."""
        if self._crash is None:
            try:
                self._on_progress(chunk, progress)
            except Exception as error:  # noqa: BLE001 - no chunk's
                with self._changed:
                    self._crash = error
                    self._changed.notify_all()

    def _is_over(self) -> bool:
        return bool(self._crash) or (self._ahead.over and not self._under_way)

    def _close(self) -> None:
        """Breaks off what has not ended; a run that came to its end has left nothing."""
        self._ahead.stop()
        with self._changed:
            for work in self._under_way:
                if not work.ending:
                    work.ending = True
                    self._record(partial(self._leave, work))
        self._recorder.shutdown(wait=True)
        self._ahead.join(STOP_SECONDS)

    # -- before a chunk's turn, in the thread that reads ahead ------------------------------------------------------------

    def _has_room(self) -> bool:
        """Whether the next chunk may be read: few wait for their turn, few for their end to be written or taken by the caller."""
        unwritten = sum(work.ending for work in self._under_way)
        return len(self._ready) < AHEAD and unwritten <= AHEAD and not (self._suspended and len(self._ended) >= AHEAD)

    def _accept(self, work: ChunkWork) -> None:
        self._under_way.append(work)
        if work.is_done:
            work.claimed = True
            self._end_when_done(work)
        else:
            self._ready.append(work)
        self._changed.notify_all()

    def _fail_unread(self, chunk: str, error: Exception) -> None:
        with self._changed:
            self._ended.append((None, ChunkResult(chunk, None, error)))
            self._changed.notify_all()

    # -- a chunk's turn, in the caller's thread ---------------------------------------------------------------------------

    def _run(self, work: ChunkWork) -> Generator[ChunkResult, None, None]:
        """Runs a chunk, and those that follow it in the same pass."""
        if self._engine is None and self._failure is None:
            try:
                self._engine = self._open_engine()
            except Exception as error:  # noqa: BLE001 - it is the error of every chunk that needs an engine
                self._failure = error
        if self._engine is None or self._failure is not None:
            self._end_without_engine(work)
        elif work.shares_range:
            self._run_shared(work, self._engine)
        else:
            yield from self._run_suspects(work, self._engine)
            if not work.ending and self._crash is None:
                yield from self._pass(work, self._engine, self._together(work), alone=False)

    def _end_without_engine(self, work: ChunkWork) -> None:
        """It has the engine's error, unless other chunks of this run had all of its images before."""
        with self._changed:
            self._claim(work, list(work.missing))
            self._at_engine.clear()
            error = self._failure if work.waiting or work.found is not None else None
            self._end(work, error)

    def _run_suspects(self, work: ChunkWork, engine: Engine) -> Generator[ChunkResult, None, None]:
        """What was at work when an earlier run died comes first, alone and isolated: nothing else is at the engine by then."""
        with self._changed:
            suspects = self._claim(work, work.suspects)
        isolated = []
        for item in suspects:
            if work.run.deaths[item.source] >= work.run.max_attempts:
                self._image_ended(item.source, passes.worker_lost(work.run, item))
            else:
                isolated.append(replace(item, isolate=True))
        if isolated:
            yield from self._pass(work, engine, self._hand_out(work, isolated, work.note.alone), alone=True)

    def _run_shared(self, work: ChunkWork, engine: Engine) -> None:
        assert work.found is not None
        work.begin()
        try:
            work.outcomes = run_shared_range(work.run, engine, work.wanted, work.found, work.progress)
        except Exception as error:  # noqa: BLE001 - it may be the chunk's own: the next one is tried
            self._end(work, error)
        else:
            self._end(work, None)

    def _pass(
        self, first: ChunkWork, engine: Engine, items: Generator[Item, None, None], *, alone: bool
    ) -> Generator[ChunkResult, None, None]:
        """Takes items through the engine. What it raises is the error of all chunks that have begun."""
        context = first.run.context
        self._pass_over = False
        feed = _Feed(items)
        try:
            with closing(engine.run(feed, context.plan(context.fixed_range), alone=alone)) as ended:
                for item, outcome in ended:
                    self._image_ended(item.source, outcome)
                    yield from self._give_ended()
                    if self._crash is not None:
                        return
            if self._at_engine:
                raise AssertionError(f"the engine ended without {len(self._at_engine)} of its images")
        except Exception as error:  # noqa: BLE001 - it is the error of every chunk that needs the engine
            self._failure = error
        finally:
            with self._changed:
                self._pass_over = True
                self._changed.notify_all()
            feed.close()
        if self._failure is not None:
            self._give_up(self._failure)

    def _give_up(self, error: Exception) -> None:
        with self._changed:
            self._at_engine.clear()
            for work in [work for work in self._under_way if work.turn is not None and not work.ending]:
                self._end(work, error)

    def _image_ended(self, sha256: str, outcome: Outcome) -> None:
        self._report_begun()
        with self._changed:
            works = self._at_engine.pop(sha256)
            kept = [work.add(sha256, outcome, by_another=number > 0) for number, work in enumerate(works)]
        works[0].note.ended(sha256)
        for work, each in zip(works, kept, strict=True):
            if each is not None:
                self._record(partial(self._journal, work, each))
            work.run.on_progress(work.progress)
        with self._changed:
            for work in works:
                work.waiting.discard(sha256)
                self._end_when_done(work)
            if not self._at_engine:
                self._changed.notify_all()

    def _report_begun(self) -> None:
        while self._begun:
            with self._changed:  # not in the middle of its beginning
                work = self._begun.popleft()
            work.run.on_progress(work.progress)

    def _give_ended(self) -> Generator[ChunkResult, None, None]:
        while self._ended:
            with self._changed:
                work, result = self._ended.popleft()
                self._suspended = True
                self._changed.notify_all()
            self._report_begun()
            if work is not None and work.turn is None and result.error is None:
                work.run.on_progress(work.progress)
            try:
                yield result
            finally:
                with self._changed:
                    self._suspended = False
                    self._changed.notify_all()

    # -- what the engine reads, perhaps in a thread of its own ------------------------------------------------------------

    def _together(self, first: ChunkWork) -> Generator[Item, None, None]:
        """The images of a chunk and of those that follow it, until one must go by itself or none is to be had."""
        work: ChunkWork | None = first
        while work is not None:
            with self._changed:
                items = self._claim(work, [sha256 for sha256 in work.missing if sha256 not in work.run.deaths])
                work.claimed, work.behind = True, ()
                self._end_when_done(work)
            yield from self._hand_out(work, items, work.note.together)
            work = self._following()

    def _following(self) -> ChunkWork | None:
        """Waits for the next chunk. None: it must not be waited for, or it begins a pass of its own."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._no_more_for_this_pass())
            if self._pass_over or not self._ready or self._ready[0].suspects or self._ready[0].shares_range:
                return None
            self._changed.notify_all()
            return self._ready.popleft()

    def _no_more_for_this_pass(self) -> bool:
        """What other runs hold is waited for when nothing of this one is at the engine; so are results, if any are there."""
        if self._pass_over or self._crash is not None:
            return True
        return self._ahead.over or self._ahead.only_held or bool(self._ended and not self._at_engine)

    def _claim(self, work: ChunkWork, images: Sequence[str]) -> list[Item]:
        """Those of a chunk's images that are at the engine for no other chunk and were not made for one."""
        changed = work.turn is None
        if changed:
            work.begin()
        claimed = {}
        for sha256 in images:
            made = next((other.as_made[sha256] for other in work.behind if sha256 in other.as_made), None)
            if made is not None:
                changed = True
                if (kept := work.add(sha256, made, by_another=True)) is not None:
                    self._record(partial(self._journal, work, kept))
                continue
            work.waiting.add(sha256)
            if sha256 in self._at_engine:
                self._at_engine[sha256].append(work)
            else:
                self._at_engine[sha256] = [work]
                claimed[sha256] = work.missing[sha256]
        if changed and work not in self._begun:
            self._begun.append(work)
        return work.run.items(claimed)

    def _hand_out(
        self, work: ChunkWork, items: Sequence[Item], noted: Callable[[Sequence[Item]], Iterator[Item]]
    ) -> Generator[Item, None, None]:
        """Hands out claimed items, noted as being at work; what is not handed out is claimed no more."""
        left = dict.fromkeys(item.source for item in items)
        try:
            for item in noted(items):
                if work.error is not None:
                    break
                del left[item.source]
                yield item
        except Exception as error:  # noqa: BLE001 - the note could not be written
            work.error = error
        finally:
            with self._changed:
                for sha256 in left:
                    self._at_engine.pop(sha256, None)
                    work.waiting.discard(sha256)
                if work.error is not None:
                    self._end_when_done(work)

    # -- a chunk's end, in the thread that records ------------------------------------------------------------------------

    def _end(self, work: ChunkWork, error: Exception | None) -> None:
        with self._changed:
            work.error = work.error or error
            work.claimed = True
            work.waiting.clear()
            self._end_when_done(work)

    def _end_when_done(self, work: ChunkWork) -> None:
        if work.claimed and not work.waiting and not work.ending:
            work.ending = True
            work.progress.ended = None if work.turn is None else time.monotonic()
            self._record(partial(self._finish, work))

    def _record(self, task: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                task()
            except BaseException as error:  # noqa: BLE001 - raised again where the results are
                with self._changed:
                    self._crash = error
                    self._changed.notify_all()

        self._recorder.submit(guarded)

    def _journal(self, work: ChunkWork, outcome: Outcome) -> None:
        try:
            work.journal.append(outcome)
        except Exception as error:  # noqa: BLE001 - the chunk's
            work.error = work.error or error

    def _finish(self, work: ChunkWork) -> None:
        result = None
        try:
            with work.lease:
                try:
                    result = work.complete() if work.error is None else None
                except Exception as error:  # noqa: BLE001 - the chunk's
                    work.error = error
                if result is None:
                    work.break_off()
        except Exception as error:  # noqa: BLE001 - the lease's, and so the chunk's
            work.error = work.error or error
        ended = ChunkResult(work.chunk, result if work.error is None else None, work.error)
        with self._changed:
            self._under_way.remove(work)
            work.behind = ()
            self._ended.append((work, ended))
            self._changed.notify_all()

    def _leave(self, work: ChunkWork) -> None:
        with work.lease:
            work.break_off()
