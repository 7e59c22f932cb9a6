"""Error answers: one shape, wherever in the server they are made, their handlers, and their part of the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from depth_api.logs import log
from depth_api.openapi import header
from depth_api.schemas import ErrorAnswer
from depth_core.display import shown_text
from depth_core.errors import StoreError
from depth_core.settings import Settings

DATABASE_ERRORS = (DBAPIError, NoConnectionError)

_DESCRIPTIONS = {
    400: "The request is invalid; `detail` lists every error.",
    401: "No API key, or an unknown one.",
    408: "The body did not arrive in time.",
    404: "Not found, or it has another owner.",
    409: "The Idempotency-Key was used with another body.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    429: "Too many requests, or too many wrong keys; Retry-After says when to try again.",
    500: "An error of the API; its log has it under the request's id.",
    503: "The database or the store does not answer.",
}
_RETRY_AFTER = header("Retry-After", "Seconds after which to try again.", type="integer", minimum=1)
_CHALLENGE = header("WWW-Authenticate", "How to authenticate.", enum=["Bearer"])
_HEADERS = {401: _CHALLENGE, 429: _RETRY_AFTER, 503: _RETRY_AFTER}


def error_body(status: int, message: str, detail: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The JSON object of every error answer. `detail`: the errors of an invalid request, each with `loc`, `msg` and `type`."""
    return {"statusCode": status, "message": message, "error": _phrase(status), "detail": [*detail]}


def error_response(
    status: int, message: str, headers: Mapping[str, str] | None = None, detail: Sequence[Mapping[str, Any]] = ()
) -> JSONResponse:
    return JSONResponse(error_body(status, message, detail), status, headers)


def _phrase(status: int) -> str:
    """The reason phrase of RFC 9110. Python's own differ from version to version."""
    return {413: "Content Too Large", 416: "Range Not Satisfiable"}.get(status) or HTTPStatus(status).phrase


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of an operation for the OpenAPI document: these, 400 and 500."""
    return {
        status: {"model": ErrorAnswer, "description": _DESCRIPTIONS[status]}
        | ({"headers": _HEADERS[status]} if status in _HEADERS else {})
        for status in (400, *statuses, 500)
    }


def documented_for_callers(settings: Settings, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same of an operation that asks who calls: these, and those that every such operation has."""
    no_key = (401,) if settings.api_keys.get_secret_value() else ()
    return documented(*no_key, 429, 503, *statuses)


def register(app: FastAPI) -> None:
    """Makes the application answer its exceptions in this shape."""
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _invalid)
    for unavailable in (*DATABASE_ERRORS, StoreError):
        app.add_exception_handler(unavailable, _unavailable)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = {"Allow": ", ".join(_methods(request))} if error.status_code == 405 else error.headers
    return error_response(error.status_code, error.detail, headers)


def _methods(request: Request) -> list[str]:
    """The methods of a path, of all its routes: the framework names those of the first one alone."""
    scopes = {method: {**request.scope, "method": method} for method in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")}
    routes = request.app.routes
    found = [name for name, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)]
    return found or ["GET", "HEAD"]  # a file of a folder that is mounted


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fields = [{"loc": list(each["loc"]), "msg": each["msg"], "type": each["type"]} for each in error.errors()]
    return error_response(400, "; ".join(_line(**each) for each in fields), detail=fields)


def _line(loc: Sequence[str | int], msg: str, **_: Any) -> str:
    """An error of a field for `message`. The body's own place is left out: a client sees fields only."""
    place = ".".join(map(str, loc[1:]))
    return f"{place}: {msg}" if place else msg


async def _unavailable(request: Request, error: Exception) -> Response:
    log.error("unavailable", path=shown_text(request.url.path), exc_info=error)
    what = "the store" if isinstance(error, StoreError) else "the database"
    return error_response(503, f"{what} does not answer; try again", {"Retry-After": "5"})


class JsonErrors:
    """Gives the error answers that a library made as text the shape of all others: those about a `Range`, for example."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun: Message | None = None
        text = b""

        async def send_json(message: Message) -> None:
            nonlocal begun, text
            if message["type"] == "http.response.start" and message["status"] >= 400 and not _is_json(message):
                begun = message
                return
            if begun is None:
                await send(message)
                return
            text += message.get("body", b"")
            if not message.get("more_body"):
                kept = {
                    name.decode("latin-1"): value.decode("latin-1")
                    for name, value in begun["headers"]
                    if name not in (b"content-type", b"content-length")
                }
                status = begun["status"]
                await error_response(status, text.decode() or HTTPStatus(status).description, kept)(scope, receive, send)

        await self.app(scope, receive, send_json)


def _is_json(start: Message) -> bool:
    return Headers(raw=start["headers"]).get("content-type", "").startswith("application/json")
