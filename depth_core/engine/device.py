"""Locks of this machine, by which bulk chunks and single requests share one device, batch by batch.

Requests have priority: a request that waits for the device holds the priority lock, and bulk releases the device after its batch
while somebody holds it. The locks are files of this machine: they order the processes that see one folder (DEPTH_LOCK_FOLDER),
and end with the process that holds them, however it ends. Between machines they order nothing, and need not: a device belongs to
one machine. Which machine computes what is decided in the database, by leases.
"""

from __future__ import annotations

import getpass
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

POLL_SECONDS = 0.005
FREE_SECONDS = 0.5  # between two searches for a free device


def _lock_of_this_machine(device: str, purpose: str, folder: Path | None) -> FileLock:
    folder = folder.expanduser() if folder else Path(tempfile.gettempdir()) / f"depthline-{getpass.getuser()}"
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", f"{device}:0" if device == "cuda" else device)
    return FileLock(folder / f"{name}.{purpose}")


@contextmanager
def free_device(devices: Sequence[str], folder: Path | None = None) -> Iterator[str]:
    """Waits for one of `devices` that no other bulk run of this machine has, and holds it.

    So bulk runs, as many as the pool allows, spread over the devices by themselves.
    """
    while True:
        for device in devices:
            lock = _lock_of_this_machine(device, "bulk", folder)
            with suppress(Timeout):
                lock.acquire(timeout=0)
                try:
                    yield device
                finally:
                    lock.release()
                return
        time.sleep(FREE_SECONDS)


class DeviceLock(Protocol):
    """Exclusive use of a device of this machine: acquired before batches go there, released when another should go first or no
    batch is left."""

    def acquire(self) -> None:
        """Waits for the device."""

    def release(self) -> None: ...

    def should_yield(self) -> bool:
        """Whether the holder should finish what is at the device and release it before sending more."""


class NoDeviceLock:
    """For a device that nobody else uses."""

    def acquire(self) -> None: ...

    def release(self) -> None: ...

    def should_yield(self) -> bool:
        return False


NO_DEVICE_LOCK = NoDeviceLock()


class BulkDeviceLock:
    """Bulk work's lock on this machine: held batch after batch until a request waits.

    `device` as a predictor names it ("cuda:0"); `folder` holds the lock files (DEPTH_LOCK_FOLDER), by default one for all
    processes of this user on this machine.
    The thread that acquires it must release it.
    """

    def __init__(self, device: str, folder: Path | None = None) -> None:
        self._priority, self._device = (
            _lock_of_this_machine(device, "priority", folder),
            _lock_of_this_machine(device, "device", folder),
        )

    def acquire(self) -> None:
        self._priority.acquire(poll_interval=POLL_SECONDS)
        self._priority.release()
        self._device.acquire(poll_interval=POLL_SECONDS)

    def release(self) -> None:
        self._device.release()

    def should_yield(self) -> bool:
        try:
            self._priority.acquire(timeout=0)
        except Timeout:
            return True
        self._priority.release()
        return False


class PriorityDeviceLock(BulkDeviceLock):
    """A single request's lock on this machine: while a request waits, bulk sends no further batch."""

    def acquire(self) -> None:
        with self._priority.acquire(poll_interval=POLL_SECONDS):
            self._device.acquire(poll_interval=POLL_SECONDS)

    def should_yield(self) -> bool:
        return True  # released after every batch, so that bulk goes on between them
