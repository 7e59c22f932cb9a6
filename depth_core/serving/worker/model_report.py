"""What a worker can compute, told to the database, so that the API knows it without having weights itself."""

from __future__ import annotations

import logging
import threading

from depth_core.inference import availability
from depth_core.inference.availability import ModelState
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.settings import Settings

log = logging.getLogger(__name__)


class ModelReport:
    """One worker's report. It is made in a thread: large files may have to be read, and a store of weights be asked."""

    def __init__(self, artworks: ArtworkStore, settings: Settings, worker_name: str) -> None:
        self._artworks = artworks
        self._settings = settings
        self._worker_name = worker_name
        self._states: dict[str, ModelState] = {}
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._asked = self._busy = False

    def refresh(self) -> None:
        """Makes the report anew, once more after one that is under way: that may have looked too early. Never raises."""
        with self._lock:
            self._asked = True
            if self._busy:
                return
            self._busy = True
        self._thread = threading.Thread(target=self._make_all, name="model report", daemon=True)
        self._thread.start()

    def usable(self) -> str:
        """The models that can be used now, for people; "" when none can, or the report is not made yet."""
        if self._thread is not None:
            self._thread.join(timeout=5)
        return availability.in_words(self._states)

    def close(self) -> None:
        """Waits for the report that is under way, so that it does not write to a database that is closed."""
        if self._thread is not None:
            self._thread.join()

    def _make_all(self) -> None:
        while True:
            with self._lock:
                self._busy = self._asked
                self._asked = False
                if not self._busy:
                    return
            self._make()

    def _make(self) -> None:
        try:
            self._states = availability.model_states(self._settings)
            self._artworks.workers.report_models(self._worker_name, self._states)
        except Exception:
            log.exception("%s could not tell which models it has", self._worker_name)
