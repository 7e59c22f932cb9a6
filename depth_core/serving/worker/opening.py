"""A worker of the configured database and store that also serves the inbox: for Dagster's job and for `depthline worker`."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from depth_core.engine.device import PriorityDeviceLock
from depth_core.serving.artworks.store import open_store
from depth_core.serving.inbox.watch import Watch
from depth_core.serving.worker.report import Report
from depth_core.serving.worker.worker import Worker
from depth_core.settings import Settings
from depth_core.storage import Store

AUTO = "auto"  # the device that the settings name


@contextmanager
def open_worker(
    settings: Settings,
    store: Store,
    *,
    device: str = AUTO,
    run_id: str = "",
    idle_timeout: float | None = None,
    warn: Callable[[str], None],
    every_second: Callable[[Report], None] = lambda report: None,
    on_progress: Callable[[Report], None] = lambda report: None,
) -> Iterator[Worker]:
    """A worker on a device ("auto", "cpu", "cuda:1"), ready to `serve`. Its database is open for as long as the block runs.

    `run_id`: of the Dagster run, if it is one. `idle_timeout`: as Worker. `warn` is given a line for each file of the inbox that
    cannot be used, and for each model that cannot be kept warm.
    Raises ConfigurationError when the database cannot be opened.
    """
    if device != AUTO:
        settings = settings.model_copy(update={"device": device})
    artworks = open_store(settings)
    watch = Watch(artworks, settings)

    def collect() -> None:
        for line in watch.check().warnings():
            warn(line)
        every_second(worker.report)

    worker = Worker(
        artworks,
        store,
        settings,
        name="-".join(filter(None, ("worker", device, run_id, uuid.uuid4().hex[:4] if run_id else uuid.uuid4().hex))),
        device=device,
        run_id=run_id,
        lock_device=partial(PriorityDeviceLock, folder=settings.lock_folder),
        idle_timeout=idle_timeout,
        warn=warn,
        collect=collect,
        on_progress=on_progress,
    )
    try:
        yield worker
    finally:
        artworks.close()
