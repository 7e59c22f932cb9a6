"""Answers with a file of the store: bytes of a local store, parts of them, or a signed URL of a bucket."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from depth_api.openapi import header
from depth_api.schemas import ErrorAnswer
from depth_api.state import ApiState

HEADERS = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
_ETAG = header("ETag", "For If-None-Match and If-Range.", pattern='^"[^"]*"$')
_FILE = _ETAG | header("Accept-Ranges", "Ranges may be requested.", always=False, enum=["bytes"])


def responses(content: Mapping[str, Any]) -> dict[int | str, dict[str, Any]]:
    """The answers of an operation that ends with `answer`, for the OpenAPI document; 400 and 416 beside the usual errors."""
    return {
        200: {"description": "The file.", "content": content, "headers": _FILE},
        206: {"description": "Part of the file.", "content": content, "headers": _FILE},
        304: {"description": "The file is the one of If-None-Match.", "headers": _ETAG},
        307: {
            "description": "The file is at Location for a while.",
            "headers": header("Location", "A signed URL.", format="uri"),
        },
        400: {"model": ErrorAnswer, "description": "The Range header is malformed."},
        416: {
            "model": ErrorAnswer,
            "description": "The range lies outside the file.",
            "headers": header("Content-Range", "The file's length.", always=False),
        },
    }


async def answer(
    request: Request, state: ApiState, key: str, *, media_type: str | None = None, more: Mapping[str, str] | None = None
) -> Response | None:
    """The file of a key, a part of it (`Range`), 304, or a redirect to where it is; None when it is no longer in the store.

    `media_type`: default by the name of the file; a bucket keeps it with the file. `more`: further headers.
    """
    if not state.store.local:
        return await _redirect(request, state, key)
    try:
        status = await run_in_threadpool(os.stat, state.store.path(key))
    except FileNotFoundError:
        return None
    headers = HEADERS | dict(more or {})
    response = FileResponse(state.store.path(key), headers=headers, media_type=media_type, stat_result=status)
    if _is_known(request, response.headers["etag"]):
        return Response(status_code=304, headers=headers | {"ETag": response.headers["etag"]})
    unit = request.headers.get("range", "").partition("=")[0].strip().lower()
    if request.method == "HEAD" or unit != "bytes":  # ranges are of GET and bytes; others are ignored, as RFC 9110 has it
        request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
    return response


def answer_json(request: Request, content: Any) -> Response:
    """JSON in the place of a file, or 304; always whole."""
    response = JSONResponse(content)
    headers = HEADERS | {"ETag": f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'}
    if _is_known(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return response


def _is_known(request: Request, etag: str) -> bool:
    known = request.headers.get("if-none-match", "")
    return known.strip() == "*" or etag in re.findall(r'"[^"]*"', known)


async def _redirect(request: Request, state: ApiState, key: str) -> Response:
    """To a signed URL of the bucket. A signature is for one method."""
    method = "head_object" if request.method == "HEAD" else "get_object"
    seconds = state.settings.presigned_seconds
    url = await run_in_threadpool(state.store.fs.sign, state.store.path(key), expiration=seconds, client_method=method)
    return RedirectResponse(url, 307, {"Cache-Control": "private, no-store"})
