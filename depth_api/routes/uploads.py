"""Routes of uploads: a client sends an image here, and names its URL in requests.

What does not belong here: reading the body (body.py), and how long an upload is kept (serving.uploads).
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, HTTPException, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from depth_api import body, errors, stored_files
from depth_api.dependencies import Caller, State, path_of
from depth_api.openapi import header
from depth_api.routes.head import answer_head
from depth_api.schemas import Upload
from depth_core import layout
from depth_core.contract import UPLOADS_PATH
from depth_core.serving import uploads
from depth_core.settings import Settings

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "title": "UploadForm",
        "type": "object",
        "properties": {"file": {"type": "string", "format": "binary", "description": "The image, under any name."}},
        "required": ["file"],
    }
}
# Bytes as they are are taken too. The document leaves them out: with two kinds of bodies openapi-python-client makes code that
# fails.
_BODIES = {body.FORM: _FORM}


def build(settings: Settings) -> APIRouter:
    router = APIRouter(prefix=UPLOADS_PATH)
    router.add_api_route(
        "",
        _upload,
        methods=["POST"],
        status_code=201,
        response_model=Upload,
        responses=errors.documented_for_callers(settings, 408, 413, 415)
        | {201: {"description": "Kept.", "headers": header("Location", "The upload's path.", format="uri-reference")}},
        openapi_extra={"requestBody": {"required": True, "content": _BODIES}},
        operation_id="createUpload",
        summary="Upload an image",
    )
    router.add_api_route(
        "/{upload_id:uuid}",
        _get,
        methods=["GET"],
        response_class=Response,
        responses=errors.documented_for_callers(settings, 404)
        | stored_files.responses(dict.fromkeys([*sorted(uploads.IMAGE_TYPES), uploads.UNKNOWN_TYPE], _BYTES)),
        operation_id="getUpload",
        summary="Get an upload",
    )
    return answer_head(router)


async def _upload(request: Request, response: Response, state: State, caller: Caller) -> Any:
    """Keeps an image for a day, and answers with the `imageUrl` to name in requests of the same API key.

    Send a form with one file, or the bytes as they are, with an image's media type or `application/octet-stream`. The same bytes
    get the same URL and another day. Whether they are an image is found out when they are used.
    """
    async with body.received_file(request, state.settings) as received:
        kept = await run_in_threadpool(
            uploads.keep,
            state.artworks.database,
            state.store,
            received.file,
            api_key_id=caller,
            sha256=received.sha256,
            size=received.size,
            media_type=received.media_type,
        )
    response.headers["Location"] = path_of(request, f"{UPLOADS_PATH}/{kept.id}")
    return Upload(
        id=kept.id,
        image_url=uploads.url(state.settings.public_url, kept.id),
        bytes=kept.bytes,
        sha256=kept.sha256,
        expires_at=kept.expires_at,
    )


async def _get(upload_id: Annotated[UUID, Path()], request: Request, state: State, caller: Caller) -> Response:
    """The bytes of an upload of yours."""
    found = await run_in_threadpool(uploads.find, state.artworks.database, upload_id, api_key_id=caller)
    if found is None:
        raise HTTPException(404, f"there is no upload {upload_id}, or it has expired")
    more = {"Content-Disposition": "attachment"} if found.media_type == uploads.UNKNOWN_TYPE else {}
    key = layout.upload_key(upload_id)
    answer = await stored_files.answer(request, state, key, media_type=found.media_type, more=more)
    if answer is None:
        raise HTTPException(404, f"upload {upload_id} is no longer in the store; send it again")
    return answer
