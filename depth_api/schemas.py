"""Answers of the API that are not artworks, as types. Artworks and their parameters are in depth_core.contract."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


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
