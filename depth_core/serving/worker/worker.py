"""One worker's loop: claim, fetch, run through an engine, finish, until nothing comes.

A worker has one device. Artworks of equal parameters that are at hand together go through the engine together.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace

from depth_core import layout
from depth_core.contract import DepthParameters
from depth_core.display import shown_text
from depth_core.engine.base import Engine, LockDevice, no_lock
from depth_core.engine.stages import Item, Plan
from depth_core.errors import (
    ErrorKind,
    ImageError,
    ModelUnavailableError,
    StoreError,
    is_installation_error,
    row_failure,
    url_failure,
)
from depth_core.inference import checkpoints
from depth_core.ingest.fetch.download import Fetched
from depth_core.output import depth_folder, formats
from depth_core.output.outcomes import FAILED, SUCCEEDED, Outcome, outcome_from_sidecar, utc_now
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import Claimed
from depth_core.serving.worker.claims import Claims
from depth_core.serving.worker.downloads import Downloads
from depth_core.serving.worker.engines import Engines
from depth_core.serving.worker.model_report import ModelReport
from depth_core.serving.worker.report import Report
from depth_core.serving.worker.warm import WarmModels
from depth_core.settings import Settings
from depth_core.storage import Store

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05  # between queries of the database while nothing is at hand
DOWNLOADS_PER_CLAIM = 4
COLLECT_SECONDS = 1.0
RECONCILE_SECONDS = 10.0
STORE_PATIENCE_SECONDS = 120.0  # a store that refuses everything for so long ends the worker
LONGEST_PAUSE_SECONDS = 15.0


@dataclass(slots=True)
class _Ready:
    """A claimed artwork whose image is at hand."""

    claimed: Claimed
    image: Fetched
    seconds: float


class Worker:
    """One worker's work. `serve` runs it to its end."""

    def __init__(
        self,
        artworks: ArtworkStore,
        store: Store,
        settings: Settings,
        *,
        name: str,
        device: str,
        run_id: str = "",
        lock_device: LockDevice = no_lock,
        idle_timeout: float | None = None,
        warn: Callable[[str], None] = log.warning,
        collect: Callable[[], object] = lambda: None,
        on_progress: Callable[[Report], None] = lambda report: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name`: one that was never used before. `device`: for the registry of workers; the settings say which one is used.
        `lock_device`: given a network's device, the lock to hold there. `idle_timeout`: seconds without work after which it ends;
        None: DEPTH_IDLE_TIMEOUT_SECONDS, or never with DEPTH_WARM_MODELS. `warn`: given a line about a model that cannot be kept
        warm. `collect`: called every second, to bring in what came
        elsewhere (the inbox) and to answer there. `clock`: seconds, for its deadlines and pauses.

        Raises ConfigurationError when DEPTH_API_FORMATS names no output file."""
        self.artworks = artworks
        self.store = store
        self.settings = settings
        self.extra_files = formats.of_requests(settings)
        self.name = name
        self.device = device
        self.run_id = run_id
        self.lock_device = lock_device
        self.idle_timeout = idle_timeout if idle_timeout is not None else settings.worker_idle_seconds
        self.warn = warn
        self.collect = collect
        self.on_progress = on_progress
        self.clock = clock
        self.report = Report()
        self.models = ModelReport(artworks, settings, name)
        self.claims = Claims(artworks, store, settings, name, self.report)
        self.store_failed_at: float | None = None  # since when the store has refused everything
        self.paused_until = 0.0
        self.stopping = False

    def stop(self) -> None:
        """Makes `serve` end soon: images at the device are finished, other claims go back. Signal handlers may call it."""
        self.stopping = True

    def serve(self) -> Report:
        """Works until nothing has come for `idle_timeout`, `max_worker_seconds` are over, or `stop` is called.

        What it had claimed and not done goes back when it ends, also by an exception. What the store refuses waits and is tried
        again; raises StoreError when it has refused everything for STORE_PATIENCE_SECONDS.
        """
        engines = Engines(self.store, self.settings, self.settings.model_memory_gib * 2**30, self.lock_device)
        self.artworks.workers.start(self.name, self.device, run_id=self.run_id)
        self.models.refresh()
        try:
            with self.claims.heartbeats():
                downloads = Downloads(self.settings, self.store)
                try:
                    self._loop(engines, downloads)
                    self.collect()
                finally:
                    downloads.close()
        finally:
            self.artworks.workers.end(self.name)  # first of all: what it had claimed goes back
            engines.close()
            self.models.close()
        return self.report

    # -- the loop -------------------------------------------------------------------------------------------------------------

    def _loop(self, engines: Engines, downloads: Downloads) -> None:
        settings = self.settings
        warm = WarmModels(engines, settings, warn=self.warn, clock=self.clock)
        began = last_work = self.clock()
        collected = reconciled = -RECONCILE_SECONDS
        while not self.stopping:
            now = self.clock()
            ending = now - began > settings.max_worker_seconds
            if now - reconciled > RECONCILE_SECONDS:
                self.artworks.queue.reconcile(max_attempts=settings.max_attempts)
                reconciled = now
            if now - collected > COLLECT_SECONDS:
                self.collect()
                collected = now
            if ending:
                self.claims.give_back_waiting()
            elif now >= self.paused_until:
                self._claim(engines, downloads)
            ready = self._fetched(downloads, wait=POLL_SECONDS)
            if ready:
                try:
                    self._run(ready, engines)
                    self.store_failed_at = None
                except StoreError as error:
                    self._put_back([each.claimed for each in ready], error)
            if self.report.new:
                self.on_progress(self.report)
                self.report.new.clear()
            if ready or self.claims.held:
                last_work = self.clock()
                continue
            idle = now - max(last_work, self.paused_until)
            if ending or idle > self.idle_timeout:
                return
            loaded = engines.keys
            warm.load_next(idle)
            if engines.keys != loaded:
                self.models.refresh()  # its weights may have been fetched for this

    def _claim(self, engines: Engines, downloads: Downloads) -> None:
        claims = self.claims
        if again := claims.next_alone():
            downloads.start(again)
        if claims.alone or claims.waiting_alone:
            return
        # Downloads have a window of their own, so that slow hosts do not keep the device from what is quick.
        at_work, most = len(claims.held) - downloads.busy, self.settings.worker_claims
        room = min(most - at_work, DOWNLOADS_PER_CLAIM * most - downloads.busy)
        if room > 0:
            for claimed in claims.take(room, loaded=engines.keys):
                downloads.start(claimed)

    def _fetched(self, downloads: Downloads, *, wait: float) -> list[_Ready]:
        """Images that have arrived, up to one round of work; waits a moment for the first. Failed downloads are finished here."""
        ready: list[_Ready] = []
        while len(ready) < self.settings.worker_claims:
            try:
                claimed, image = downloads.done.get(timeout=wait if not ready else 0.0)
            except queue.Empty:
                break
            downloads.busy -= 1
            if claimed.id in self.claims.lost:
                self.claims.drop(claimed.id)
            elif isinstance(image, ImageError):
                self.claims.finish(claimed, _unfetched(image))
            elif isinstance(image, StoreError):
                self._put_back([claimed], image)
                break
            elif isinstance(image, Exception):
                raise image
            else:
                ready.append(_Ready(claimed, image, image.seconds))
        return ready

    def _run(self, ready: list[_Ready], engines: Engines) -> None:
        """Everything at hand, in groups of equal parameters; each group is one pass through the engine."""
        groups: dict[DepthParameters, list[_Ready]] = defaultdict(list)
        for each in ready:
            groups[each.claimed.parameters].append(each)
        for parameters, group in groups.items():
            if self.stopping:
                return
            try:
                loaded = engines.keys
                engine = engines.get(checkpoints.resolve(parameters.spec, self.settings))
                if parameters.spec.key not in loaded:
                    self.models.refresh()  # its weights may have been fetched for this
            except ModelUnavailableError as error:
                refused, usable = _refused(ErrorKind.MODEL_UNAVAILABLE, str(error)), self.models.usable()
                for each in group:
                    self.claims.finish(each.claimed, refused, each.seconds, usable_models=usable)
                continue
            except Exception as error:
                if not _no_room(error):
                    raise
                refused = _refused(ErrorKind.OUT_OF_MEMORY, f"{parameters.spec.key} does not fit: {error}")
                for each in group:
                    self.claims.finish(each.claimed, refused, each.seconds)
                continue
            try:
                self._run_group(parameters, group, engine)
            except StoreError:
                raise
            except Exception as error:
                self._blame(group, error)
                raise

    def _blame(self, group: list[_Ready], error: Exception) -> None:
        """An unexpected error ends the worker. What was at work counts as tried: it runs alone the next time, and in the end
        fails, so that one artwork cannot end worker after worker."""
        for each in group:
            claimed = each.claimed
            if claimed.id not in self.claims.held:
                continue
            if claimed.attempt >= self.settings.max_attempts:
                self.claims.finish(claimed, _refused(ErrorKind.INTERNAL, _reason(error)), each.seconds)
            else:
                self.claims.give_back([claimed], tried=True)

    def _run_group(self, parameters: DepthParameters, group: list[_Ready], engine: Engine) -> None:
        plan = Plan(parameters, self.extra_files, name_sources=False)
        digest = depth_folder.digest_of(parameters, engine.checkpoint.revision, None, self.extra_files)
        by_source = {str(each.claimed.id): each for each in group}
        items: list[Item] = []
        first: dict[str, _Ready] = {}  # the same image twice in a group is computed once
        twins: dict[str, list[_Ready]] = defaultdict(list)
        for source, each in by_source.items():
            if each.claimed.id in self.claims.lost:
                self.claims.drop(each.claimed.id)
                continue
            of_bulk, folder = (where(each.image.sha256, digest) for where in (layout.depth_folder, layout.request_folder))
            known = self._known(each, of_bulk) or self._known(each, folder)
            if known is not None:
                self.claims.finish(each.claimed, known, each.seconds)
            elif folder in first:
                twins[str(first[folder].claimed.id)].append(each)
            else:
                first[folder] = each
                items.append(Item(source, each.image.read, folder, each.claimed.image_url, isolate=each.claimed.attempt > 1))
        with closing(engine.run(items, plan)) as outcomes:
            for item, outcome in outcomes:
                first_one = by_source[item.source]
                self.claims.finish(first_one.claimed, outcome, first_one.seconds)
                done = outcome.status == SUCCEEDED
                alike = replace(outcome, reused=True) if done else replace(outcome, seconds={})  # the work is counted once
                for twin in twins[item.source]:
                    self.claims.finish(twin.claimed, alike, twin.seconds)
                if self.stopping:
                    return

    def _known(self, each: _Ready, folder: str) -> Outcome | None:
        """The outcome of an artwork's image that was made before, if any, or why it cannot be read.

        Raises errors of the installation.
        """
        try:
            sidecar = depth_folder.read_sidecar(self.store, folder)
            return None if sidecar is None else outcome_from_sidecar(folder, sidecar)
        except Exception as error:  # noqa: BLE001 - by place
            failure = url_failure(each.claimed.image_url, error)
            return _refused(failure.kind, failure.message)

    def _put_back(self, claims: list[Claimed], error: StoreError) -> None:
        """The store refuses: what is at hand waits again, uncounted, and nothing new is claimed for a while."""
        now = self.clock()
        self.store_failed_at = self.store_failed_at or now
        failing = now - self.store_failed_at
        if failing > STORE_PATIENCE_SECONDS:
            raise error
        pause = min(LONGEST_PAUSE_SECONDS, max(1.0, failing))
        self.paused_until = now + pause
        waiting = self.claims.give_back(claims, tried=False)
        log.error("%s; %d artworks wait, next attempt in %.0f s", error, len(waiting), pause)


def _no_room(error: Exception) -> bool:
    """Whether a network did not fit the device (torch's own error is not imported for this)."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _reason(error: Exception) -> str:
    return shown_text(str(error)) if is_installation_error(error) else row_failure(error).message


def _unfetched(error: ImageError) -> Outcome:
    return Outcome(
        source_sha256="",
        status=FAILED,
        attempts=error.attempts,
        error_kind=error.kind.value,
        error_message=error.message,
        finished_at=utc_now(),
    )


def _refused(kind: ErrorKind, message: str) -> Outcome:
    return Outcome(source_sha256="", status=FAILED, error_kind=kind.value, error_message=message, finished_at=utc_now())
