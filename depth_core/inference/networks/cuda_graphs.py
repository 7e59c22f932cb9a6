"""CUDA graphs: a network's work on batches of one shape, recorded once and replayed. Imports torch: load it lazily.

A GPU is told hundreds of small things for each batch, one by one from Python. Where that takes longer than doing them (small
networks, single images), a recording that is started by one call is several times as fast. The same kernels run: the numbers are
the same.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from depth_core.inference.networks import kept_tables
from depth_core.inference.networks.compiled import best_seconds, bucket
from depth_core.inference.prediction import Network, Prediction
from depth_core.inference.trials import CLEARLY, Trials

log = logging.getLogger(__name__)

Shape = tuple[int, ...]  # of a batch: (N, 3, H, W)

SEEN_BEFORE = 2  # batches of a shape before one is recorded, which takes about a second
MOST = 8  # recordings; the least recently used goes first
# Of batches: in the engine, other threads have Python's lock most of the time. A recording needs it once, not hundreds of times.
NOT_SLOWER = 0.98


class Graphs:
    """A network whose batches are replayed where that pays. predict() is safe from several threads."""

    def __init__(
        self,
        network: Network,
        *,
        device: str,
        fits: Callable[[Shape], bool],
        trials: Trials | None,
        record: Callable[[Network, torch.Tensor], Callable[[torch.Tensor], Prediction]] | None = None,
    ) -> None:
        """`fits`: may a recording of a shape take the memory that it needs? `trials`: None records every shape, without one."""
        self.network = network
        self._fits = fits
        self._trials = trials
        self._record = record or Recorder(device)
        self._recordings: OrderedDict[Shape, Callable[[torch.Tensor], Prediction]] = OrderedDict()
        self._seen: Counter[Shape] = Counter()
        self._left: set[Shape] = set()  # shapes that are not recorded
        self._lock = threading.Lock()  # what is asked of a recording by two threads must not mix

    def predict(self, batch: torch.Tensor) -> Prediction:
        """As Network.predict."""
        shape = tuple(batch.shape)
        with self._lock:
            if shape not in self._recordings and not self._is_time(shape):
                return self.network.predict(batch)
            if shape not in self._recordings:
                self._add(shape, batch)
            if (replay := self._recordings.get(shape)) is None:
                return self.network.predict(batch)
            self._recordings.move_to_end(shape)
            return replay(batch)

    def forget(self) -> None:
        """Frees the memory of all recordings; shapes that come again are recorded again."""
        with self._lock:
            self._recordings.clear()
            self._seen.clear()

    def _is_time(self, shape: Shape) -> bool:
        if shape in self._left:
            return False
        self._seen[shape] += 1
        if len(self._seen) > 1000:  # photos of all sizes: what came once does not matter
            self._seen.clear()
        return self._seen[shape] > SEEN_BEFORE

    def _add(self, shape: Shape, batch: torch.Tensor) -> None:
        known = None if self._trials is None else self._trials.ratio(question(shape))
        least = CLEARLY if shape[0] == 1 else NOT_SLOWER
        if not self._fits(shape) or (known is not None and known < least):
            self._left.add(shape)
            return
        while len(self._recordings) >= MOST:
            self._recordings.popitem(last=False)
        try:
            replay = self._record(self.network, batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, the network itself computes the same
            log.warning(
                "CUDA graphs: a batch %s cannot be recorded (%s: %s): it is computed without", shape, type(error).__name__, error
            )
            self._left.add(shape)
            return
        if self._trials is not None and known is None:
            ratio = best_seconds(self.network.predict, batch) / best_seconds(replay, batch)
            self._trials.keep(question(shape), ratio)
            if ratio < least:
                self._left.add(shape)
                return
        self._recordings[shape] = replay


def question(shape: Shape) -> str:
    """What a trial answers: of single images, or of batches; and about how large."""
    return f"recorded, {'one image' if shape[0] == 1 else 'batches'}, {bucket(shape)} px"


class Recorder:
    """Records on one GPU. All recordings share memory: one runs at a time, and what it answers is copied."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._pool: Any = None
        self._alive: weakref.WeakSet[Any] = weakref.WeakSet()  # torch refuses a pool whose graphs are all gone

    def __call__(self, network: Network, batch: torch.Tensor) -> Callable[[torch.Tensor], Prediction]:
        """Raises what torch raises, torch.OutOfMemoryError among it."""
        with torch.cuda.device(self._device):
            if not self._alive:
                self._pool = torch.cuda.graph_pool_handle()
            given = batch.clone()
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream), kept_tables.reading() as read:  # libraries set themselves up at their first use
                network.predict(given)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            self._alive.add(graph)
            # thread_local: other threads may pin memory and wait for events meanwhile
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                answer = network.predict(given)

        def replay(batch: torch.Tensor, _read: object = read) -> Prediction:  # _read: what the recording reads must not go
            given.copy_(batch)
            graph.replay()
            return Prediction(answer.depth.clone(), None if answer.sky is None else answer.sky.clone())

        return replay
