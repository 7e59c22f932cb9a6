"""The engine on a Ray cluster: actors with a network each, all over its nodes; this process hands out images, takes outcomes.

Keys go to the actors and outcomes come back, in blocks of a few images; pixels do not travel. Each actor runs the local engine
over its blocks. What an actor does is in ray_actor.py, how many there are in ray_pool.py, the cluster in ray_cluster.py.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import SecretStr

from depth_core.engine import ray_cluster, stages
from depth_core.engine.base import Load, LockDevice, Steps
from depth_core.engine.batching import MOST_UNEXPLAINED
from depth_core.engine.ray_actor import Answer, Job, Setup
from depth_core.engine.ray_cluster import Shape
from depth_core.engine.ray_items import ItemsAhead
from depth_core.engine.ray_pool import BLOCKS_AT_ONCE, Block, Member, Pool
from depth_core.engine.stages import Item, Plan
from depth_core.errors import ErrorKind, ImageError, is_installation_error, row_failure
from depth_core.inference.checkpoints import Checkpoint
from depth_core.output.outcomes import SUCCEEDED, Outcome
from depth_core.settings import Settings
from depth_core.storage import Store

BLOCK_ON_CPU, BLOCK_ON_GPU = 4, 16  # images: what an actor's death loses at most is a few blocks, and progress is as fine as one
WAIT_SECONDS = 1.0  # for a block to end
STARVED_SECONDS = 0.02  # the same, where the next item may come first


@contextmanager
def open_engine(
    checkpoint: Checkpoint, *, store: Store, settings: Settings, load: Load, lock_device: LockDevice
) -> Iterator[RayEngine]:
    """As base.OpenEngine. Ray gives out the devices: no lock of this machine is asked for."""
    del load, lock_device
    with ray_cluster.connection(settings):
        there = ray_cluster.nodes()
        ray_cluster.check_store(store, there)
        shape = ray_cluster.shape(settings, there)
        pool = Pool(_setup(checkpoint, store, settings, shape, len(there)), shape, settings.ray_wait_seconds)
        try:
            pool.fill()
            pool.wait_for_one()
            yield RayEngine(
                checkpoint, settings, pool, settings.ray_block_images or (BLOCK_ON_GPU if shape.gpus else BLOCK_ON_CPU)
            )
        finally:
            pool.close()


def _setup(checkpoint: Checkpoint, store: Store, settings: Settings, shape: Shape, nodes: int) -> Setup:
    """What actors are started with: the settings but for what only this process has to know."""
    nothing = SecretStr("")
    own = {"engine": "local", "device": shape.device, "database_url": "", "api_keys": nothing, "secret_key": nothing}
    return Setup(settings.model_copy(update=own), store, checkpoint, shape.cores, max(1, -(-shape.actors // nodes)))


@dataclass
class RayEngine:
    """Actors of a Ray cluster that have loaded a network."""

    checkpoint: Checkpoint
    settings: Settings
    pool: Pool
    block_images: int
    runs: int = 0

    @property
    def place(self) -> str:
        """As base.Engine."""
        return f"Ray ({', '.join(self._devices())})"

    def facts(self) -> dict[str, Any]:
        """As base.Engine."""
        pool = self.pool
        return {"engine": "ray", "nodes": len(pool.seen), "actors": len(pool.ready), "devices": self._devices()}

    def _devices(self) -> list[str]:
        return sorted({member.loaded.device for member in self.pool.ready if member.loaded is not None})

    def run(
        self, items: Iterable[Item], plan: Plan, *, steps: Steps | None = None, alone: bool = False
    ) -> Generator[tuple[Item, Outcome], None, None]:
        """As base.Engine. An actor that dies costs its images another try, on another actor; images that may have been the cause
        get it alone, and fail with worker_lost when actor after actor dies of them."""
        self.runs += 1
        self.pool.fill()  # one may have been ended with an earlier run
        ahead = ItemsAhead(iter(items), 0 if alone else self.block_images)
        run = _Run(self, ahead, Job(self.runs, plan, steps or Steps(), alone), most_deaths=self.settings.max_attempts)
        ended = False
        try:
            yield from run.outcomes()
            ended = True
        finally:
            ahead.stop()
            if not ended:
                self.pool.stop()


@dataclass
class _Run:
    """The state of one run: what is at work, and what must be tried again alone."""

    engine: RayEngine
    items: ItemsAhead
    job: Job
    most_deaths: int
    starved: bool = False  # an actor has room, and no item is there yet
    again: deque[Block] = field(default_factory=deque)  # lost with their node: to be sent before all others
    suspects: deque[Item] = field(default_factory=deque)  # may have ended an actor, or made the network fail: each goes alone
    deaths: Counter[str] = field(default_factory=Counter)  # of actors that had only this image, by its source
    unexplained: list[tuple[Item, Exception]] = field(default_factory=list)  # the network failed on each alone
    network_worked: bool = False

    @property
    def pool(self) -> Pool:
        return self.engine.pool

    def outcomes(self) -> Iterator[tuple[Item, Outcome]]:
        while True:
            self._hand_out()
            at_work = any(member.blocks for member in self.pool.members)
            if not (at_work or self.again or self.suspects) and self.items.ended:
                yield from self._last()
                return
            for member, block, answer in self.pool.ended(STARVED_SECONDS if self.starved else WAIT_SECONDS):
                if answer is None:
                    yield from self._died(member, block)
                else:
                    yield from self._ended(member, block, answer)
            self.pool.check()

    # -- to the actors --------------------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        """Keeps every actor in work, those with the least first; a suspect goes to an actor that has nothing else."""
        self.starved = False
        while (member := self._with_room()) is not None:
            block = self._next_block(member)
            if block is None:
                break
            self.pool.send(member, block)
        for each in self.pool.ready:
            if (self.items.ended and not self.again) or (self.suspects and each is self.pool.ready[0]):
                self.pool.finish(each)

    def _with_room(self) -> Member | None:
        free = [member for member in self.pool.ready if self._has_room(member)]
        return min(free, key=lambda member: member.images, default=None)

    def _has_room(self, member: Member) -> bool:
        if self.job.alone:
            return not any(other.blocks for other in self.pool.members)
        if self.suspects and member is self.pool.ready[0]:  # it takes them all, when it is through with what it has
            return not member.blocks
        assert member.loaded is not None
        images = max(BLOCKS_AT_ONCE * self.engine.block_images, 2 * member.loaded.batch)
        return member.images < images and not any(block.job.alone for block in member.blocks.values())

    def _next_block(self, member: Member) -> Block | None:
        if self.suspects and not member.blocks:
            return Block([self.suspects.popleft()], replace(self.job, alone=True), again=True)
        if self.again:
            return self.again.popleft()
        most = 1 if self.job.alone else self.engine.block_images
        taken = self.items.take(most, at_least=most if member.blocks else 1)
        self.starved = not taken and not self.items.ended
        return Block(taken, self.job) if taken else None

    # -- from the actors ------------------------------------------------------------------------------------------------------

    def _ended(self, member: Member, block: Block, answer: Answer) -> Iterator[tuple[Item, Outcome]]:
        left = []
        for item in block.items:
            outcome = answer.outcomes.get(item.source)
            if outcome is None:
                left.append(item)
            else:
                self.network_worked |= outcome.status == SUCCEEDED
                yield item, replace(outcome, node=member.node)
        if answer.error is None:
            return
        if is_installation_error(answer.error) or not isinstance(answer.error, Exception):
            raise answer.error
        if not block.job.alone:  # an image may be to blame, or the network: each alone will show it
            self.suspects.extend(left)
            return
        self.unexplained += [(item, answer.error) for item in left]
        if not self.network_worked and len(self.unexplained) >= MOST_UNEXPLAINED:
            raise answer.error

    def _last(self) -> Iterator[tuple[Item, Outcome]]:
        """Images on which the network failed, each by itself: their own failures, unless it has worked on none at all."""
        if self.unexplained and not self.network_worked:
            raise self.unexplained[0][1]
        for item, error in self.unexplained:
            yield item, stages.failed(item, row_failure(error), self.engine.checkpoint)

    def _died(self, member: Member, block: Block) -> Iterator[tuple[Item, Outcome]]:
        """The images of an actor that died: again, and alone where one of them may have been the cause."""
        if not block.job.alone and self.pool.node_is_gone(member):
            self.again.append(replace(block, again=True))
            return
        for item in block.items:
            if block.job.alone:
                self.deaths[item.source] += 1
            if self.deaths[item.source] >= self.most_deaths:
                message = f"{self.most_deaths} actors died while processing this image alone (DEPTH_MAX_ATTEMPTS)"
                error = ImageError(ErrorKind.WORKER_LOST, message, attempts=self.most_deaths)
                yield item, stages.failed(item, error, self.engine.checkpoint)
            else:
                self.suspects.append(replace(item, isolate=True))
