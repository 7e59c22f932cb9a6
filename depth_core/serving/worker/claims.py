"""What one worker has claimed and not finished, and how each claim ends: finished, dropped, given back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

from depth_core.errors import ErrorKind
from depth_core.output.outcomes import SUCCEEDED, Outcome, outcome_to_files
from depth_core.serving.artworks import deletion
from depth_core.serving.artworks.deletion import FolderRemovedError
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import Claimed
from depth_core.serving.worker.report import Report
from depth_core.settings import Settings
from depth_core.storage import Store

log = logging.getLogger(__name__)


class Claims:
    """The claims of one worker. Its own thread changes them; `lost` is also changed by the thread of heartbeats."""

    def __init__(self, artworks: ArtworkStore, store: Store, settings: Settings, name: str, report: Report) -> None:
        self._artworks = artworks
        self._store = store
        self._settings = settings
        self._name = name
        self._report = report
        self.held: set[UUID] = set()  # claimed and not finished
        self.lost: set[UUID] = set()  # claimed once, but cancelled or taken back since
        self.alone = False  # an artwork that was tried before is at work: nothing else is claimed beside it
        self.waiting_alone: list[Claimed] = []  # tried before, and not begun here

    def take(self, limit: int, loaded: Sequence[str]) -> list[Claimed]:
        """Claims up to `limit` artworks; returns those to begin at once. `loaded`: keys of models that are in memory."""
        lease = self._settings.lease_seconds
        claims = self._artworks.queue.claim(self._name, limit=limit, lease_seconds=lease, loaded=loaded)
        self.held.update(claimed.id for claimed in claims)
        self.waiting_alone += [claimed for claimed in claims if claimed.attempt > 1]
        return [claimed for claimed in claims if claimed.attempt == 1]

    def next_alone(self) -> Claimed | None:
        """An artwork that was tried before, once nothing else is at work; None otherwise."""
        if not self.waiting_alone or self.held - {claimed.id for claimed in self.waiting_alone}:
            return None
        self.alone = True
        return self.waiting_alone.pop(0)

    def finish(self, claimed: Claimed, outcome: Outcome, fetch_seconds: float = 0.0, *, usable_models: str | None = None) -> None:
        """Writes an artwork's final status. `fetch_seconds`: of its download. `usable_models`: see ArtworkQueue.fail.

        One whose files were removed meanwhile, since another artwork was deleted that had the same, goes back. Raises StoreError.
        """
        spent = {} if outcome.reused else dict(outcome.seconds)
        seconds = {"download": fetch_seconds, **spent} if fetch_seconds else spent
        facts = outcome_to_files(outcome)
        if fetch_seconds:
            facts["seconds"] = {"download": fetch_seconds, **outcome.seconds}
        if outcome.status == SUCCEEDED:
            try:
                done = self._artworks.queue.finish(
                    claimed.id,
                    self._name,
                    folder=outcome.folder,
                    results=outcome.results,
                    seconds=seconds,
                    outcome=facts,
                    store=self._store,
                )
            except FolderRemovedError as error:
                log.info("%s is made again: %s", claimed.id, error)
                self.give_back([claimed], tried=False)
                return
        else:
            kind = ErrorKind(outcome.error_kind or ErrorKind.INTERNAL)
            message = outcome.error_message or ""
            done = self._artworks.queue.fail(
                claimed.id, self._name, kind, message, seconds=seconds, outcome=facts, usable_models=usable_models
            )
        self._forget([claimed.id])
        if done:
            self._report.add(claimed.id, outcome, seconds)
        else:
            self._report.dropped += 1
            if outcome.status == SUCCEEDED and not outcome.reused:
                deletion.remove_abandoned(self._artworks.database, self._store, claimed.id, outcome.folder)

    def give_back(self, claims: Sequence[Claimed], *, tried: bool) -> list[UUID]:
        """Gives back those of `claims` that are still held; returns them. `tried`: the attempt counts."""
        ids = [claimed.id for claimed in claims if claimed.id in self.held]
        self._artworks.queue.release(ids, self._name, tried=tried)
        self._forget(ids)
        return ids

    def give_back_waiting(self) -> None:
        """Gives back what was claimed and never begun, for the next worker."""
        if self.waiting_alone:
            ids = [claimed.id for claimed in self.waiting_alone]
            self._artworks.queue.release(ids, self._name, tried=False)
            self.held.difference_update(ids)
            self.waiting_alone.clear()

    def drop(self, artwork_id: UUID) -> None:
        """Leaves an artwork that was lost."""
        self._forget([artwork_id])
        self._artworks.queue.release([artwork_id], self._name, tried=False)  # nothing, unless it was thought lost and is not
        self._report.dropped += 1

    @contextmanager
    def heartbeats(self) -> Iterator[None]:
        """Renews the leases in a thread, so that a long batch does not lose them, and notices what was cancelled."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(min(2.0, self._settings.lease_seconds / 4)):
                try:
                    before = set(self.held)
                    still = self._artworks.workers.heartbeat(self._name, lease_seconds=self._settings.lease_seconds)
                    self.lost |= before - still  # what has ended in between is not asked for again
                except Exception:
                    log.exception("heartbeat of %s failed; trying again", self._name)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _forget(self, ids: Sequence[UUID]) -> None:
        self.held.difference_update(ids)
        self.lost.difference_update(ids)
        self.alone = False
