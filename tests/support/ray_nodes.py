"""A Ray cluster of several nodes on this machine, and steps for its actors to run."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from depth_core.engine import stages
from depth_core.engine.stages import Item, Plan, Prepared

TESTS = Path(__file__).parents[1]
NODE = {
    "num_cpus": 1,
    "include_dashboard": False,
    "include_log_monitor": False,  # nobody reads what actors print
    "no_monitor": True,  # of what the cluster could be enlarged by
    "object_store_memory": 80 << 20,
}
NOTICES_SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}


@contextmanager
def ray_cluster(nodes: int) -> Iterator[Any]:
    """A ray.cluster_utils.Cluster of so many nodes with one CPU each; all of its processes end with the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_DISABLE_IMPORT_WARNING", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]))  # `support`
        folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # sockets have short paths
        patch.setenv("RAY_TMPDIR", folder)  # else the cluster's address goes to /tmp/ray, which may not be there or be somebody's
        os.mkdir(f"{folder}/ray")
        import ray
        from ray.cluster_utils import Cluster

        before = {child.pid for child in psutil.Process().children(recursive=True)}
        cluster = None
        try:
            head = NODE | {"temp_dir": f"{folder}/ray", "_system_config": NOTICES_SOON}
            cluster = Cluster(initialize_head=True, shutdown_at_exit=True, head_node_args=head)
            for _ in range(nodes - 1):
                cluster.add_node(**NODE)
            yield cluster
        finally:
            try:
                ray.shutdown()
                if cluster is not None:
                    cluster.shutdown()
            finally:
                left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
                for process in left:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                psutil.wait_procs(left, timeout=20)
                shutil.rmtree(folder, ignore_errors=True)


def kill_at(item: Item, *args: Any) -> Prepared:
    """In the place of stages.prepare: an image called "deadly" ends its process."""
    if item.name == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    return stages.prepare(item, *args)


def wait_at(item: Item, *args: Any) -> Prepared:
    """In the place of stages.prepare: an image that is called as a node is comes to no end there."""
    import ray

    while ray.get_runtime_context().get_node_id() == item.name:
        time.sleep(0.02)
    return stages.prepare(item, *args)


def prepare(item: Item, *args: Any) -> Prepared:
    """stages.prepare by another name: the actor itself does it, wherever decoding is."""
    return stages.prepare(item, *args)


def fail_at(batch: Sequence[Prepared], predictor: Any, plan: Plan) -> Any:
    """In the place of stages.predict: the network fails on an image called "odd"."""
    if any(prepared.item.name == "odd" for prepared in batch):
        raise RuntimeError("the network does not like it")
    return stages.predict(batch, predictor, plan)


def fail_always(batch: Sequence[Prepared], predictor: Any, plan: Plan) -> Any:
    raise RuntimeError("the device is gone")
