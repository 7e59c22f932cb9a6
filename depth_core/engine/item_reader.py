"""Reads the items of a run in a thread of its own, so that an iterator that takes its time keeps nothing else waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from depth_core.engine.stages import Item


@dataclass(frozen=True, slots=True)
class Read:
    """What the iterator gave: an item, None at its end, or what it raised."""

    item: Item | None
    error: BaseException | None = None


class ItemReader:
    """Reads one item for each time that it is asked, and hands it to `answer`, which is called in the reader's thread."""

    def __init__(self, items: Iterator[Item], answer: Callable[[Read], None]) -> None:
        self._items = items
        self._answer = answer
        self._asked = threading.Semaphore(0)
        self._stopped = False
        threading.Thread(target=self._run, name="items", daemon=True).start()

    def ask(self) -> None:
        self._asked.release()

    def stop(self) -> None:
        """Reads no further item. One that is being read is still awaited by the thread, and by nobody else."""
        self._stopped = True
        self._asked.release()

    def _run(self) -> None:
        while True:
            self._asked.acquire()
            if self._stopped:
                return
            try:
                read = Read(next(self._items, None))
            except BaseException as error:  # noqa: BLE001 - raised again where the run is
                read = Read(None, error)
            self._answer(read)
            if read.item is None:
                return
