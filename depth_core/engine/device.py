"""Sharing one device between bulk chunks and single requests: locks, held batch by batch.

Requests go first: who waits for the device with a request holds the gate; bulk looks at the gate before every batch, and lets
the device go while somebody stands there. The locks are files of this machine, so they end with the process that holds them,
however it ends.
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
FREE_SECONDS = 0.5  # between looks for a free device


def _lock(device: str, purpose: str, folder: Path | None) -> FileLock:
    folder = folder or Path(tempfile.gettempdir()) / f"depthline-{getpass.getuser()}"
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", f"{device}:0" if device == "cuda" else device)
    return FileLock(folder / f"{name}.{purpose}")


@contextmanager
def free_device(devices: Sequence[str], folder: Path | None = None) -> Iterator[str]:
    """One of `devices` that no other bulk run of this machine has; waits until there is one.

    So that as many runs as the pool lets through spread over the devices by themselves.
    """
    while True:
        for device in devices:
            lock = _lock(device, "bulk", folder)
            with suppress(Timeout):
                lock.acquire(timeout=0)
                try:
                    yield device
                finally:
                    lock.release()
                return
        time.sleep(FREE_SECONDS)


class DeviceLock(Protocol):
    """A right to use a device: taken before batches go there, given back when somebody else wants it or nothing is to do."""

    def take(self) -> None:
        """Waits for the device."""

    def give_back(self) -> None: ...

    def wanted(self) -> bool:
        """Whether who holds the turn should finish what is under way and give it back before sending more."""


class NoDeviceLock:
    """For a device that nobody else uses."""

    def take(self) -> None: ...

    def give_back(self) -> None: ...

    def wanted(self) -> bool:
        return False


NO_DEVICE_LOCK = NoDeviceLock()


class BulkDeviceLock:
    """Bulk work's turn: goes on batch after batch until a request waits.

    `device` as a predictor names it ("cuda:0"); `folder` holds the lock files, by default one for all processes of this user.
    One thread takes it and gives it back.
    """

    def __init__(self, device: str, folder: Path | None = None) -> None:
        self._priority, self._device = _lock(device, "priority", folder), _lock(device, "device", folder)

    def take(self) -> None:
        self._priority.acquire(poll_interval=POLL_SECONDS)
        self._priority.release()
        self._device.acquire(poll_interval=POLL_SECONDS)

    def give_back(self) -> None:
        self._device.release()

    def wanted(self) -> bool:
        try:
            self._priority.acquire(timeout=0)
        except Timeout:
            return True
        self._priority.release()
        return False


class PriorityDeviceLock(BulkDeviceLock):
    """A single request's turn: while it waits, bulk sends no further batch."""

    def take(self) -> None:
        with self._priority.acquire(poll_interval=POLL_SECONDS):
            self._device.acquire(poll_interval=POLL_SECONDS)

    def wanted(self) -> bool:
        return True  # given back after every batch, so that bulk goes on between them
