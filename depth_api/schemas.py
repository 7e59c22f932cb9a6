"""Answers of the API that are not artworks, as types. Artworks and their parameters are in depth_core.contract."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.json_schema import SkipJsonSchema

from depth_core.contract import Artwork, absent_not_null


class FieldError(BaseModel):
    loc: list[str | int] = Field(description="Where: body, path, query or header, then the field.")
    msg: str
    type: str


class ValidationErrors(BaseModel):
    detail: list[FieldError] = Field(description="Every error of the request.")


class ErrorMessage(BaseModel):
    detail: str


class ArtworkPage(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    artworks: list[Artwork]
    next_cursor: str | SkipJsonSchema[None] = Field(
        None, description="Pass it as `cursor` to get the next page; absent on the last one.", json_schema_extra=absent_not_null
    )


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
