"""The Ray engine against the local one: one node of one core against one core, two nodes against one; and Ray Data beside it.

Each node's processes are bound to a core of their own, and so are the local engine and, with one node, the process that drives.
Rates are over the busy window: between the finish of the second image and of the one before the last four, by the times in the
outcomes. CPU seconds an image are those of all processes together, Ray's own among them: what other work on the cores changes
least. `data` runs the same actors' code as a callable class of Ray Data's `map_batches`, over rows that are all there at once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.photos import make_photos, make_v2_small
from depth_core import catalog, layout
from depth_core.contract import DepthParameters
from depth_core.engine import choose, ray_cluster
from depth_core.engine.base import Steps
from depth_core.engine.ray import _setup
from depth_core.engine.ray_actor import Actor, Job, Setup
from depth_core.engine.ray_cluster import Shape
from depth_core.engine.ray_pool import BLOCKS_AT_ONCE
from depth_core.engine.stages import Item, Plan
from depth_core.inference import checkpoints
from depth_core.ingest import sources
from depth_core.settings import Settings
from depth_core.storage import Store

FIRST, LAST = 2, 4  # images at both ends that do not count
BLOCK = 2
WAYS = ("local", "ray-1", "ray-2", "data-1", "data-2")


def plan_of(model: str) -> Plan:
    if model == "tiny":
        return Plan(DepthParameters(model="tiny", resolution_lower_limit=256))
    return Plan(DepthParameters(model="small", resolution_lower_limit=512))


def items_of(store: Store, photos: Sequence[Path], count: int, folder: str) -> list[Item]:
    items = []
    for n in range(count):
        data = photos[n % len(photos)].read_bytes()
        sha = hashlib.sha256(data).hexdigest()
        if not store.exists(layout.source_key(sha)):
            store.write(layout.source_key(sha), data)
        items.append(Item(f"{n}", sources.reader(store, sha), f"{folder}/{n}", "photo.jpg"))
    return items


def rate(finished: list[str]) -> float:
    """Images a second over the busy window, from RFC 3339 times; NaN for too few."""
    if len(finished) <= FIRST + LAST:
        return float("nan")
    times = sorted(datetime.fromisoformat(each).timestamp() for each in finished)
    begun, ended = times[FIRST - 1], times[-LAST - 1]
    return (len(times) - FIRST - LAST) / (ended - begun)


@contextmanager
def nodes(count: int) -> Iterator[str]:
    """A cluster whose nodes have one core each; yields its address."""
    import psutil
    import ray
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    shape = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 200 << 20}
    os.sched_setaffinity(0, {0})
    cluster = Cluster(initialize_head=True, head_node_args=shape | {"temp_dir": folder})
    try:
        for core in range(1, count):
            os.sched_setaffinity(0, {core})  # what starts now is bound as this process is
            cluster.add_node(**shape)
        os.sched_setaffinity(0, set(range(count)))
        ray.init(address=cluster.address, configure_logging=False, log_to_driver=False)
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()
        for left in psutil.Process().children(recursive=True):
            left.kill()
        shutil.rmtree(folder, ignore_errors=True)


class DataActor:
    """The engine's actor as Ray Data takes it."""

    def __init__(self, setup: Setup, plan: Plan) -> None:
        self.actor = Actor(setup)
        if (error := self.actor.load().error) is not None:
            raise error
        self.job = Job(1, plan, Steps(), alone=False)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        import pickle

        items = [pickle.loads(item) for item in batch["item"]]
        answer = self.actor.run(self.job, items, again=False)
        if answer.error is not None:
            raise answer.error
        return {"source": list(answer.outcomes), "finished_at": [each.finished_at for each in answer.outcomes.values()]}


def with_data(setup: Setup, plan: Plan, items: Sequence[Item], actors: int) -> list[str]:
    try:
        import ray.data
    except ImportError as error:
        sys.exit(f"data-1 and data-2 measure Ray Data, which cannot be imported ({error}): pip install 'ray[data]'")

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = ray.data.from_items(
        [{"item": ray.cloudpickle.dumps(item)} for item in items], override_num_blocks=-(-len(items) // BLOCK)
    )
    ended = rows.map_batches(
        DataActor,
        fn_constructor_args=(setup, plan),
        batch_size=BLOCK,
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=BLOCKS_AT_ONCE),
        num_cpus=1,
        max_concurrency=BLOCKS_AT_ONCE,
    )
    return [row["finished_at"] for row in ended.iter_rows()]


def cpu_seconds() -> float:
    """Of this process and all below it: with Ray, of its own processes and of the actors."""
    import psutil

    spent = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent += times.user + times.system
    return spent


def with_engine(settings: Settings, checkpoint: checkpoints.Checkpoint, store: Store, plan: Plan, items: list[Item]) -> list[str]:
    with choose.open_engine(checkpoint, store=store, settings=settings) as engine:
        if settings.engine == "ray":
            while len(engine.pool.ready) < len(ray_cluster.nodes()):  # type: ignore[attr-defined]
                engine.pool.ended(0.1)  # type: ignore[attr-defined]
        began = cpu_seconds()
        finished = [outcome.finished_at for _, outcome in engine.run(iter(items), plan)]
        print(json.dumps({"cpu": (cpu_seconds() - began) / len(items)}), flush=True)
        return finished


def measure(way: str, model: str, count: int, folder: Path) -> None:
    """One way in this process; prints the rate and the seconds that all took, from opening to closing."""
    kind, _, number = way.partition("-")
    named = {} if model == "tiny" else {"v2/small": str(folder / "v2-small")}
    settings = Settings(checkpoints=named, device="cpu", decode_threads=2, encode_threads=2, ray_block_images=BLOCK)
    checkpoint = checkpoints.resolve(catalog.BY_KEY["tiny" if model == "tiny" else "v2/small"], settings)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as out:
        store = Store(out)
        items = items_of(store, sorted((folder / "photos").iterdir()), count, "depth")
        plan, work = plan_of(model), settings.model_copy(update={"engine": "ray"})

        if kind == "local":
            os.sched_setaffinity(0, {0})
            began = time.perf_counter()
            finished = with_engine(settings, checkpoint, store, plan, items)
            seconds = time.perf_counter() - began
        else:
            with nodes(int(number)):
                began = time.perf_counter()
                if kind == "ray":
                    finished = with_engine(work, checkpoint, store, plan, items)
                else:
                    actors = int(number)
                    setup = _setup(checkpoint, store, settings, Shape("cpu", 1, 0, actors), actors)
                    finished = with_data(setup, plan, items, actors)
                seconds = time.perf_counter() - began
    assert len(finished) == count
    print(json.dumps({"way": way, "rate": rate(finished), "seconds": seconds}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("v2", "tiny"), default="v2")
    parser.add_argument("--images", type=int, default=16, help="for one core; twice as many for two")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        measure(asked.way, asked.model, asked.images, asked.folder)
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make_photos(folder / "photos", 14)
        if asked.model == "v2":
            make_v2_small(folder / "v2-small")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        for number in range(asked.rounds):
            rates = {}
            for way in asked.ways:
                command = [sys.executable, "-m", "benchmarks.ray_engine", "--way", way, "--folder", made]
                images = asked.images * (2 if way.endswith("-2") else 1)
                command += ["--model", asked.model, "--images", str(images)]
                ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                found: dict[str, Any] = {}
                for line in ended.stdout.splitlines():
                    found |= json.loads(line) if line.startswith("{") else {}
                rates[way] = found["rate"]
                cpu = f", {found['cpu']:.3f} CPU s an image" if "cpu" in found else ""
                print(
                    f"round {number + 1}, {way}: {found['rate']:.3f} images/s, {found['seconds']:.1f} s in all{cpu}", flush=True
                )
            if rates.keys() >= {"local", "ray-1", "ray-2"}:
                print(f"ray-1/local {rates['ray-1'] / rates['local']:.3f}, ray-2/ray-1 {rates['ray-2'] / rates['ray-1']:.3f}")
            if rates.keys() >= {"local", "data-1", "data-2"}:
                print(
                    f"data-1/local {rates['data-1'] / rates['local']:.3f}, data-2/data-1 {rates['data-2'] / rates['data-1']:.3f}"
                )


if __name__ == "__main__":
    main()
