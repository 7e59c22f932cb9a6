"""Error answers: one shape, wherever in the server they are made, their handlers, and their part of the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from depth_api.logs import log
from depth_api.openapi import header
from depth_api.schemas import ErrorMessage, ValidationErrors
from depth_core.display import shown_text
from depth_core.errors import StoreError

DATABASE_ERRORS = (DBAPIError, NoConnectionError)

_DESCRIPTIONS = {
    401: "No API key, or an unknown one.",
    408: "The body did not arrive in time.",
    404: "Not found, or it has another owner.",
    409: "The Idempotency-Key was used with another body.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    429: "Too many requests, or too many wrong keys; Retry-After says when to try again.",
    503: "The database or the store does not answer.",
}
_RETRY_AFTER = header("Retry-After", "Seconds after which to try again.", type="integer", minimum=1)
_CHALLENGE = header("WWW-Authenticate", "How to authenticate.", enum=["Bearer"])
_HEADERS = {401: _CHALLENGE, 429: _RETRY_AFTER, 503: _RETRY_AFTER}


def error_body(detail: str | list[dict[str, Any]]) -> dict[str, Any]:
    """The JSON object of every error answer."""
    return {"detail": detail}


def error_response(status: int, detail: str | list[dict[str, Any]], headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(error_body(detail), status, headers)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of an operation for the OpenAPI document: these, and 422."""
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorMessage, "description": _DESCRIPTIONS[status]}
        | ({"headers": _HEADERS[status]} if status in _HEADERS else {})
        for status in statuses
    }
    responses[422] = {
        "model": ValidationErrors,
        "description": "The request is invalid; `detail` lists every error.",
    }
    return responses


def register(app: FastAPI) -> None:
    """Makes the application answer its exceptions in this shape."""
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _invalid)
    for unavailable in (*DATABASE_ERRORS, StoreError):
        app.add_exception_handler(unavailable, _unavailable)


async def _http_exception(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, error.detail, error.headers)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fields = [{"loc": list(each["loc"]), "msg": each["msg"], "type": each["type"]} for each in error.errors()]
    return error_response(422, fields)


async def _unavailable(request: Request, error: Exception) -> Response:
    log.error("unavailable", path=shown_text(request.url.path), exc_info=error)
    what = "the store" if isinstance(error, StoreError) else "the database"
    return error_response(503, f"{what} does not answer; try again", {"Retry-After": "5"})
