"""Bulk chunks and single requests share a device batch by batch, and requests go first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.waiting import eventually

from depth_core.engine import device


def test_a_waiting_request_goes_before_the_next_batch_of_bulk(tmp_path: Path) -> None:
    order: list[str] = []
    begun, asked = threading.Event(), threading.Event()

    def chunk() -> None:
        bulk = device.BulkDeviceLock("cuda:0", tmp_path)
        bulk.acquire()
        for n in range(3):
            if bulk.should_yield():
                bulk.release()
                bulk.acquire()
            order.append(f"bulk {n}")
            if n == 0:
                begun.set()
                asked.wait()
                eventually(bulk.should_yield)  # until the request waits
        bulk.release()

    def single() -> None:
        begun.wait()
        asked.set()
        request = device.PriorityDeviceLock("cuda:0", tmp_path)
        request.acquire()
        order.append("request")
        request.release()

    threads = [threading.Thread(target=chunk), threading.Thread(target=single)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order == ["bulk 0", "request", "bulk 1", "bulk 2"]


def test_two_devices_do_not_wait_for_each_other(tmp_path: Path) -> None:
    locks = [device.BulkDeviceLock(name, tmp_path) for name in ("cuda:0", "cuda:1")]
    for lock in locks:
        lock.acquire()
    for lock in locks:
        lock.release()


def test_one_device_has_one_name(tmp_path: Path) -> None:
    names = set()
    for name in ("cuda", "cuda:0"):
        lock = device.BulkDeviceLock(name, tmp_path)
        lock.acquire()
        names |= {file.name for file in tmp_path.iterdir()}
        lock.release()
    assert names == {"cuda-0.priority", "cuda-0.device"}


def test_a_process_that_is_killed_releases_its_lock(tmp_path: Path) -> None:
    program = (
        "import signal, sys; from pathlib import Path; from depth_core.engine import device\n"
        "device.PriorityDeviceLock('cpu', Path(sys.argv[1])).acquire()\n"
        "print('mine', flush=True); signal.pause()"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"mine\n"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    lock = device.BulkDeviceLock("cpu", tmp_path)
    lock.acquire()
    lock.release()


def test_bulk_runs_spread_over_the_devices_and_wait_when_all_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = threading.Event()

    def wait(seconds: float) -> None:
        searched.set()
        time.sleep(0.01)

    monkeypatch.setattr(device, "time", SimpleNamespace(sleep=wait))
    both = ["cuda:0", "cuda:1"]
    third: list[str] = []

    def wait_for_one() -> None:
        with device.free_device(both, tmp_path) as found:
            third.append(found)

    with device.free_device(both, tmp_path) as first:
        with device.free_device(both, tmp_path) as second:
            assert [first, second] == both
            waiting = threading.Thread(target=wait_for_one)
            waiting.start()
            assert searched.wait(30)
            assert third == []
        waiting.join(30)
        assert third == ["cuda:1"]


def test_bulk_keeps_the_lock_while_nobody_waits(tmp_path: Path) -> None:
    lock = device.BulkDeviceLock("cpu", tmp_path)
    lock.acquire()
    assert not lock.should_yield()
    lock.release()


def test_a_request_releases_the_lock_after_every_batch(tmp_path: Path) -> None:
    assert device.PriorityDeviceLock("cpu", tmp_path).should_yield()
