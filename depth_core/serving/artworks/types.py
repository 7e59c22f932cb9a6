"""What the database says of artworks and workers, as plain values: rows, pages, claims, results of transactions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from depth_core.contract import ARTWORKS_PATH, Artwork, ArtworkError, ArtworkStatus, DepthParameters, WebhookEvent
from depth_core.display import shown_text, shown_url
from depth_core.errors import DepthlineError, ErrorKind
from depth_core.serving.data_uri import InlineImage

FINAL = [status for status in ArtworkStatus if status.final]


class IdempotencyConflictError(DepthlineError):
    """An Idempotency-Key came again with another body."""


class CursorError(DepthlineError):
    """A cursor that no list has returned."""


@dataclass(frozen=True, slots=True)
class NewArtwork:
    """What a request asks for."""

    image_url: str
    parameters: DepthParameters
    webhook: str | None = None
    webhook_events: tuple[WebhookEvent, ...] | None = None  # None: not given, which is `final`
    upload_id: UUID | None = None  # of the owner's upload that the image URL names
    inline: InlineImage | None = None  # what the body had in a `data:` URI, to be kept as that upload

    def as_api(self) -> dict[str, Any]:
        """The artwork's `parameters`: as accepted, defaults filled in."""
        return {"imageUrl": self.image_url, **self.parameters.as_api()} | _webhook_as_api(self.webhook, self.webhook_events)

    def sha256(self) -> str:
        """The same for two bodies that ask for the same, however they are written."""
        events = None if self.webhook_events in (None, (WebhookEvent.FINAL,)) else tuple(sorted(self.webhook_events or ()))
        identity = self.parameters.identity_of(replace(self, webhook_events=events).as_api())
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class StoredArtwork:
    """One row of the artworks table."""

    id: UUID
    api_key_id: str
    source: str
    image_url: str
    webhook: str | None
    webhook_events: tuple[WebhookEvent, ...] | None  # None: as in NewArtwork
    parameters: dict[str, Any]
    model: str
    status: ArtworkStatus
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    worker: str | None
    duration: float
    folder: str
    results: tuple[str, ...]
    error_kind: str | None
    error_message: str | None
    usable_models: str | None
    outcome: dict[str, Any] | None

    @classmethod
    def from_row(cls, row: Any) -> StoredArtwork:
        columns = {name: row._mapping[name] for name in cls.__slots__}
        events = None if row.webhook_events is None else tuple(map(WebhookEvent, row.webhook_events))
        typed = {"status": ArtworkStatus(row.status), "results": tuple(row.results), "webhook_events": events}
        return cls(**columns | typed)

    def answer(self, public_url: str) -> Artwork:
        """The artwork as the API answers it, its results as URLs under `public_url`.

        For its owner: credentials in its URLs are kept. `shown` is for everybody else.
        """
        parameters = {"imageUrl": self.image_url, **DepthParameters.filled(self.parameters)}
        parameters |= _webhook_as_api(self.webhook, self.webhook_events)
        base = f"{public_url.rstrip('/')}{ARTWORKS_PATH}/{self.id}/results/"
        return Artwork(
            id=self.id,
            artwork_type="depth_map",
            parameters=parameters,
            duration=round(self.duration, 3),
            results=[base + name for name in self.results],
            status=self.status,
            created_at=self.created_at,
            error=ArtworkError(kind=self.error_kind, message=self._public_message) if self.error_kind else None,
        )

    def when_processing(self) -> StoredArtwork:
        """The artwork as it was when a worker had just claimed it, whatever became of it since."""
        unfinished: dict[str, Any] = {"duration": 0.0, "results": (), "error_kind": None, "error_message": None}
        return replace(self, status=ArtworkStatus.PROCESSING, **unfinished)

    def shown(self, public_url: str) -> Artwork:
        """The artwork for terminals and pages: its URLs without credentials."""
        whole = self.answer(public_url)
        urls = {name: shown_url(whole.parameters[name]) for name in ("imageUrl", "webhook") if name in whole.parameters}
        error = whole.error and ArtworkError(kind=whole.error.kind, message=shown_text(whole.error.message))
        return whole.model_copy(update={"parameters": whole.parameters | urls, "error": error})

    @property
    def _public_message(self) -> str:
        """The error message for the owner. Why a model cannot be used names files and settings: history and records have that."""
        if self.error_kind == ErrorKind.MODEL_UNAVAILABLE:
            cure = f"these can be used: {self.usable_models}" if self.usable_models else "ask for another one"
            return f"the model {self.parameters['model']} cannot be used here; {cure}, or ask the operator for this one"
        return self.error_message or ""


def _webhook_as_api(webhook: str | None, events: Sequence[WebhookEvent] | None) -> dict[str, Any]:
    """The fields of the webhook among an artwork's `parameters`: those that were given."""
    given = {"webhook": webhook, "webhookEvents": None if events is None else [event.value for event in events]}
    return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Created:
    artwork: StoredArtwork
    replayed: bool  # an Idempotency-Key named an artwork that was there
    status_code: int | None  # what the request that made it was answered with; None: not answered yet


@dataclass(frozen=True, slots=True)
class Page:
    artworks: list[StoredArtwork]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """An artwork that one worker, and no other, works on until its lease ends."""

    id: UUID
    image_url: str
    parameters: DepthParameters
    attempt: int  # 1: never tried before
    created_at: datetime
    upload_id: UUID | None = None  # the image is this upload, and the URL is not called


@dataclass(frozen=True, slots=True)
class Transition:
    status: ArtworkStatus
    at: datetime
    worker: str | None  # its name
    note: str


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A process that works on artworks; `run_id` is Dagster's, empty for one that Dagster did not start."""

    name: str
    device: str
    run_id: str
    host: str
    pid: int
    started_at: datetime
    heartbeat_at: datetime
    ended_at: datetime | None
    succeeded: int
    failed: int
    models: dict[str, Any] | None  # see WorkerRegistry.models


@dataclass(frozen=True, slots=True)
class Reconciled:
    released: list[UUID] = field(default_factory=list)  # wait again, and will run alone
    failed: list[UUID] = field(default_factory=list)  # their workers died too often


@dataclass(frozen=True, slots=True)
class QueueStatus:
    waiting: int
    oldest_waiting_seconds: float  # 0 when nothing waits
    live_workers: int
    last_worker_seconds: float | None  # since the newest heartbeat of any worker; None: there was none


@dataclass(frozen=True, slots=True)
class Statistics:
    """Figures over all artworks there are."""

    by_status: dict[str, int]
    stage_seconds: dict[str, tuple[float, int]]  # stage -> seconds in all, artworks
