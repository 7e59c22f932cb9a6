"""Batches: prepared images grouped by network size, cut to what the device takes, made smaller when a batch fails.

Bookkeeping without threads: an engine adds images as they are prepared, takes batches, and hands back those that failed. Nothing
is padded, since a network reads padding as geometry.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from depth_core.engine.stages import Prepared

Batch = list[Prepared]

MOST_UNEXPLAINED = 3  # images in a row that the network fails on, each alone: then it is not the images


def picture_bytes(batch: Sequence[Prepared]) -> int:
    """Bytes of the host's memory that a batch's pictures take until they are written."""
    return sum(prepared.picture_bytes for prepared in batch)


class Batcher:
    """Images that wait for the device. `len()` counts them."""

    def __init__(self, batch_size: Callable[[tuple[int, int]], int], *, streams: int, most_picture_bytes: int) -> None:
        """`batch_size`: how many images of one network size (width, height) make a batch. `streams`: batches at the device at
        once. `most_picture_bytes`: a batch whose pictures take more is halved before it is taken."""
        self._batch_size = functools.cache(batch_size)  # asking a GPU for its free memory takes a while
        self._streams = streams
        self._most_picture_bytes = most_picture_bytes
        self._groups: dict[tuple[int, int], Batch] = {}  # by network size; insertion order is age
        self._ready: deque[Batch] = deque()

    def __len__(self) -> int:
        return sum(map(len, self._groups.values())) + sum(map(len, self._ready))

    @property
    def capacity(self) -> int:
        """How many images should wait: a batch for each stream and one more, of the size that has waited longest."""
        oldest = next(iter(self._groups), None)
        return (self._streams + 1) * (self._batch_size(oldest) if oldest else 1)

    @property
    def ready(self) -> int:
        """How many batches can be taken."""
        return len(self._ready)

    def add(self, prepared: Prepared) -> None:
        group = self._groups.setdefault(prepared.size, [])
        group.append(prepared)
        if len(group) >= self._batch_size(prepared.size):
            self._ready.append(self._groups.pop(prepared.size))

    def close_all(self) -> None:
        """Makes batches of all groups as they are: no further image will come."""
        self._ready.extend(self._groups.values())
        self._groups.clear()

    def close_oldest_when_full(self) -> None:
        """Makes a batch of the size that has waited longest when many sizes wait and none fills a batch."""
        if self._groups and not self._ready and len(self) >= self.capacity:
            self._ready.append(self._groups.pop(next(iter(self._groups))))

    def take(self) -> Batch:
        """The next batch, halved until its pictures have room. Raises IndexError when none is ready."""
        batch = self._ready.popleft()
        while len(batch) > 1 and picture_bytes(batch) > self._most_picture_bytes:
            half = len(batch) // 2
            self._ready.appendleft(batch[half:])
            batch = batch[:half]
        return batch

    def retry_halved(self, batch: Batch) -> bool:
        """Puts the halves of a batch that did not fit the device before all others. False: it is a single image."""
        if len(batch) < 2:
            return False
        half = len(batch) // 2
        self._ready.extendleft((batch[half:], batch[:half]))
        return True

    def retry_alone(self, batch: Batch) -> bool:
        """Puts each image of a batch by itself before all others. False: it is a single image."""
        if len(batch) < 2:
            return False
        self._ready.extendleft([prepared] for prepared in reversed(batch))
        return True


@dataclass(frozen=True, slots=True)
class UnexplainedFailure:
    """An image on which the network raised an unforeseen error, although it was the only one in its batch."""

    prepared: Prepared
    error: Exception
    sent: int  # batches sent to the device when this came to light


class UnexplainedFailures:
    """Images on which the network failed, each alone in its batch, until it is known whether image or network is at fault.

    If the network then succeeds on another batch, each failure is its image's own; if it does not, the error concerns all images.
    """

    def __init__(self) -> None:
        self._waiting: list[UnexplainedFailure] = []  # since the network last worked
        self._network_worked = False

    def add(self, failure: UnexplainedFailure) -> None:
        """Raises the failure's error when so many images failed in a row that it is not the images."""
        self._waiting.append(failure)
        if len(self._waiting) >= MOST_UNEXPLAINED:
            raise failure.error

    def network_worked(self, number: int) -> list[UnexplainedFailure]:
        """Returns the failures that are their images' own, now that the network has succeeded on batch `number` (from 1).

        Only failures known before that batch was sent: an earlier batch proves nothing about a network that has failed since.
        """
        self._network_worked = True
        explained = [failure for failure in self._waiting if number > failure.sent]
        self._waiting = [failure for failure in self._waiting if number <= failure.sent]
        return explained

    def at_end(self) -> list[UnexplainedFailure]:
        """The failures left when no image is left. Raises the first one's error when the network worked on no image at all."""
        if self._waiting and not self._network_worked:
            raise self._waiting[0].error
        left, self._waiting = self._waiting, []
        return left
