"""The route of result files: bytes of a local store, parts of them, or a signed URL of a bucket."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from depth_api import errors, stored_files
from depth_api.dependencies import OwnArtwork, State
from depth_api.routes.head import answer_head
from depth_core import layout
from depth_core.contract import ARTWORKS_PATH
from depth_core.output import depth_folder, formats
from depth_core.settings import Settings
from depth_core.storage import Store

_NAMES = list(formats.result_names())  # an artwork says which it has
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_CONTENT = {kind: {} if kind == formats.SIDECAR_TYPE else _BINARY for kind in formats.content_types().values()}


def build(settings: Settings) -> APIRouter:
    router = APIRouter(prefix=ARTWORKS_PATH)
    router.add_api_route(
        "/{artwork_id:uuid}/results/{name}",
        _result,
        methods=["GET"],
        response_class=Response,
        responses=errors.documented_for_callers(settings, 404) | stored_files.responses(_CONTENT),
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
            return stored_files.answer_json(request, facts)
    answer = await stored_files.answer(request, state, key)
    if answer is None:
        raise HTTPException(404, f"result {name!r} of artwork {artwork.id} is no longer in the store")
    return answer


def _facts_without_source_name(store: Store, folder: str | None) -> dict[str, Any] | None:
    """The sidecar of a depth map that a bulk run had made before, without the name of its source file, which is not the
    caller's; None when there is no such name, and the file may be sent as it is."""
    facts = depth_folder.read_sidecar(store, folder) if folder else None
    return facts | {"sourceName": ""} if facts and facts.get("sourceName") else None
