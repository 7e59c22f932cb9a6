"""The engine on one machine: threads around one device, bounded everywhere, so memory does not grow with the manifest.

items (a thread) -> read and decode (threads) -> batches of one network size -> predict and render (streams) -> encode and write
(threads). What a step does is in stages.py, what makes a batch in batching.py, who may use the device in device.py.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from depth_core.display import shown_url
from depth_core.engine import stages
from depth_core.engine.base import Load, LockDevice, Steps
from depth_core.engine.batching import Batch, Batcher, UnexplainedFailure, UnexplainedFailures, picture_bytes
from depth_core.engine.device import NO_DEVICE_LOCK, DeviceLock
from depth_core.engine.item_reader import ItemReader, Read
from depth_core.engine.pools import Pool
from depth_core.engine.stages import Item, Plan, Prepared
from depth_core.errors import ErrorKind, ImageError, is_installation_error, row_failure
from depth_core.inference.checkpoints import Checkpoint
from depth_core.ingest.images import memory_budget
from depth_core.output.outcomes import Outcome
from depth_core.settings import Settings
from depth_core.storage import Store

if TYPE_CHECKING:
    from depth_core.inference.predictor import Predictor


log = logging.getLogger(__name__)

Result = TypeVar("Result")
Outcomes = Iterator[tuple[Item, Outcome]]


@contextmanager
def open_engine(
    checkpoint: Checkpoint, *, store: Store, settings: Settings, load: Load, lock_device: LockDevice
) -> Iterator[LocalEngine]:
    """As base.OpenEngine."""
    with load(checkpoint) as predictor:
        yield LocalEngine(predictor, store, settings, lock_device(predictor.device))


@dataclass(frozen=True)
class LocalEngine:
    """A loaded network on a device of this process."""

    predictor: Predictor
    store: Store
    settings: Settings
    device_lock: DeviceLock = NO_DEVICE_LOCK  # held while batches are at the device, released when another should go first

    @property
    def checkpoint(self) -> Checkpoint:
        return self.predictor.checkpoint

    @property
    def place(self) -> str:
        """As base.Engine."""
        return self.predictor.device

    def facts(self) -> dict[str, Any]:
        """As base.Engine."""
        network = self.predictor
        return {"engine": "local", "device": network.device, "precision": network.precision, "runtime": network.runtime}

    def run(
        self, items: Iterable[Item], plan: Plan, *, steps: Steps | None = None, alone: bool = False
    ) -> Generator[tuple[Item, Outcome], None, None]:
        """As base.Engine. What is raised is raised after the threads have stopped."""
        cores = os.cpu_count() or 2
        half = max(2, min(8, cores // 2))
        decoders = self.settings.decode_threads or half
        # encoding takes longer than decoding, and beside a GPU nothing else needs the cores
        encoders = self.settings.encode_threads or (half if self.predictor.device == "cpu" else max(2, min(16, cores)))
        memory = _PictureMemory(memory_budget.of(self.settings))
        try:
            with (
                Pool(decoders, "decode") as decode_pool,
                Pool(self.predictor.streams, "predict") as predict_pool,
                Pool(encoders, "encode") as encode_pool,
            ):
                pools = _Pools(decode_pool, predict_pool, encode_pool, decoders, most_writing=2 * encoders + 2)
                run = _Run(self, items, plan, steps or Steps(), pools, memory, alone=alone)
                try:
                    yield from run.outcomes()
                finally:
                    run.stop_reading()
                    memory.stop()
                    for pool in (decode_pool, predict_pool, encode_pool):
                        pool.shutdown(wait=False, cancel_futures=True)
                    predict_pool.shutdown(wait=True)
                    run.release_device()
        finally:
            memory.close()


class _PictureMemory:
    """Memory for pictures on their way from the network to the store, within the budget that decoding has too."""

    def __init__(self, memory: memory_budget.Budget) -> None:
        self.total = memory.total
        self._memory = memory
        self._lent = 0
        self._stopped = False
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        taken = self._memory.take(size, lambda: self._stopped)
        with self._lock:
            self._lent += taken

    def give(self, size: int) -> None:
        with self._lock:
            back = min(size, self._lent)
            self._lent -= back
        self._memory.give(back)

    def stop(self) -> None:
        """Ends all waiting: what would make room is not going to be written."""
        self._stopped = True
        self._memory.give(0)

    def close(self) -> None:
        self.give(self._lent)


@dataclass(frozen=True, slots=True)
class _Pools:
    decode: Pool
    predict: Pool
    encode: Pool
    decoders: int
    most_writing: int  # images, where batches are small


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A decoder is done with an item."""

    item: Item
    future: Future[Prepared]


@dataclass(frozen=True, slots=True)
class _Predicted:
    """The device is done with a batch; `number`: its place in the order in which batches were sent, from 1."""

    batch: Batch
    number: int
    future: Future[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class _Written:
    """An encoder is done with an image."""

    prepared: Prepared
    future: Future[Outcome]


_Event = Read | _Decoded | _Predicted | _Written


class _Run:
    """The state of one run: what is being decoded, waits for a batch, is at the device, is being written.

    One thread, the caller's, owns it. The other threads only put what has ended into `events`.
    """

    def __init__(
        self,
        engine: LocalEngine,
        items: Iterable[Item],
        plan: Plan,
        steps: Steps,
        pools: _Pools,
        memory: _PictureMemory,
        *,
        alone: bool,
    ) -> None:
        self.predictor = engine.predictor
        self.store = engine.store
        self.settings = engine.settings
        self.device_lock = engine.device_lock
        self.locked = False  # the device, by this run
        self.items = iter(items)
        self.more = True
        self.asked = False  # for the next item: none has come yet
        self.plan = plan
        self.steps = steps
        self.pools = pools
        self.memory = memory
        self.alone = alone
        streams = engine.predictor.streams
        self.batches = Batcher(engine.predictor.batch_size, streams=streams, most_picture_bytes=memory.total)
        self.failures = UnexplainedFailures()
        self.events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self.decoding = 0
        self.predicting = 0  # batches
        self.writing = 0
        self.sent = 0  # batches to the device so far
        self.largest = 0  # of them, in images
        self.reader = None if isinstance(items, Sequence) else ItemReader(self.items, self.events.put)  # a list never waits

    def outcomes(self) -> Outcomes:
        while True:
            self._feed()
            self._dispatch()
            if not (self.asked or self.decoding or self.predicting or self.writing):
                if self.more or len(self.batches):
                    raise AssertionError("images are left and nothing is under way")
                yield from map(self._failed_by_network, self.failures.at_end())
                return
            yield from self._handle(self.events.get())

    def _handle(self, event: _Event) -> Outcomes:
        match event:
            case Read():
                return self._read(event)
            case _Decoded():
                return self._decoded(event)
            case _Predicted():
                return self._predicted(event)
            case _Written():
                return self._written(event)

    def _submit(self, pool: Pool, event: Callable[[Future[Result]], _Event], task: Callable[[], Result]) -> None:
        """Runs a task in a pool's thread, and puts its event into the queue when it is done."""
        pool.submit(task).add_done_callback(lambda done: self.events.put(event(done)))

    # -- decode -----------------------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        """Keeps the decoders busy without running ahead of the device."""
        while self.more and not self.asked and self.decoding < self._most_decoding():
            if self.reader is not None:
                self.asked = True
                self.reader.ask()
            elif (item := next(self.items, None)) is None:
                self.more = False
            else:
                self._decode(item)

    def _read(self, event: Read) -> Outcomes:
        self.asked = False
        if event.error is not None:
            raise event.error
        if event.item is None:
            self.more = False
        else:
            self._decode(event.item)
        return iter(())

    def _decode(self, item: Item) -> None:
        self.decoding += 1
        network = self.predictor
        self._submit(
            self.pools.decode,
            partial(_Decoded, item),
            partial(self.steps.prepare, item, network.preprocessor, network.device, self.plan, self.settings),
        )

    def stop_reading(self) -> None:
        if self.reader is not None:
            self.reader.stop()

    def _most_decoding(self) -> int:
        if self.alone:
            return 0 if len(self.batches) or self.predicting or self.writing else 1
        return max(self.pools.decoders + 1, self.batches.capacity) - len(self.batches)

    def _decoded(self, event: _Decoded) -> Outcomes:
        self.decoding -= 1
        try:
            prepared = event.future.result()
        except Exception as error:  # noqa: BLE001 - one unforeseen image must not cost its neighbours
            if not isinstance(error, MemoryError) and self.predictor.is_out_of_memory(error):  # torch's own way to say it
                error = ImageError(ErrorKind.OUT_OF_MEMORY, "no memory left to prepare it for the network")
            yield self._failed(event.item, error)
        else:
            self.batches.add(prepared)

    # -- predict ----------------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Hands ready batches to free streams, unless writing lags behind or another should use the device first."""
        starved = self.asked and not self.predicting  # no item comes for now: the device takes what there is
        if (self.alone or not self.more or starved) and not self.decoding:
            self.batches.close_all()
        else:
            self.batches.close_oldest_when_full()
        if self.locked and self.device_lock.should_yield():
            if self.predicting:
                return
            self.release_device()
        # of the batches that a GPU has been handed, one is computed and one waits while others are written
        while (
            self.batches.ready
            and self.predicting < self.predictor.streams
            and self.writing < self.pools.most_writing + 2 * self.largest
        ):
            if not self.locked:
                self.device_lock.acquire()
                self.locked = True
            batch = self.batches.take()
            self.predicting += 1
            self.sent += 1
            self.largest = max(self.largest, len(batch))
            busy = min(self.predictor.streams, self.predicting + len(self.batches) + self.decoding)
            self._submit(self.pools.predict, partial(_Predicted, batch, self.sent), partial(self._predict_in_stream, batch, busy))
        if not self.predicting:
            self.release_device()

    def _predict_in_stream(self, batch: Batch, busy: int) -> Sequence[Any]:
        needed = picture_bytes(batch)
        self.memory.take(needed)
        try:
            with self.predictor.stream(busy):
                return self.steps.predict(batch, self.predictor, self.plan)
        except BaseException:
            self.memory.give(needed)
            raise

    def release_device(self) -> None:
        if self.locked:
            self.locked = False
            self.device_lock.release()

    def _predicted(self, event: _Predicted) -> Outcomes:
        self.predicting -= 1
        try:
            results = event.future.result()
        except Exception as error:
            if self.predictor.is_out_of_memory(error):
                yield from self._did_not_fit(event.batch)
            elif is_installation_error(error):
                raise
            elif not self.batches.retry_alone(event.batch):  # an image that fails alone may be to blame, or all are
                self.failures.add(UnexplainedFailure(event.batch[0], error, self.sent))
            return
        yield from map(self._failed_by_network, self.failures.network_worked(event.number))
        for prepared, result in zip(event.batch, results, strict=True):
            prepared.pixels = prepared.pixels.new_empty(0)  # up to 12 MB, which would wait for the encoders too
            self.writing += 1
            self._submit(self.pools.encode, partial(_Written, prepared), partial(self._write, prepared, result))

    def _did_not_fit(self, batch: Batch) -> Outcomes:
        self.predictor.free_memory()
        if not self.batches.retry_halved(batch):
            width, height = batch[0].size
            message = f"{width} x {height} network pixels do not fit the memory of {self.predictor.device}"
            yield self._failed(batch[0].item, ImageError(ErrorKind.OUT_OF_MEMORY, message), batch[0])

    def _failed_by_network(self, failure: UnexplainedFailure) -> tuple[Item, Outcome]:
        return self._failed(failure.prepared.item, failure.error, failure.prepared)

    # -- encode and write -------------------------------------------------------------------------------------------------

    def _write(self, prepared: Prepared, result: Any) -> Outcome:
        try:
            return self.steps.write(result, self.predictor, self.plan, self.store, self.settings)
        finally:
            self.memory.give(prepared.picture_bytes)

    def _written(self, event: _Written) -> Outcomes:
        self.writing -= 1
        try:
            ended = event.prepared.item, event.future.result()
        except Exception as error:  # noqa: BLE001 - one unforeseen image must not cost its neighbours
            ended = self._failed(event.prepared.item, error, event.prepared)
        yield ended

    # -- failures ---------------------------------------------------------------------------------------------------------

    def _failed(self, item: Item, error: Exception, prepared: Prepared | None = None) -> tuple[Item, Outcome]:
        """An image with the outcome that says why it failed; logged when nobody foresaw it. Raises the error again when it
        concerns all images."""
        failure = row_failure(error)
        if not isinstance(error, ImageError):
            log.error("%s: %s", shown_url(item.name or item.source), failure)
        return item, stages.failed(item, failure, self.predictor.checkpoint, prepared)
