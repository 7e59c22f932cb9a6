"""The route of result files: bytes of a local store, parts of them, or a signed URL of a bucket."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool

from depth_api import errors
from depth_api.dependencies import OwnArtwork, State
from depth_api.openapi import header
from depth_api.routes.head import answer_head
from depth_api.schemas import ErrorAnswer
from depth_api.state import ApiState
from depth_core import layout
from depth_core.contract import ARTWORKS_PATH
from depth_core.output import depth_folder, formats
from depth_core.settings import Settings
from depth_core.storage import Store

_NAMES = list(formats.result_names())  # an artwork says which it has
_HEADERS = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
_ETAG = header("ETag", "For If-None-Match and If-Range.", pattern='^"[^"]*"$')
_FILE = _ETAG | header("Accept-Ranges", "Ranges may be requested.", enum=["bytes"])
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_CONTENT = {kind: {} if kind == formats.SIDECAR_TYPE else _BINARY for kind in formats.content_types().values()}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": _CONTENT,
        "headers": _FILE,
    },
    206: {"description": "Part of the file.", "content": _CONTENT, "headers": _FILE},
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


def build(settings: Settings) -> APIRouter:
    always = (401, 429, 503) if settings.api_keys.get_secret_value() else (429, 503)
    router = APIRouter(prefix=ARTWORKS_PATH)
    router.add_api_route(
        "/{artwork_id:uuid}/results/{name}",
        _result,
        methods=["GET"],
        response_class=Response,
        responses=errors.documented(*always, 404) | _RESPONSES,
        operation_id="getResult",
        summary="Get a result file",
    )
    return answer_head(router)


async def _result(
    name: Annotated[
        str,
        Path(
            description="A file's name, the last part of its URL in `results`.",
            json_schema_extra={"enum": _NAMES},
        ),
    ],
    request: Request,
    artwork: OwnArtwork,
    state: State,
) -> Response:
    """A file of a finished artwork: its bytes, or part of them (`Range`), or a redirect to where they are."""
    if name not in artwork.results:
        raise HTTPException(404, f"artwork {artwork.id} has no result {name!r}")
    key = layout.file_key(artwork.folder, name)
    if name == formats.SIDECAR:
        facts = await run_in_threadpool(_facts_without_source_name, state.store, artwork.folder)
        if facts is not None:
            return JSONResponse(facts, headers=_HEADERS)
    if not state.store.local:
        return await _redirect(request, state, key)
    try:
        status = await run_in_threadpool(os.stat, state.store.path(key))
    except FileNotFoundError:
        raise HTTPException(404, f"result {name!r} of artwork {artwork.id} is no longer in the store") from None
    response = FileResponse(state.store.path(key), headers=_HEADERS, stat_result=status)
    known = request.headers.get("if-none-match", "")
    if known.strip() == "*" or response.headers["etag"] in re.findall(r'"[^"]*"', known):
        return Response(status_code=304, headers=_HEADERS | {"ETag": response.headers["etag"]})
    unit = request.headers.get("range", "").partition("=")[0].strip().lower()
    if request.method == "HEAD" or unit != "bytes":  # ranges are of GET and bytes; others are ignored, as RFC 9110 has it
        request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
    return response


async def _redirect(request: Request, state: ApiState, key: str) -> Response:
    """To a signed URL of the bucket. A signature is for one method."""
    method = "head_object" if request.method == "HEAD" else "get_object"
    seconds = state.settings.presigned_seconds
    url = await run_in_threadpool(state.store.fs.sign, state.store.path(key), expiration=seconds, client_method=method)
    return RedirectResponse(url, 307, {"Cache-Control": "private, no-store"})


def _facts_without_source_name(store: Store, folder: str | None) -> dict[str, Any] | None:
    """The sidecar of a depth map that a bulk run had made before, without the name of its source file, which is not the
    caller's; None when there is no such name, and the file may be sent as it is."""
    facts = depth_folder.read_sidecar(store, folder) if folder else None
    return facts | {"sourceName": ""} if facts and facts.get("sourceName") else None
