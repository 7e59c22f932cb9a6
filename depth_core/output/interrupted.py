"""Which images were in progress when a run of a chunk died: a note beside the chunk's journal, renewed every few images and
removed when the run ends in any other way. What does not belong here: what is done with such images (engine/passes.py).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self, TypeVar

from depth_core import layout
from depth_core.errors import StoreError
from depth_core.storage import Store

WINDOW = 64  # images to a note: one small write for so many; on s3 that is under a hundredth of what their files take


class _Item(Protocol):
    @property
    def source(self) -> str: ...


Item = TypeVar("Item", bound=_Item)


def read(store: Store, profile: str, chunk: str) -> dict[str, int]:
    """Returns the images that may have been in progress when a run of the chunk died: content hash -> number of runs that died
    while only that image was in progress. Raises StoreError."""
    deaths: dict[str, int] = {}
    for key in store.keys(layout.journal_folder(profile, chunk)):
        if layout.is_interrupted_note(key) and (data := store.read_or_none(key)):
            for sha, count in json.loads(data).items():
                deaths[sha] = max(count, deaths.get(sha, 0))
    return deaths


class Note:
    """The images that one run has in progress, noted for the next run. A context manager: leaving it removes the note.

    Items may be taken in one thread and end in another.
    """

    def __init__(self, store: Store, profile: str, chunk: str, run: str, deaths: Mapping[str, int]) -> None:
        """`deaths`: as `read` gave them."""
        self._store = store
        self._key = layout.interrupted_note_key(profile, chunk, run)
        self._deaths = deaths
        self._at_work: dict[str, None] = {}
        self._written = self._removed = False
        self._lock = threading.Lock()  # of `_at_work`; never held while the store is at work
        self._writing = threading.Lock()

    def together(self, items: Sequence[Item]) -> Iterator[Item]:
        """The items, each noted before it is handed out, a window of them at a time. Raises StoreError."""
        for start in range(0, len(items), WINDOW):
            window = items[start : start + WINDOW]
            self._write(window)
            yield from window

    def alone(self, items: Sequence[Item]) -> Iterator[Item]:
        """The items, each noted as the only one at work before it is handed out. Raises StoreError."""
        for number, item in enumerate(items):
            self._write(() if number else items, item.source)
            yield item

    def ended(self, source: str) -> None:
        with self._lock:
            self._at_work.pop(source, None)

    def _write(self, more: Iterable[Item], alone: str = "") -> None:
        with self._writing:
            if self._removed:  # a thread may still take an item when the run has ended
                return
            with self._lock:
                self._at_work.update(dict.fromkeys(item.source for item in more))
                deaths = {source: self._deaths.get(source, 0) + (source == alone) for source in self._at_work}
            self._store.write(self._key, json.dumps(deaths).encode(), content_type="application/json")
            self._written = True

    def remove(self) -> None:
        """Says that the run has ended by itself; nothing is noted after that. Raises StoreError."""
        with self._writing:
            self._removed = True
            if self._written:
                self._store.delete(self._key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(*([StoreError] if error else [])):
            self.remove()
