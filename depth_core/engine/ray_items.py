"""The items of one run, read ahead of the actors that take them, as other machines can have them."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from depth_core.engine.item_reader import ItemReader, Read
from depth_core.engine.stages import Item
from depth_core.errors import sendable
from depth_core.storage import Store


class ItemsAhead:
    """Reads items in a thread of its own, so that an iterator that takes its time keeps no outcome waiting."""

    def __init__(self, items: Iterator[Item], ahead: int) -> None:
        """`ahead`: how many to have at hand."""
        self._ahead = ahead
        self._answers: queue.SimpleQueue[Read] = queue.SimpleQueue()
        self._reader = ItemReader(map(sendable_item, items), self._answers.put)
        self._asked = 0
        self._there: deque[Item] = deque()
        self._read_all = False

    @property
    def ended(self) -> bool:
        """Whether all items have been taken."""
        return self._read_all and not self._there

    def take(self, most: int, *, at_least: int) -> list[Item]:
        """The next items; none when there are fewer than `at_least` yet, unless they are the last. Raises what reading raised."""
        self._collect()
        if not self._read_all:
            while self._asked + len(self._there) < max(self._ahead, most):
                self._asked += 1
                self._reader.ask()
            if len(self._there) < at_least:
                return []
        return [self._there.popleft() for _ in range(min(most, len(self._there)))]

    def _collect(self) -> None:
        while not self._answers.empty():
            read = self._answers.get()
            self._asked -= 1
            if read.error is not None:
                raise read.error
            if read.item is None:
                self._read_all = True
            else:
                self._there.append(read.item)

    def stop(self) -> None:
        """Reads no further item."""
        self._reader.stop()


def sendable_item(item: Item) -> Item:
    """The item as another machine can have it: what is in the store is read there, all else is read here."""
    if isinstance(item.read, partial) and isinstance(getattr(item.read.func, "__self__", None), Store):
        return item
    try:
        return replace(item, read=partial(bytes, item.read()))
    except Exception as error:  # noqa: BLE001 - the step that reads it says what it means
        return replace(item, read=partial(_raise, sendable(error)))


def _raise(error: BaseException) -> Any:
    raise error
