"""The journal of a chunk: outcomes of runs that have not ended, so that a run killed at any moment is continued and not repeated.

What does not belong here: outcomes of a whole chunk (outcome_files.py), and which images were at work (interrupted.py).
"""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from depth_core import layout
from depth_core.output.outcomes import Outcome, outcome_from_files, outcome_to_files
from depth_core.storage import Store

_PARALLEL_READS = 16  # a read from s3 is tens of milliseconds of waiting


class Journal:
    """Outcomes of one run over one chunk, written as they come, a segment at a time; safe to append to from several threads.

    A segment is a whole key, so it is there or not: no reader ever sees half of one. What is not yet flushed when a run is
    killed costs nothing but a look at depth.json for what succeeded, and another try for what failed.
    """

    def __init__(self, store: Store, profile: str, chunk: str, run: str, *, every: int = 100, seconds: float = 5.0) -> None:
        self._store = store
        self._of_run = (profile, chunk, run)
        self._every = every
        self._seconds = seconds
        self._pending: list[Outcome] = []
        self._flushed_at = time.monotonic()
        self._segments: int | None = None
        self._lock = threading.Lock()

    def append(self, outcome: Outcome) -> None:
        """Adds an outcome; writes a segment when enough have come or enough time has passed. Raises StoreError."""
        with self._lock:
            self._pending.append(outcome)
            if len(self._pending) >= self._every or time.monotonic() - self._flushed_at >= self._seconds:
                self._flush()

    def flush(self) -> None:
        """Writes what is pending. Raises StoreError; then nothing is lost and the next flush tries again."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            if self._segments is None:  # a run that is tried again goes on behind its earlier segments
                journal = self._store.keys(layout.journal_folder(*self._of_run[:2]))
                self._segments = sum(layout.is_segment_of_run(key, *self._of_run) for key in journal)
            data = b"".join(map(to_json_line, self._pending))
            key = layout.journal_segment_key(*self._of_run, self._segments)
            self._store.write(key, data, content_type="application/jsonl")
            self._segments += 1
            self._pending.clear()
        self._flushed_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.flush()


def read_journal(store: Store, profile: str, chunk: str) -> dict[str, Outcome]:
    """What all runs journalled of a chunk, by source sha256; of several outcomes for one image the latest. Raises StoreError."""
    keys = [key for key in store.keys(layout.journal_folder(profile, chunk)) if layout.is_journal_segment(key)]
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        segments = list(pool.map(store.read, keys))
    outcomes = [outcome for data in segments for line in data.splitlines() if (outcome := from_json_line(line))]
    outcomes.sort(key=lambda outcome: outcome.finished_at)  # stable: in file order where the times are equal
    return {outcome.source_sha256: outcome for outcome in outcomes}


def clear_journal(store: Store, profile: str, chunk: str) -> None:
    """Removes a chunk's journal, once its outcomes are written whole. Raises StoreError."""
    for key in list(store.keys(layout.journal_folder(profile, chunk))):
        store.delete(key)


def to_json_line(outcome: Outcome) -> bytes:
    """One line of a journal, newline included."""
    return json.dumps(outcome_to_files(outcome), separators=(",", ":")).encode() + b"\n"


def from_json_line(line: bytes) -> Outcome | None:
    """The outcome of a line; None for half a line, as a killed program leaves at a file's end. Unknown fields are ignored."""
    try:
        return outcome_from_files(json.loads(line))
    except (ValueError, TypeError):
        return None
