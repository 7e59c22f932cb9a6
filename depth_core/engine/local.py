"""Runs the stages on one machine: threads around one device, bounded everywhere, so memory does not grow with the manifest.

read and decode (threads) -> batches of one network size (no padding: a network reads padding as geometry) -> predict and
render (lanes) -> encode and write (threads). What a step does is in stages.py; whose turn the device is, in device.py.
"""

from __future__ import annotations

import functools
import os
import queue
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depth_core.engine import stages
from depth_core.engine.device import NO_TURNS, Turn
from depth_core.engine.stages import Item, Plan, Prepared
from depth_core.errors import DepthlineError, ErrorKind, ImageError
from depth_core.output.records import Outcome
from depth_core.settings import Settings
from depth_core.storage import Store

if TYPE_CHECKING:
    from depth_core.inference.predictor import Predictor


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
    turn: Turn = NO_TURNS,
    steps: Steps | None = None,
) -> Generator[tuple[Item, Outcome], None, None]:
    """Makes the depth maps of `items` and yields each with its outcome, in the order in which they end.

    A failed image is an outcome; whatever concerns all images (StoreError, a configuration fault, a device that is gone) is
    raised, after the threads have stopped. `turn` is held while batches are at the device, and given back when somebody else
    wants it. Closing the generator stops the work; what is being written is finished first.
    """
    decoders = settings.decode_threads or max(2, min(8, (os.cpu_count() or 2) // 2))
    encoders = settings.encode_threads or max(2, min(8, (os.cpu_count() or 2) // 2))
    with (
        ThreadPoolExecutor(decoders, thread_name_prefix="decode") as decode_pool,
        ThreadPoolExecutor(predictor.lanes, thread_name_prefix="predict") as predict_pool,
        ThreadPoolExecutor(encoders, thread_name_prefix="encode") as encode_pool,
    ):
        pools = _Pools(decode_pool, predict_pool, encode_pool, decoders, 2 * encoders + 2)
        engine = _Run(iter(items), pools, predictor, plan, store, settings, turn, steps or Steps())
        try:
            yield from engine.outcomes()
        finally:
            for pool in (decode_pool, predict_pool, encode_pool):
                pool.shutdown(wait=False, cancel_futures=True)
            predict_pool.shutdown(wait=True)
            engine.give_turn_back()


@dataclass(frozen=True)
class _Pools:
    decode: ThreadPoolExecutor
    predict: ThreadPoolExecutor
    encode: ThreadPoolExecutor
    decoders: int
    most_writing: int


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
        turn: Turn,
        steps: Steps,
    ) -> None:
        self.items = items
        self.more = True
        self.pools = pools
        self.predictor = predictor
        self.plan = plan
        self.store = store
        self.settings = settings
        self.turn = turn
        self.holding = False  # the device's turn
        self.steps = steps
        self.batch_size = functools.cache(predictor.batch_size)  # asking a GPU for its free memory takes a while
        self.events: queue.SimpleQueue[Callable[[], Iterator[tuple[Item, Outcome]]]] = queue.SimpleQueue()
        self.decoding = 0
        self.waiting: dict[tuple[int, int], list[Prepared]] = {}  # by network size; insertion order is age
        self.ready: deque[list[Prepared]] = deque()  # batches for the next free lane
        self.predicting = 0  # batches
        self.writing = 0

    def outcomes(self) -> Iterator[tuple[Item, Outcome]]:
        while True:
            self._feed()
            self._dispatch()
            if not (self.decoding or self.predicting or self.writing):
                if self.more or self.waiting or self.ready:
                    raise AssertionError("images are left and nothing is under way")
                return
            yield from self.events.get()()

    # -- decode -----------------------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        """Keeps the decoders busy without running ahead of the device."""
        while self.more and self.decoding < max(self.pools.decoders + 1, self._most_held()) - self._held():
            item = next(self.items, None)
            if item is None:
                self.more = False
                return
            self.decoding += 1
            future = self.pools.decode.submit(self.steps.prepare, item, self.predictor, self.plan, self.settings)
            future.add_done_callback(lambda done, item=item: self.events.put(lambda: self._decoded(item, done)))  # type: ignore[misc]

    def _held(self) -> int:
        return sum(map(len, self.waiting.values())) + sum(map(len, self.ready))

    def _most_held(self) -> int:
        """How many decoded images may wait: a batch for each lane and one more, of the size that has waited longest."""
        size = next(iter(self.waiting), None)
        return (self.predictor.lanes + 1) * (self.batch_size(size) if size else 1)

    def _decoded(self, item: Item, future: Future[Prepared]) -> Iterator[tuple[Item, Outcome]]:
        self.decoding -= 1
        try:
            prepared = future.result()
        except ImageError as error:
            yield item, stages.failed(item, error, self.predictor)
        except (DepthlineError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - one unforeseen image must not cost its neighbours
            yield item, stages.failed(item, _unforeseen(error), self.predictor)
        else:
            group = self.waiting.setdefault(prepared.size, [])
            group.append(prepared)
            if len(group) >= self.batch_size(prepared.size):
                self.ready.append(self.waiting.pop(prepared.size))

    # -- predict ----------------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Hands ready batches to free lanes, unless writing lags behind or somebody else wants the device."""
        if not self.more and not self.decoding:
            self.ready.extend(self.waiting.values())
            self.waiting.clear()
        elif self.waiting and not self.ready and self._held() >= self._most_held():
            self._hand_over_oldest()
        if self.holding and self.turn.wanted():
            if self.predicting:
                return
            self.give_turn_back()
        while self.ready and self.predicting < self.predictor.lanes and self.writing < self.pools.most_writing:
            if not self.holding:
                self.turn.take()
                self.holding = True
            batch = self.ready.popleft()
            self.predicting += 1
            busy = min(self.predictor.lanes, self.predicting + self._held() + self.decoding)
            future = self.pools.predict.submit(self._in_lane, batch, busy)
            future.add_done_callback(lambda done, batch=batch: self.events.put(lambda: self._predicted(batch, done)))  # type: ignore[misc]
        if not self.predicting:
            self.give_turn_back()

    def _hand_over_oldest(self) -> None:
        """Many sizes wait, none fills a batch: what has waited longest goes as it is."""
        self.ready.append(self.waiting.pop(next(iter(self.waiting))))

    def _in_lane(self, batch: list[Prepared], busy: int) -> Sequence[Any]:
        with self.predictor.lane(busy):
            return self.steps.predict(batch, self.predictor, self.plan)

    def give_turn_back(self) -> None:
        if self.holding:
            self.holding = False
            self.turn.give_back()

    def _predicted(self, batch: list[Prepared], future: Future[Sequence[Any]]) -> Iterator[tuple[Item, Outcome]]:
        self.predicting -= 1
        try:
            results = future.result()
        except DepthlineError:
            raise
        except Exception as error:
            if not self.predictor.is_out_of_memory(error):
                raise
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
        for prepared, result in zip(batch, results, strict=True):
            self.writing += 1
            written = self.pools.encode.submit(
                self.steps.write, result, self.predictor, self.plan, self.store, png_level=self.settings.png_level
            )
            written.add_done_callback(lambda done, prepared=prepared: self.events.put(lambda: self._written(prepared, done)))  # type: ignore[misc]

    # -- encode and write -------------------------------------------------------------------------------------------------

    def _written(self, prepared: Prepared, future: Future[Outcome]) -> Iterator[tuple[Item, Outcome]]:
        self.writing -= 1
        try:
            outcome = future.result()
        except ImageError as error:
            outcome = stages.failed(prepared.item, error, self.predictor, prepared)
        except (DepthlineError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - as above
            outcome = stages.failed(prepared.item, _unforeseen(error), self.predictor, prepared)
        yield prepared.item, outcome


def _unforeseen(error: Exception) -> ImageError:
    return ImageError(ErrorKind.INTERNAL, f"{type(error).__name__}: {error}")
