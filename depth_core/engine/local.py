"""Runs the stages on one machine: threads around one device, bounded everywhere, so memory does not grow with the manifest.

read and decode (threads) -> batches of one network size (no padding: a network reads padding as geometry) -> predict and
render (streams) -> encode and write (threads). What a step does is in stages.py; who may use the device, in device.py.
"""

from __future__ import annotations

import functools
import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depth_core.display import shown_url
from depth_core.engine import stages
from depth_core.engine.device import NO_DEVICE_LOCK, DeviceLock
from depth_core.engine.stages import Item, Plan, Prepared
from depth_core.errors import ErrorKind, ImageError, is_fault_of_installation, row_failure
from depth_core.ingest.images import memory_budget
from depth_core.output.records import Outcome
from depth_core.settings import Settings
from depth_core.storage import Store

if TYPE_CHECKING:
    from depth_core.inference.predictor import Predictor


log = logging.getLogger(__name__)

MOST_UNEXPLAINED = 3  # images in a row that the network fails on, each alone: then it is not the images


@dataclass(frozen=True)
class _Unexplained:
    """An image, alone, that the network raised something unforeseen on."""

    prepared: Prepared
    error: Exception
    handed: int  # batches to the network when this came to light


@dataclass(frozen=True)
class Steps:
    """What is done with each image: three stages, the first and last in threads, the middle one on the device."""

    prepare: Callable[[Item, Predictor, Plan, Settings], Prepared] = stages.prepare
    predict: Callable[[Sequence[Prepared], Predictor, Plan], Sequence[Any]] = stages.predict
    write: Callable[..., Outcome] = stages.write


def run(
    items: Iterable[Item],
    *,
    predictor: Predictor,
    plan: Plan,
    store: Store,
    settings: Settings,
    device_lock: DeviceLock = NO_DEVICE_LOCK,
    steps: Steps | None = None,
    alone: bool = False,
) -> Generator[tuple[Item, Outcome], None, None]:
    """Makes the depth maps of `items` and yields each with its outcome, in the order in which they end.

    A failed image is an outcome. What concerns all images (StoreError, a configuration fault, a device that is gone) is raised,
    after the threads have stopped. `device_lock` is held while batches are at the device, and released when another should go
    first. `alone`: one image at a time, each to its end. Closing the generator stops the work; what is being written is finished
    first.
    """
    decoders = settings.decode_threads or max(2, min(8, (os.cpu_count() or 2) // 2))
    encoders = settings.encode_threads or max(2, min(8, (os.cpu_count() or 2) // 2))
    rooms = _Rooms(memory_budget.of(settings))
    try:
        with (
            ThreadPoolExecutor(decoders, thread_name_prefix="decode") as decode_pool,
            ThreadPoolExecutor(predictor.streams, thread_name_prefix="predict") as predict_pool,
            ThreadPoolExecutor(encoders, thread_name_prefix="encode") as encode_pool,
        ):
            pools = _Pools(decode_pool, predict_pool, encode_pool, decoders, 2 * encoders + 2, rooms)
            engine = _Run(iter(items), pools, predictor, plan, store, settings, device_lock, steps or Steps(), alone=alone)
            try:
                yield from engine.outcomes()
            finally:
                rooms.stop()
                for pool in (decode_pool, predict_pool, encode_pool):
                    pool.shutdown(wait=False, cancel_futures=True)
                predict_pool.shutdown(wait=True)
                engine.release_device()
    finally:
        rooms.close()


class _Rooms:
    """Memory for pictures on their way from the network to the store, within the budget that decoding has too."""

    def __init__(self, memory: memory_budget.Budget) -> None:
        self.memory = memory
        self._lent = 0
        self._stopped = False
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        taken = self.memory.take(size, lambda: self._stopped)
        with self._lock:
            self._lent += taken

    def give(self, size: int) -> None:
        with self._lock:
            back = min(size, self._lent)
            self._lent -= back
        self.memory.give(back)

    def stop(self) -> None:
        """Nobody waits any longer: what would make room is not going to be written."""
        self._stopped = True
        self.memory.give(0)

    def close(self) -> None:
        self.give(self._lent)


@dataclass(frozen=True)
class _Pools:
    decode: ThreadPoolExecutor
    predict: ThreadPoolExecutor
    encode: ThreadPoolExecutor
    decoders: int
    most_writing: int
    rooms: _Rooms


class _Run:
    """The state of one run: what is being decoded, waits for a batch, is at the device, is being written.

    One thread, the caller's, owns it. The pools' threads only put what has ended into `events`.
    """

    def __init__(
        self,
        items: Iterator[Item],
        pools: _Pools,
        predictor: Predictor,
        plan: Plan,
        store: Store,
        settings: Settings,
        device_lock: DeviceLock,
        steps: Steps,
        *,
        alone: bool,
    ) -> None:
        self.items = items
        self.more = True
        self.pools = pools
        self.predictor = predictor
        self.plan = plan
        self.store = store
        self.settings = settings
        self.device_lock = device_lock
        self.locked = False  # the device, by this run
        self.steps = steps
        self.alone = alone
        self.batch_size = functools.cache(predictor.batch_size)  # asking a GPU for its free memory takes a while
        self.events: queue.SimpleQueue[Callable[[], Iterator[tuple[Item, Outcome]]]] = queue.SimpleQueue()
        self.decoding = 0
        self.waiting: dict[tuple[int, int], list[Prepared]] = {}  # by network size; insertion order is age
        self.ready: deque[list[Prepared]] = deque()  # batches for the next free stream
        self.predicting = 0  # batches
        self.writing = 0
        self.handed = 0  # batches to the network so far
        self.worked = False  # the network, on any image of this run
        self.unexplained: list[_Unexplained] = []  # since the network last worked

    def outcomes(self) -> Iterator[tuple[Item, Outcome]]:
        while True:
            self._feed()
            self._dispatch()
            if not (self.decoding or self.predicting or self.writing):
                if self.more or self.waiting or self.ready:
                    raise AssertionError("images are left and nothing is under way")
                if self.unexplained and not self.worked:
                    raise self.unexplained[0].error
                yield from self._explained(self.handed + 1)  # those at the end: it worked on what came before them
                return
            yield from self.events.get()()

    # -- decode -----------------------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        """Keeps the decoders busy without running ahead of the device."""
        while self.more and self.decoding < self._most_decoding():
            item = next(self.items, None)
            if item is None:
                self.more = False
                return
            self.decoding += 1
            future = self.pools.decode.submit(self.steps.prepare, item, self.predictor, self.plan, self.settings)
            future.add_done_callback(lambda done, item=item: self.events.put(lambda: self._decoded(item, done)))  # type: ignore[misc]

    def _most_decoding(self) -> int:
        if self.alone:
            return 0 if self._held() or self.predicting or self.writing else 1
        return max(self.pools.decoders + 1, self._most_held()) - self._held()

    def _held(self) -> int:
        return sum(map(len, self.waiting.values())) + sum(map(len, self.ready))

    def _most_held(self) -> int:
        """How many decoded images may wait: a batch for each stream and one more, of the size that has waited longest."""
        size = next(iter(self.waiting), None)
        return (self.predictor.streams + 1) * (self.batch_size(size) if size else 1)

    def _decoded(self, item: Item, future: Future[Prepared]) -> Iterator[tuple[Item, Outcome]]:
        self.decoding -= 1
        try:
            prepared = future.result()
        except Exception as error:  # noqa: BLE001 - one unforeseen image must not cost its neighbours
            if not isinstance(error, MemoryError) and self.predictor.is_out_of_memory(error):  # torch's own way to say it
                error = ImageError(ErrorKind.OUT_OF_MEMORY, "no memory left to prepare it for the network")
            yield item, stages.failed(item, _failure(item, error), self.predictor)
        else:
            group = self.waiting.setdefault(prepared.size, [])
            group.append(prepared)
            if len(group) >= self.batch_size(prepared.size):
                self.ready.append(self.waiting.pop(prepared.size))

    # -- predict ----------------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Hands ready batches to free streams, unless writing lags behind or somebody else waits for the device."""
        if (self.alone or not self.more) and not self.decoding:
            self.ready.extend(self.waiting.values())
            self.waiting.clear()
        elif self.waiting and not self.ready and self._held() >= self._most_held():
            self._hand_over_oldest()
        if self.locked and self.device_lock.should_yield():
            if self.predicting:
                return
            self.release_device()
        while self.ready and self.predicting < self.predictor.streams and self.writing < self.pools.most_writing:
            if not self.locked:
                self.device_lock.acquire()
                self.locked = True
            batch = self._next_batch()
            self.predicting += 1
            self.handed += 1
            busy = min(self.predictor.streams, self.predicting + self._held() + self.decoding)
            future = self.pools.predict.submit(self._in_stream, batch, busy)
            number = self.handed
            future.add_done_callback(
                lambda done, batch=batch, number=number: self.events.put(lambda: self._predicted(batch, number, done))  # type: ignore[misc]
            )
        if not self.predicting:
            self.release_device()

    def _next_batch(self) -> list[Prepared]:
        """The next batch, halved until its pictures have room."""
        batch = self.ready.popleft()
        while len(batch) > 1 and _picture_bytes(batch) > self.pools.rooms.memory.total:
            half = len(batch) // 2
            self.ready.appendleft(batch[half:])
            batch = batch[:half]
        return batch

    def _hand_over_oldest(self) -> None:
        """Many sizes wait, none fills a batch: what has waited longest goes as it is."""
        self.ready.append(self.waiting.pop(next(iter(self.waiting))))

    def _in_stream(self, batch: list[Prepared], busy: int) -> Sequence[Any]:
        needed = _picture_bytes(batch)
        self.pools.rooms.take(needed)
        try:
            with self.predictor.stream(busy):
                return self.steps.predict(batch, self.predictor, self.plan)
        except BaseException:
            self.pools.rooms.give(needed)
            raise

    def release_device(self) -> None:
        if self.locked:
            self.locked = False
            self.device_lock.release()

    def _predicted(self, batch: list[Prepared], number: int, future: Future[Sequence[Any]]) -> Iterator[tuple[Item, Outcome]]:
        self.predicting -= 1
        try:
            results = future.result()
        except Exception as error:
            if not self.predictor.is_out_of_memory(error):
                if is_fault_of_installation(error):
                    raise
                self._failed_on(batch, error)
                return
            self.predictor.free_memory()
            if len(batch) > 1:
                half = len(batch) // 2
                self.ready.extendleft((batch[half:], batch[:half]))
                return
            width, height = batch[0].size
            full = ImageError(
                ErrorKind.OUT_OF_MEMORY, f"{width} x {height} network pixels do not fit the memory of {self.predictor.device}"
            )
            yield batch[0].item, stages.failed(batch[0].item, full, self.predictor, batch[0])
            return
        self.worked = True
        yield from self._explained(number)
        for prepared, result in zip(batch, results, strict=True):
            self.writing += 1
            written = self.pools.encode.submit(self._write, prepared, result)
            written.add_done_callback(lambda done, prepared=prepared: self.events.put(lambda: self._written(prepared, done)))  # type: ignore[misc]

    def _failed_on(self, batch: list[Prepared], error: Exception) -> None:
        """The network raised something unforeseen: each image is tried alone. One that it fails on then is to blame, if it works
        on others; if it does not, whatever it is concerns them all. Raises the error in that case."""
        if len(batch) > 1:
            self.ready.extendleft([prepared] for prepared in reversed(batch))
            return
        self.unexplained.append(_Unexplained(batch[0], error, self.handed))
        if len(self.unexplained) >= MOST_UNEXPLAINED:
            raise error

    def _explained(self, number: int) -> Iterator[tuple[Item, Outcome]]:
        """The failures of images that the network failed on, now that it works on others.

        Only on what it was handed after it had failed: what it worked on before says nothing of a network that is gone since.
        """
        explained = [each for each in self.unexplained if number > each.handed]
        self.unexplained = [each for each in self.unexplained if number <= each.handed]
        for each in explained:
            item = each.prepared.item
            yield item, stages.failed(item, _failure(item, each.error), self.predictor, each.prepared)

    # -- encode and write -------------------------------------------------------------------------------------------------

    def _write(self, prepared: Prepared, result: Any) -> Outcome:
        try:
            return self.steps.write(result, self.predictor, self.plan, self.store, png_level=self.settings.png_level)
        finally:
            self.pools.rooms.give(prepared.picture_bytes)

    def _written(self, prepared: Prepared, future: Future[Outcome]) -> Iterator[tuple[Item, Outcome]]:
        self.writing -= 1
        try:
            outcome = future.result()
        except Exception as error:  # noqa: BLE001 - one unforeseen image must not cost its neighbours
            outcome = stages.failed(prepared.item, _failure(prepared.item, error), self.predictor, prepared)
        yield prepared.item, outcome


def _picture_bytes(batch: Sequence[Prepared]) -> int:
    return sum(prepared.picture_bytes for prepared in batch)


def _failure(item: Item, error: Exception) -> ImageError:
    """What was raised while one image was at work as its failure, told to the log when nobody foresaw it. Raises the error again
    when it concerns all."""
    failure = row_failure(error)
    if not isinstance(error, ImageError):
        log.error("%s: %s", shown_url(item.name or item.source), failure)
    return failure
