"""Actors on a Ray cluster: how many there are, which are ready, what each has at work, and new ones for those that die."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from depth_core.engine import ray_cluster, stages
from depth_core.engine.ray_actor import Actor, Answer, Job, Loaded, Setup, decode
from depth_core.engine.ray_cluster import Shape
from depth_core.engine.stages import Item
from depth_core.errors import ConfigurationError

BLOCKS_AT_ONCE = 3  # of an actor: the next is there before the last one ends
STOP_SECONDS = 3.0  # that an actor has to finish what it writes
MOST_DEATHS = 3  # in a row, while the network is loaded


@dataclass(frozen=True)
class Block:
    """Some images that go to an actor together."""

    items: Sequence[Item]
    job: Job
    again: bool = False  # an earlier actor had it


def _is_decoded(block: Block) -> bool:
    """Whether a block's first step is to decode. What may have ended an actor is done by one alone."""
    return block.job.steps.prepare is stages.prepare and not (block.again or block.job.alone)


@dataclass(eq=False)
class Member:
    """One actor of the pool."""

    handle: Any
    loading: Any  # the reference of its first answer; None: it is ready
    placed: Any  # a reference that is done once the actor has a place, whether or not its network is there
    name: str = ""
    node: str = ""
    loaded: Loaded | None = None
    blocks: dict[Any, Block] = field(default_factory=dict)  # at work, by the reference of their answer
    job: int = 0  # the number of the newest one
    sent: int = 0  # its blocks
    finished: int = 0  # after how many of them it knows that no more come

    @property
    def images(self) -> int:
        return sum(len(block.items) for block in self.blocks.values())


class Pool:
    """The actors of one engine. Not safe for several threads."""

    def __init__(self, setup: Setup, shape: Shape, wait_seconds: float) -> None:
        self._setup = setup
        self._shape = shape
        self._wait_seconds = wait_seconds
        self._since = time.monotonic()  # when an actor last had a place, or was asked for
        self._deaths = 0  # in a row, while the network was loaded
        self.members: list[Member] = []
        self.seen: set[str] = set()  # names of nodes that had an actor

    @property
    def ready(self) -> list[Member]:
        return [member for member in self.members if member.loaded is not None]

    def fill(self) -> None:
        """Asks for as many actors as there should be."""
        import ray

        if not self.ready:
            self._since = time.monotonic()
        remote = ray.remote(Actor)
        while len(self.members) < self._shape.actors:
            handle = remote.options(
                num_cpus=self._shape.cores,
                num_gpus=self._shape.gpus,
                max_concurrency=BLOCKS_AT_ONCE + 2,
                max_restarts=0,
                scheduling_strategy="SPREAD",
            ).remote(self._setup)
            self.members.append(Member(handle, handle.load.remote(), handle.__ray_ready__.remote()))

    def wait_for_one(self) -> None:
        """Waits until an actor is ready. Raises what its loading raised, ConfigurationError when none gets a place in time."""
        while not self.ready:
            self.ended(timeout=1.0)
            self.check()

    def check(self) -> None:
        """Raises ConfigurationError when no actor has had a place for too long. One that loads its network has one: weights may
        have to be fetched first."""
        if self.ready or self._is_loading():
            self._since = time.monotonic()
        elif time.monotonic() - self._since > self._wait_seconds:
            import ray

            free = {name: ray.available_resources().get(name, 0.0) for name in ("CPU", "GPU")}
            raise ConfigurationError(
                f"no actor has got a place on the Ray cluster for {self._wait_seconds:g} s (DEPTH_RAY_WAIT_SECONDS): one takes "
                f"{self._shape.cores} CPUs and {self._shape.gpus} GPUs, and {free['CPU']:g} and {free['GPU']:g} are free in all. "
                "End what has them, or add nodes"
            )

    def _is_loading(self) -> bool:
        import ray

        waiting = [member.placed for member in self.members]
        return bool(waiting and ray.wait(waiting, num_returns=1, timeout=0)[0])

    def send(self, member: Member, block: Block) -> None:
        if member.job != block.job.number:
            member.job, member.sent, member.finished = block.job.number, 0, 0
        member.sent += 1
        decoded = [self._decoded(member, block)] if self._shape.apart and _is_decoded(block) else []
        member.blocks[member.handle.run.remote(block.job, block.items, block.again, *decoded)] = block

    def _decoded(self, member: Member, block: Block) -> Any:
        """The reference of a block's images, once a task has decoded them."""
        import ray

        assert member.loaded is not None
        task = ray.remote(decode).options(num_cpus=1, max_retries=1, scheduling_strategy="SPREAD")
        return task.remote(self._setup, block.job, block.items, member.loaded.device)

    def finish(self, member: Member) -> None:
        """Lets out what the actor holds back until it has the next block: none comes for now."""
        if member.blocks and member.finished < member.sent:
            member.finished = member.sent
            member.handle.finish.remote(member.job, member.sent)

    def ended(self, timeout: float) -> list[tuple[Member, Block, Answer | None]]:
        """Blocks that have ended, each with its answer, or None when its actor died; waits for the first, `timeout` seconds at
        most. Raises what loading the network raised."""
        import ray

        owners = {member.loading: member for member in self.members if member.loading is not None}
        owners |= {ref: member for member in self.members for ref in member.blocks}
        if not owners:
            time.sleep(min(timeout, 0.1))
            return []
        done, left = ray.wait(list(owners), num_returns=1, timeout=timeout)
        if left:
            done += ray.wait(left, num_returns=len(left), timeout=0)[0]
        ended: list[tuple[Member, Block, Answer | None]] = []
        for ref in done:
            member = owners[ref]
            if member not in self.members:  # died a moment ago, with all that it had
                continue
            answer = self._answer(ref)
            if answer is None:
                ended += [(member, block, None) for block in member.blocks.values()]
                self._bury(member)
            elif ref == member.loading:
                self._has_loaded(member, answer)
            else:
                block = member.blocks.pop(ref)
                ended.append((member, block, answer))
        return ended

    def _answer(self, ref: Any) -> Answer | None:
        """None when the actor has died."""
        import ray

        try:
            answer: Answer = ray.get(ref)
        except ray.exceptions.RayActorError:
            return None
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.ObjectLostError) as error:
            return Answer(error=RuntimeError(f"a task that decoded died: {type(error).__name__}"))
        except ray.exceptions.RayTaskError as error:  # before or after our own code, such as a version that cannot read it
            why = " ".join(str(error.cause or error).split())[:300]
            raise ConfigurationError(
                f"the nodes of the Ray cluster cannot run this version of Depthline ({why}): every node "
                "needs the same `pip install` as this machine"
            ) from None
        return answer

    def _has_loaded(self, member: Member, answer: Answer) -> None:
        if answer.error is not None:
            raise answer.error
        assert answer.loaded is not None
        member.loading, member.loaded, member.node = None, answer.loaded, answer.loaded.node
        self._deaths = 0
        self.seen.add(member.node)

    def _bury(self, member: Member) -> None:
        self.members.remove(member)
        if member.loaded is None:
            self._deaths += 1
            if self._deaths >= MOST_DEATHS:
                raise ConfigurationError(
                    f"{MOST_DEATHS} actors in a row died while they loaded {self._setup.checkpoint.spec.key}: most likely a node "
                    "of the Ray cluster has too little memory for it. Ray's logs there say more (/tmp/ray/session_latest/logs)"
                )
        self.fill()

    def node_is_gone(self, member: Member) -> bool:
        """Whether a dead actor died with its whole node, so that no image is to blame."""
        return member.loaded is not None and all(node.id != member.loaded.node_id for node in ray_cluster.nodes())

    def stop(self) -> None:
        """Ends what is at work; an actor that takes too long about it is ended itself."""
        import ray

        busy = {member.handle.stop.remote(): member for member in self.members if member.blocks}
        if not busy:
            return
        done, _ = ray.wait(list(busy), num_returns=len(busy), timeout=STOP_SECONDS)
        for ref, member in busy.items():
            member.blocks.clear()
            if ref not in done or self._answer_of_stop(ref):
                ray.kill(member.handle)
                self.members.remove(member)

    def _answer_of_stop(self, ref: Any) -> bool:
        import ray

        try:
            ray.get(ref)
        except ray.exceptions.RayError:
            return True
        return False

    def close(self) -> None:
        """Ends all actors."""
        import ray

        for member in self.members:
            ray.kill(member.handle)
        self.members.clear()
