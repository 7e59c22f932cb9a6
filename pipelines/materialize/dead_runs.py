"""Runs of processes of this machine that have died: found by lock files, ended, their pool slots freed.

A run that was killed would stay "started" and keep its pool slot for ever: there may be no daemon here that notices. The lock
files are of this machine, below DAGSTER_HOME. A run that has no lock file here (another machine's, the daemon's) is left alone.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
from filelock import FileLock, Timeout

ALIVE_TAG = "depthline/alive"  # names the lock file that the process of a run holds for as long as it lives


@contextmanager
def sign_of_life(instance: dg.DagsterInstance) -> Iterator[dict[str, str]]:
    """Tags for the runs of this process, by which later ones can tell that it has died; ends the runs of those that have."""
    folder = Path(instance.root_directory) / "alive"
    folder.mkdir(exist_ok=True)
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        name = run.tags.get(ALIVE_TAG)
        if name is None or not (folder / name).exists():  # the daemon's, or another machine's
            continue
        with suppress(Timeout), FileLock(folder / name, timeout=0):
            instance.report_run_failed(run, "its process has died")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            (folder / name).unlink(missing_ok=True)
    mine = folder / uuid.uuid4().hex
    try:
        with FileLock(mine):
            yield {ALIVE_TAG: mine.name}
    finally:
        mine.unlink(missing_ok=True)
