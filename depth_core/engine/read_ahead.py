"""Prepares chunks in a thread of its own, a few ahead of the engine, so that the device waits for no table and no list of files.

Chunks that other runs hold are asked for again at the end, and waited for when nothing else is left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack

from depth_core.engine.chunk_work import ChunkWork

AHEAD = 2  # chunks that wait for their turn, each with its tables
POLL_SECONDS = 1.0  # between two questions for chunks that other runs hold, when nothing else is left

Hold = Callable[[str], AbstractContextManager[None] | None]


class ReadAhead:
    """Chunks in their order, held and looked up. `changed` guards it, and what its owner keeps beside it.

    `room`: whether another chunk may be prepared. `under_way`: the chunks that are, for the next one to be `behind`. `accept`
    takes a prepared one, `fail` the error of one that cannot be. All but `find` and `fail` are called with `changed` held.
    """

    def __init__(
        self,
        chunks: Iterable[str],
        *,
        hold: Hold,
        find: Callable[[str], ChunkWork],
        room: Callable[[], bool],
        under_way: Callable[[], list[ChunkWork]],
        accept: Callable[[ChunkWork], None],
        fail: Callable[[str, Exception], None],
        changed: threading.Condition,
    ) -> None:
        self._chunks = list(dict.fromkeys(chunks))
        self._hold, self._find, self._room, self._under_way = hold, find, room, under_way
        self._accept, self._fail = accept, fail
        self._changed = changed
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
        self.only_held = False  # what is left is held by other runs, as far as was asked
        self.over = False  # nothing is left
        self.crash: BaseException | None = None  # what nobody can go on from

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Accepts and prepares no further chunk; one that is being read is given back when that ends."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Waits for the thread's end, but not for long: what it reads may be far away."""
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            held = self._prepare_each(self._chunks)
            while held:
                left = self._prepare_each(held)
                if left == held:
                    with self._changed:
                        self.only_held = True
                        self._changed.notify_all()
                        self._changed.wait_for(lambda: self._stopped, POLL_SECONDS)
                held = left
        except BaseException as error:  # noqa: BLE001 - raised again where the results are
            self.crash = error
        finally:
            with self._changed:
                self.over = True
                self._changed.notify_all()

    def _prepare_each(self, chunks: list[str]) -> list[str]:
        """Prepares chunks, and returns those that other runs hold."""
        held = []
        for chunk in chunks:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._room())
                if self._stopped:
                    return []
            try:
                if not self._prepare(chunk):
                    held.append(chunk)
            except Exception as error:  # noqa: BLE001 - one chunk must not cost the others
                self._fail(chunk, error)
        return held

    def _prepare(self, chunk: str) -> bool:
        """Returns whether this run holds the chunk. Raises whatever `hold` and `find` raise."""
        lease = self._hold(chunk)
        if lease is None:
            return False
        with ExitStack() as held:
            held.enter_context(lease)
            with self._changed:
                self.only_held = False
                behind = self._under_way()
            work = self._find(chunk)
            with self._changed:
                if not self._stopped:
                    work.behind = behind
                    work.lease = held.pop_all()
                    self._accept(work)
        return True
