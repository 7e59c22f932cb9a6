"""The connection to a Ray cluster, and what it has room for. What does not belong here: actors (ray_pool.py), images (ray.py)."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from depth_core.display import shown_url
from depth_core.errors import ConfigurationError
from depth_core.settings import Settings
from depth_core.storage import Store

MOST_CORES = 4  # of an actor on CPUs: as many images are at the network at once
MOST_DECODING_CORES = 8  # of an actor on a GPU
OBJECTS_BYTES = 512 << 20  # of Ray's object store where it is started here

_connections = 0  # of this process that are open
_ours = False  # whether the first of them connected, and the last one is to disconnect
_lock = threading.Lock()


@dataclass(frozen=True)
class Node:
    """One node of the cluster that is alive. Several may be on one machine."""

    id: str
    host: str  # the machine's name
    resources: Mapping[str, float]

    @property
    def cores(self) -> int:
        return int(self.resources.get("CPU", 0))

    @property
    def gpus(self) -> int:
        return int(self.resources.get("GPU", 0))


@dataclass(frozen=True)
class Shape:
    """What each actor asks of its node, and how many of them there is room for."""

    device: str  # "cuda", "cpu", "mps", "openvino:GPU"
    cores: int
    gpus: int
    actors: int
    apart: bool = False  # CPUs are left for tasks that decode


def package() -> Any:
    """The package `ray`. Raises ConfigurationError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; without it, it warns
    try:
        import ray
    except ImportError:
        raise ConfigurationError("DEPTH_ENGINE=ray: Ray is not installed: `pip install 'depthline[ray]'`") from None
    return ray


@contextmanager
def connection(settings: Settings) -> Iterator[None]:
    """Connects this process to the cluster of DEPTH_RAY_ADDRESS, or starts one here; the last block to end disconnects.

    A process that is connected already stays so. Raises ConfigurationError when there is no such cluster.
    """
    global _connections, _ours
    ray = package()
    with _lock:
        if _connections == 0:
            _ours = not ray.is_initialized()
            if _ours:
                _connect(ray, settings)
        _connections += 1
    try:
        yield
    finally:
        with _lock:
            _connections -= 1
            if _connections == 0 and _ours:
                ray.shutdown()


def _connect(ray: Any, settings: Settings) -> None:
    address = settings.ray_address
    here = {"include_dashboard": False, "object_store_memory": OBJECTS_BYTES} if not address else {}
    on_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if on_main_thread else None
    try:
        ray.init(address=address or "local", configure_logging=False, log_to_driver=False, **here)
    except Exception as error:
        where = f"DEPTH_RAY_ADDRESS={shown_url(address)}" if address else "DEPTH_RAY_ADDRESS is empty: start one here"
        text = " ".join(str(error).split())[:400]
        raise ConfigurationError(
            f"{where}: no Ray cluster can be used ({type(error).__name__}: {text}): give `auto` on a node of a cluster, "
            "ray://host:10001, or nothing to start one here"
        ) from error
    finally:
        if before is not None:  # Ray puts its own in its place
            signal.signal(signal.SIGTERM, before)


def nodes() -> list[Node]:
    """The nodes that are alive."""
    import ray

    return [Node(node["NodeID"], node["NodeManagerHostname"], node["Resources"]) for node in ray.nodes() if node["Alive"]]


def this_host() -> str:
    """The name of this machine, as nodes have it."""
    return socket.gethostname()


def shape(settings: Settings, there: Sequence[Node]) -> Shape:
    """How actors are cut to a cluster's nodes.

    On GPUs one actor each, with cores for decoding; on CPUs one for every few cores. Raises ConfigurationError when not even one
    has room.
    """
    gpus = sum(node.gpus for node in there)
    asked = settings.device.partition(":")[0]
    if asked == "cuda" or (asked == "auto" and gpus):
        with_gpu = [node for node in there if node.gpus]
        cores = min((max(1, node.cores // node.gpus) for node in with_gpu), default=1)
        cores, device, per_actor = min(MOST_DECODING_CORES, cores), "cuda", 1
        cores = 1 if settings.ray_decode == "apart" else cores
    else:
        cores = min(MOST_CORES, min((node.cores for node in there if node.cores), default=1))
        device, per_actor = {"auto": "cpu", "openvino": settings.device}.get(asked, asked), 0
    cores = settings.ray_cores or cores
    room = sum(_room(node, cores, per_actor) for node in there)
    apart = settings.ray_decode == "apart"
    if apart:  # or tasks would wait for actors that wait for them
        room = min(room, (sum(node.cores for node in there) - 1) // cores)
    if room < 1 and not (settings.ray_actors and not apart):
        have = ", ".join(f"{node.host}: {node.cores} CPUs, {node.gpus} GPUs" for node in there) or "none"
        if per_actor and not gpus:
            raise ConfigurationError(
                f"DEPTH_DEVICE={settings.device} asks for a GPU, and no node of the Ray cluster has one; its nodes are: {have}. "
                "Add a node with a GPU, set DEPTH_DEVICE to auto or cpu, or DEPTH_RAY_ACTORS where nodes start when asked for"
            )
        wanted = f"{cores} CPU{'' if cores == 1 else 's'}" + (" and 1 GPU" if per_actor else "")
        wanted += ", and 1 CPU for decoding (DEPTH_RAY_DECODE=apart)" if apart else ""
        raise ConfigurationError(
            f"the Ray cluster has no node with room for one actor, which takes {wanted}; its nodes are: {have}. Add a node, "
            "lower DEPTH_RAY_CORES, or set DEPTH_RAY_ACTORS where nodes start when they are asked for"
        )
    actors = min(room, settings.ray_actors or room) if apart else settings.ray_actors or room
    return Shape(device, cores, per_actor, actors, apart)


def _room(node: Node, cores: int, gpus: int) -> int:
    room = node.cores // cores
    return min(room, node.gpus // gpus) if gpus else room


def check_store(store: Store, there: Sequence[Node]) -> None:
    """Raises ConfigurationError when the store is a folder of this machine, and the cluster has others."""
    strangers = sorted({node.host for node in there} - {this_host()})
    if store.local and strangers:
        raise ConfigurationError(
            f"the store {store.url('')} is a folder of this machine ({this_host()}), and the Ray cluster has others "
            f"({', '.join(strangers)}): set DEPTH_STORE_URL to a bucket, s3://bucket/prefix"
        )
