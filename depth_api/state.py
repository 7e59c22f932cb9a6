"""What the routes work with while the application runs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from anyio import CapacityLimiter

from depth_api.auth import ApiKeys
from depth_api.long_polling import LongPolling
from depth_api.schemas import Check
from depth_api.telemetry import FRESH_SECONDS, RequestMetrics
from depth_api.wrong_keys import WrongKeys
from depth_core.contract import Artwork
from depth_core.display import shown_text
from depth_core.errors import StoreError
from depth_core.inference import availability
from depth_core.inference.availability import ModelState
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.artworks.types import StoredArtwork
from depth_core.serving.rate_limits import RateLimits
from depth_core.settings import Settings
from depth_core.storage import Store

STORE_CHECK_SECONDS = 10.0
MODELS_SECONDS = 5.0


@dataclass
class ApiState:
    """One for each application, on `app.state.api`."""

    settings: Settings
    keys: ApiKeys
    metrics_key: ApiKeys  # empty: /metrics is open
    limits: RateLimits
    metrics: RequestMetrics
    artworks: ArtworkStore
    store: Store
    long_polling: LongPolling
    wrong_keys: WrongKeys
    # Threads of their own: limits wait for other writers of the database, and /health/ready, say, must not wait with them.
    limits_at_once: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(8))
    store_checked: tuple[float, Check] | None = None
    models_known: tuple[float, dict[str, ModelState]] | None = None

    def answer(self, artwork: StoredArtwork) -> Artwork:
        return artwork.answer(self.settings.public_url)

    def models(self) -> dict[str, ModelState]:
        """Which models can be used: as the living workers say; without any, as the last one said or as this process sees it.

        Kept for MODELS_SECONDS: a store of weights may have to be asked.
        """
        if self.models_known is None or time.monotonic() - self.models_known[0] > MODELS_SECONDS:
            states, alive = self.artworks.workers.models(fresh_seconds=FRESH_SECONDS)
            if not alive:
                states = availability.best([states, availability.model_states(self.settings, read_pytorch=False)])
            self.models_known = (time.monotonic(), states)
        return self.models_known[1]

    def check_store(self) -> Check:
        """Whether the store can be written. Cached for STORE_CHECK_SECONDS: on s3 every check costs money."""
        if self.store_checked is None or time.monotonic() - self.store_checked[0] > STORE_CHECK_SECONDS:
            check = Check(ok=True)
            try:
                self.store.check_writable()
            except StoreError as error:
                check = Check(ok=False, detail=shown_text(str(error)))
            self.store_checked = (time.monotonic(), check)
        return self.store_checked[1]
