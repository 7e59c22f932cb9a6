"""Routes of artworks: create, list, get, cancel, delete. A request is validated, written and answered.

What does not belong here: what a request may say (serving.request_schema), the life of an artwork (serving.artworks), any model.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Header, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, ValidationError
from pydantic_core import PydanticCustomError
from starlette.concurrency import run_in_threadpool

from depth_api import body, errors, long_polling
from depth_api.dependencies import Caller, OwnArtwork, State, no_such_artwork, path_of
from depth_api.openapi import header
from depth_api.routes.head import answer_head
from depth_api.schemas import ErrorAnswer
from depth_api.state import ApiState
from depth_core.contract import ARTWORKS_PATH, Artwork, ArtworkStatus
from depth_core.errors import ErrorKind
from depth_core.serving import request_schema, uploads
from depth_core.serving.artworks import deletion
from depth_core.serving.artworks.cursor import CURSOR_PATTERN
from depth_core.serving.artworks.store import ACCEPTED
from depth_core.serving.artworks.types import Created, IdempotencyConflictError, NewArtwork, StoredArtwork
from depth_core.serving.request_schema import OwnUploads
from depth_core.serving.webhooks import endpoints
from depth_core.settings import Settings

_RFC3339 = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)"
_IDEMPOTENCY_KEY = r"[!-~]([ -~]{0,253}[!-~])?"
_CREATED_HEADERS = (
    header("Location", "The artwork's path.", format="uri-reference")
    | header("Preference-Applied", "The wait that was granted.", always=False, pattern="^wait=[0-9]+$")
    | header("Idempotent-Replayed", "An earlier request with this key made the artwork.", always=False, enum=["true"])
    | header(
        "Webhook-Disabled",
        "Since when nothing is sent to the webhook's endpoint, because it had failed for days.",
        always=False,
        format="date-time",
    )
)
_LIST_HEADERS = header("Link", 'The next page: `<URL>; rel="next"` (RFC 8288); absent on the last one.', always=False)


def build(settings: Settings) -> APIRouter:
    """The router. What a body may say depends on the settings, and so does its schema."""
    router = APIRouter(prefix=ARTWORKS_PATH)
    _add_creation(router, settings)
    documented = partial(errors.documented_for_callers, settings)
    router.add_api_route(
        "",
        _list,
        methods=["GET"],
        response_model=list[Artwork],
        response_model_exclude_none=True,
        responses=documented() | {200: {"description": "Newest first.", "headers": _LIST_HEADERS}},
        operation_id="listArtworks",
        summary="List artworks",
    )
    for path, method, endpoint, operation_id, summary in (
        ("/{artwork_id:uuid}", "GET", _get, "getArtwork", "Get an artwork"),
        ("/{artwork_id:uuid}/cancel", "POST", _cancel, "cancelArtwork", "Cancel an artwork"),
    ):
        router.add_api_route(
            path,
            endpoint,
            methods=[method],
            response_model=Artwork,
            response_model_exclude_none=True,
            responses=documented(404),
            operation_id=operation_id,
            summary=summary,
        )
    router.add_api_route(
        "/{artwork_id:uuid}",
        _delete,
        methods=["DELETE"],
        status_code=204,
        response_class=Response,
        responses=documented(404, 409)
        | {204: {"description": "Deleted."}, 409: {"model": ErrorAnswer, "description": "It has not ended; cancel it first."}},
        operation_id="deleteArtwork",
        summary="Delete an artwork",
    )
    return answer_head(router)


def _add_creation(router: APIRouter, settings: Settings) -> None:
    schema, examples = request_schema.json_schema(settings), request_schema.examples(settings)
    content = {"application/json": {"schema": schema, "examples": examples}}
    router.add_api_route(
        "/depth-map",
        _create,
        methods=["POST"],
        status_code=ACCEPTED,
        response_model=Artwork,
        response_model_exclude_none=True,
        responses=errors.documented_for_callers(settings, 408, 409, 413, 415)
        | {
            200: {"model": Artwork, "description": "It ended within `Prefer: wait`.", "headers": _CREATED_HEADERS},
            202: {"description": "Accepted; `GET` the Location for its status.", "headers": _CREATED_HEADERS},
        },
        openapi_extra={"requestBody": {"required": True, "content": content}},
        operation_id="createDepthMap",
        summary="Create a depth map",
    )


async def _create(
    request: Request,
    response: Response,
    state: State,
    caller: Caller,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="The same key and body within 24 hours get the same artwork; another body gets 409.",
            json_schema_extra={"pattern": f"^{_IDEMPOTENCY_KEY}$"},
        ),
    ] = None,
    _prefer: Annotated[  # documented here; read below, since several lines are one list
        str | None,
        Header(
            alias="Prefer",
            description=f"`wait=N`: answer when it has ended, or after N seconds, at most {long_polling.LONGEST_WAIT}.",
        ),
    ] = None,
) -> Any:
    """Creates a depth map. Answers at once, or with `Prefer: wait=N` when the artwork has ended or N seconds have passed."""
    own = OwnUploads(caller, lambda upload_id: uploads.find(state.artworks.database, upload_id, api_key_id=caller) is not None)
    text = await body.read_json_text(request, state.settings)
    new = await run_in_threadpool(_validated, text, idempotency_key, state.settings, own)
    if new.inline is not None:
        await run_in_threadpool(uploads.keep_inline, state.artworks.database, state.store, new.inline, api_key_id=caller)
    wait = long_polling.wait_seconds(request.headers.getlist("prefer"))
    if new.webhook is not None:
        since = await run_in_threadpool(endpoints.disabled_since, state.artworks, caller, new.webhook)
        if since is not None:
            response.headers["Webhook-Disabled"] = f"{since:%Y-%m-%dT%H:%M:%SZ}"
    try:
        created = await run_in_threadpool(
            state.artworks.create,
            new,
            api_key_id=caller,
            idempotency_key=idempotency_key,
            status_code=None if wait else ACCEPTED,
        )
    except IdempotencyConflictError as error:
        raise HTTPException(409, str(error)) from None
    except uploads.UploadGoneError as error:  # it expired just now
        raise RequestValidationError(
            [{"loc": ["body", "imageUrl"], "msg": str(error), "type": ErrorKind.BAD_URL.value}]
        ) from None
    artwork, status_code = created.artwork, created.status_code
    request.state.artwork_id = str(artwork.id)
    if status_code is None:
        artwork, status_code = await _awaited(request, response, state, created, wait)
        if idempotency_key is not None and not created.replayed:
            await run_in_threadpool(state.artworks.answered, caller, idempotency_key, status_code)
    response.status_code = status_code
    response.headers["Location"] = path_of(request, f"{ARTWORKS_PATH}/{artwork.id}")
    if created.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return state.answer(artwork)


def _validated(text: bytes, idempotency_key: str | None, settings: Settings, own_uploads: OwnUploads) -> NewArtwork:
    """The request of a body. Raises RequestValidationError with everything that is wrong, in headers and body."""
    found: list[dict[str, Any]] = []
    if idempotency_key is not None and not re.fullmatch(_IDEMPOTENCY_KEY, idempotency_key):
        message = "must be 1 to 255 printable ASCII characters"
        found.append({"loc": ["header", "Idempotency-Key"], "msg": message, "type": "idempotency_key"})
    try:
        new = request_schema.parse(text, settings, own_uploads)
    except ValidationError as error:
        raise RequestValidationError(found + request_schema.field_errors(error)) from None
    if found:
        raise RequestValidationError(found)
    return new


async def _awaited(
    request: Request, response: Response, state: ApiState, created: Created, wait: int
) -> tuple[StoredArtwork, int]:
    """Waits up to `wait` seconds for the artwork to be final; returns it, and the status code. `wait` is 0 for a repeated request
    that does not wait itself, while the first one with its key still does."""
    artwork = created.artwork
    if not wait:
        return artwork, ACCEPTED
    await long_polling.unless_disconnected(request, state.long_polling.until_final(artwork.id, wait))
    latest: StoredArtwork | None = await run_in_threadpool(state.artworks.get, artwork.id)
    artwork = latest or artwork  # it may have been pruned
    response.headers["Preference-Applied"] = f"wait={wait}"
    return artwork, 200 if artwork.status.final else ACCEPTED


def _as_rfc3339(text: Any) -> Any:
    if isinstance(text, str) and not re.fullmatch(_RFC3339, text):
        raise PydanticCustomError(
            "datetime", "must be an RFC 3339 time with its zone, such as 2026-01-31T12:00:00Z; write + as %2B"
        )
    return text


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("datetime", "must lie within the years 1 to 9999 in UTC") from None


_Time = Annotated[AwareDatetime, BeforeValidator(_as_rfc3339), AfterValidator(_in_utc)]


async def _list(
    request: Request,
    response: Response,
    state: State,
    caller: Caller,
    offset: Annotated[int, Query(ge=0, description="How many of the newest to leave out.")] = 0,
    limit: Annotated[int, Query(ge=1, le=500, description="How many to answer at most.")] = 10,
    status: Annotated[ArtworkStatus | None, Query(description="Only artworks that have this status.")] = None,
    _artwork_type: Annotated[  # there is one
        Literal["depth_map"] | None, Query(alias="artworkType", description="Only artworks of this type.")
    ] = None,
    created_after: Annotated[_Time | None, Query(alias="createdAfter", description="Only artworks that came later.")] = None,
    created_before: Annotated[_Time | None, Query(alias="createdBefore", description="Only artworks that came earlier.")] = None,
    cursor: Annotated[
        str | None,
        Query(pattern=CURSOR_PATTERN, description="A place in the list, from a `Link` header; `offset` counts from there."),
    ] = None,
) -> Any:
    """Your artworks, newest first. The URL of the `Link` header stays right while artworks come, which an offset does not."""
    page = await run_in_threadpool(
        state.artworks.page,
        api_key_id=caller,
        status=status,
        created_after=created_after,
        created_before=created_before,
        limit=limit,
        offset=offset,
        cursor=cursor,
    )
    if page.next_cursor is not None:
        kept = [(name, value) for name, value in request.query_params.multi_items() if name not in ("offset", "cursor")]
        query = urlencode([*kept, ("cursor", page.next_cursor)])
        response.headers["Link"] = f'<{path_of(request, ARTWORKS_PATH)}?{query}>; rel="next"'
    return [state.answer(artwork) for artwork in page.artworks]


async def _get(artwork: OwnArtwork, state: State) -> Any:
    """One artwork as it is now."""
    return state.answer(artwork)


async def _cancel(artwork_id: Annotated[UUID, Path()], request: Request, state: State, caller: Caller) -> Any:
    """Cancels an artwork that waits or is being worked on. An artwork that has already ended stays as it is."""
    request.state.artwork_id = str(artwork_id)
    artwork = await run_in_threadpool(state.artworks.cancel, artwork_id, api_key_id=caller)
    if artwork is None:
        raise no_such_artwork(artwork_id)
    return state.answer(artwork)


async def _delete(artwork_id: Annotated[UUID, Path()], request: Request, state: State, caller: Caller) -> None:
    """Deletes an artwork that has ended, with its history, its webhooks and the files that nothing else uses."""
    request.state.artwork_id = str(artwork_id)
    try:
        deleted = await run_in_threadpool(deletion.delete, state.artworks.database, state.store, artwork_id, api_key_id=caller)
    except deletion.NotFinalError as error:
        raise HTTPException(409, str(error)) from None
    if not deleted:
        raise no_such_artwork(artwork_id)
