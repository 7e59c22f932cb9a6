"""Answers of the API that are not artworks, as types. Artworks and their parameters are in depth_core.contract."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from depth_core.catalog import DepthKind
from depth_core.contract import NormalizationMode


class FieldError(BaseModel):
    loc: list[str | int] = Field(description="Where: body, path, query or header, then the field.")
    msg: str
    type: str


class ErrorAnswer(BaseModel):
    """Every 4xx and 5xx."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    status_code: int = Field(description="The answer's status code.")
    message: str = Field(description="What is wrong, and what to do.")
    error: str = Field(description="The status code's name, for example `Bad Request`.")
    detail: list[FieldError] = Field(description="Every error of an invalid request; empty for other errors.")


class ResolutionLimits(BaseModel):
    default: int = Field(description="Taken where a request has none.")
    recommended: list[int]
    advice: str


class Model(BaseModel):
    """One model that a request may name."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    name: str = Field(description="`model` of a request.")
    use_version_3: bool | None = Field(alias="useVersion3", description="`useVersion3` of a request; null: either.")
    family: str
    licence: str = Field(description="Of its weights, as an SPDX identifier.")
    kind: DepthKind = Field(description="What its numbers mean.")
    unit: str | None = Field(description="`m` where its numbers are metres; null: they have no unit.")
    normalization_modes: list[NormalizationMode]
    available: bool = Field(description="Whether it can be used now.")
    on_demand: bool = Field(description="Whether its weights are fetched when it is first asked for.")
    reason: str | None = Field(description="Why it cannot be used now.")
    resolution_lower_limit: ResolutionLimits


class Upload(BaseModel):
    """An image that was sent here."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    id: UUID
    image_url: str = Field(
        description="Name it as `imageUrl` in requests of the same API key.", json_schema_extra={"format": "uri"}
    )
    bytes: int
    sha256: str = Field(description="Of its bytes, in hex.")
    expires_at: datetime = Field(description="Until then requests may name it.")


class Check(BaseModel):
    ok: bool
    detail: str = ""


class Readiness(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    status: Literal["ready", "not ready"]
    database: Check
    store: Check
    last_worker_seconds: float | None = Field(description="Seconds since the last heartbeat of any worker; null: there was none.")
    live_workers: int
    waiting: int


class NotReady(Readiness, ErrorAnswer):
    """What does not answer, in the shape of all errors."""

    status: Literal["not ready"]
