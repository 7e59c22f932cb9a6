"""What runs on a Ray cluster's nodes: one network, and the local engine over the blocks of images that come in.

The pool of such actors and what is sent to them: ray_pool.py, ray.py.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from depth_core.engine.base import Steps
from depth_core.engine.local import LocalEngine
from depth_core.engine.stages import Item, Plan, Prepared
from depth_core.errors import ConfigurationError, ImageError, ModelUnavailableError, sendable
from depth_core.inference import checkpoints, preprocessor
from depth_core.inference.checkpoints import Checkpoint
from depth_core.inference.preprocessor import Preprocessor, Resizing
from depth_core.ingest.images import memory_budget
from depth_core.output import depth_folder
from depth_core.output.outcomes import Outcome
from depth_core.settings import Settings
from depth_core.storage import Store

if TYPE_CHECKING:
    from depth_core.inference.predictor import Predictor

LOOKUPS_AT_ONCE = 8


@dataclass(frozen=True)
class Setup:
    """What an actor needs to begin. Can be pickled; has no key but those of the store and of sources."""

    settings: Settings
    store: Store
    checkpoint: Checkpoint  # as the driver has it: its path is the driver's
    cores: int
    share: int  # actors that share one machine's memory

    version: tuple[str, int] = field(default_factory=lambda: version())  # of the driver


def version() -> tuple[str, int]:
    """What must be the same on all machines: this package, and what its files mean."""
    there = depth_folder.versions()
    return there.depthline, there.output


@dataclass(frozen=True)
class Loaded:
    """What an actor says of itself once its network is there."""

    host: str
    node_id: str
    process: int
    device: str
    batch: int  # images of the model's usual size that the device takes at once

    @property
    def node(self) -> str:
        """The node's name for people: several may be on one machine."""
        return f"{self.host}/{self.node_id[:6]}" if self.node_id else self.host


@dataclass(frozen=True)
class Job:
    """What is asked of every image of one run of the engine."""

    number: int
    plan: Plan
    steps: Steps
    alone: bool  # one image at a time


@dataclass(frozen=True)
class Answer:
    """What became of a block: outcomes by the items' sources, and the error that kept the others from having one."""

    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    error: BaseException | None = None
    loaded: Loaded | None = None  # of `load`


class Actor:
    """One network on one device, loaded once. Ray calls its methods in several threads."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._settings = setup.settings
        self._predictor: Predictor | None = None
        self._session: _Session | None = None
        self._received: Counter[int] = Counter()  # blocks, by the job's number
        self._last: dict[int, int] = {}  # how many blocks a job has for this actor, where that is known
        self._lock = threading.Lock()

    def load(self) -> Answer:
        """Loads the network; errors are in the answer."""
        try:
            return Answer(loaded=self._load())
        except Exception as error:  # noqa: BLE001 - the driver raises it, as itself
            return Answer(error=sendable(error))

    def _load(self) -> Loaded:
        from depth_core.inference import predictor

        wanted, settings, host = self._setup.checkpoint, self._setup.settings, socket.gethostname()
        if version() != self._setup.version:
            ours, theirs = version(), self._setup.version
            raise ConfigurationError(
                f"on {host} Depthline is {ours[0]} (output {ours[1]}), where the run began {theirs[0]} (output {theirs[1]}): "
                "install the same on every node of the Ray cluster"
            )
        try:
            found = checkpoints.resolve(wanted.spec, settings, wanted.named)
        except ModelUnavailableError as error:
            raise ModelUnavailableError(
                f"on {host}: {error}. Every machine of a Ray cluster gets the weights by itself: name them by a URL, or have "
                "the same file at the same path everywhere"
            ) from None
        if found.revision != wanted.revision:
            raise ModelUnavailableError(
                f"on {host} the weights of {wanted.spec.key} are revision {found.revision}, where the run began "
                f"{wanted.revision}: make them the same"
            )
        self._predictor = predictor.load(found, settings)
        self._settings = self._shared(settings)
        limit = wanted.spec.family.advised_limit
        return Loaded(host, _node_id(), os.getpid(), self._predictor.device, self._predictor.batch_size((limit, limit)))

    def _shared(self, settings: Settings) -> Settings:
        """The settings with this actor's part of its machine's cores and memory."""
        threads = max(2, min(8, self._setup.cores if settings.device == "cuda" else self._setup.cores // 2))
        return settings.model_copy(
            update={
                "decode_threads": settings.decode_threads or threads,
                "encode_threads": settings.encode_threads or threads,
                "decode_memory": settings.decode_memory or memory_budget.of(settings).total // self._setup.share,
            }
        )

    def run(self, job: Job, items: Sequence[Item], again: bool, decoded: Sequence[Prepared | Exception] = ()) -> Answer:
        """Takes a block through the steps, beside the blocks before and after it. `again`: it was at work before, and what is
        complete in the store is not made twice. `decoded`: what `decode` made of the items."""
        outcomes: dict[str, Outcome] = {}
        try:
            if again and not job.plan.again:
                outcomes = self._found(job, items)
            left = [item for item in items if item.source not in outcomes]
            made, error = self._put(job, left, dict(zip((item.source for item in items), decoded, strict=False))).outcomes()
        except Exception as failure:  # noqa: BLE001 - the driver raises it, as itself
            return Answer(outcomes, sendable(failure))
        return Answer(outcomes | made, None if error is None else sendable(error))

    def _found(self, job: Job, items: Sequence[Item]) -> dict[str, Outcome]:
        with ThreadPoolExecutor(LOOKUPS_AT_ONCE) as pool:
            found = pool.map(lambda item: job.steps.find(item, self._setup.store), items)
            return {item.source: outcome for item, outcome in zip(items, found, strict=True) if outcome is not None}

    def _put(self, job: Job, items: Sequence[Item], decoded: dict[str, Prepared | Exception]) -> _Waiting:
        with self._lock:
            session = self._session
            if session is None or session.closed or (session.job.number, session.job.alone) != (job.number, job.alone):
                if session is not None:
                    session.close()
                    session.join()
                assert self._predictor is not None
                session = self._session = _Session(job, LocalEngine(self._predictor, self._setup.store, self._settings))
            waiting = session.put(items, decoded)
            self._received[job.number] += 1
            if job.alone:
                session.close()
            self._close_after_the_last(job.number)
            return waiting

    def finish(self, number: int, blocks: int) -> None:
        """No block of a job comes after so many: what is held back until the next is there comes out."""
        with self._lock:
            self._last[number] = blocks
            self._close_after_the_last(number)

    def _close_after_the_last(self, number: int) -> None:
        session = self._session
        if session is not None and session.job.number == number and self._received[number] >= self._last.get(number, sys.maxsize):
            session.close()

    def stop(self) -> None:
        """Ends what is at work; what is being written is finished first."""
        with self._lock:
            if self._session is not None:
                self._session.stop()
                self._session = None


class _Session:
    """One run of the local engine, fed with blocks as they come, so that the device has work from one block to the next."""

    def __init__(self, job: Job, engine: LocalEngine) -> None:
        self.job = job
        self.closed = False  # takes no block any more
        self.error: Exception | None = None  # that ended it
        self._engine = engine
        self._items: queue.SimpleQueue[Item | None] = queue.SimpleQueue()  # None: the end
        self._stopping = False
        self._decoded: dict[str, Prepared | Exception] = {}  # elsewhere, by the item's source
        self._futures: dict[str, Future[Outcome]] = {}  # by the item's source: at work
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def put(self, items: Sequence[Item], decoded: Mapping[str, Prepared | Exception]) -> _Waiting:
        with self._lock:
            self._decoded |= decoded
            if self.error is not None:
                return _Waiting(self, len(items), {})
            new = [item for item in items if item.source not in self._futures]
            self._futures |= {item.source: Future() for item in new}
            for item in new:
                self._items.put(item)
            return _Waiting(self, len(items), {item.source: self._futures[item.source] for item in items})

    def _work(self) -> None:
        error: Exception | None = None
        items = iter(self._items.get, None)
        steps = replace(self.job.steps, prepare=self._prepare)
        try:
            with closing(self._engine.run(items, self.job.plan, steps=steps, alone=self.job.alone)) as ended:
                for item, outcome in ended:
                    with self._lock:
                        future = self._futures.pop(item.source)
                    future.set_result(outcome)
                    if self._stopping:
                        break
        except Exception as failure:  # noqa: BLE001 - whoever waits for a block gets it
            error = failure
        with self._lock:
            self.closed, self.error = True, error or RuntimeError("the run has ended")
            for future in self._futures.values():
                future.set_exception(self.error)
            self._futures.clear()

    def _prepare(self, item: Item, preprocessor: Preprocessor, device: str, plan: Plan, settings: Settings) -> Prepared:
        decoded = self._decoded.pop(item.source, None)
        if decoded is None:
            return self.job.steps.prepare(item, preprocessor, device, plan, settings)
        if isinstance(decoded, Exception):
            raise decoded
        return decoded

    def close(self) -> None:
        """No block comes after those that are in."""
        if not self.closed:
            self.closed = True
            self._items.put(None)

    def join(self) -> None:
        """Waits until all blocks are through."""
        self._thread.join()

    def stop(self) -> None:
        self._stopping = True
        self._items.put(None)
        self.join()


@dataclass(frozen=True)
class _Waiting:
    """The images of a block that are at work."""

    session: _Session
    wanted: int
    futures: Mapping[str, Future[Outcome]]

    def outcomes(self) -> tuple[dict[str, Outcome], Exception | None]:
        """Waits for all of them; with the error that ended the session, if one did."""
        wait_for(self.futures.values())
        made = {source: future.result() for source, future in self.futures.items() if future.exception() is None}
        return made, self.session.error if len(made) < self.wanted else None


def decode(setup: Setup, job: Job, items: Sequence[Item], device: str) -> list[Prepared | Exception]:
    """The first step of a block, in a process that has no network: each image as `Resizing` prepares it, or why it failed."""
    import torch

    torch.set_num_threads(1)
    found = checkpoints.resolve(setup.checkpoint.spec, setup.settings, setup.checkpoint.named)
    resizing = Resizing.of(preprocessor.load(found, setup.settings))
    decoded: list[Prepared | Exception] = []
    for item in items:
        try:
            decoded.append(job.steps.prepare(item, resizing, device, job.plan, setup.settings))
        except Exception as error:  # noqa: BLE001 - the run raises it where the image is, and decides what it means
            decoded.append(error if isinstance(error, ImageError) else _sendable(error))
    return decoded


def _sendable(error: Exception) -> Exception:
    sent = sendable(error)
    return sent if isinstance(sent, Exception) else error


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())
