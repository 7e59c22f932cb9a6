"""The HTTP API's routes, as docs/api.md has them, and the application that carries them.

A request is validated, written and answered. What does not belong here: what a request may say (serving.request_schema), the
life of an artwork (serving.artworks), and any model.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Path, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.json_schema import SkipJsonSchema
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from depth_api.auth import LOCAL, ApiKeys, LoopbackOnly, RateLimit, WithoutSlash, read_keys
from depth_api.long_polling import Waiting
from depth_api.telemetry import FRESH_SECONDS, DatabaseMetrics, Observed, RequestMetrics, log
from depth_api.wrong_keys import WrongKeys
from depth_core import layout
from depth_core import settings as settings_module
from depth_core.contract import Artwork, ArtworkStatus, absent_not_null
from depth_core.display import shown_text
from depth_core.errors import StoreError
from depth_core.output import encode
from depth_core.serving import request_schema, webhooks
from depth_core.serving.artworks.cursor import CURSOR_PATTERN
from depth_core.serving.artworks.statistics import queue_status
from depth_core.serving.artworks.store import ACCEPTED, ArtworkStore, open_store
from depth_core.serving.artworks.types import IdempotencyConflictError, StoredArtwork
from depth_core.settings import Settings
from depth_core.storage import Store

_PREFIX = "/v2/artworks"
_NO_DATABASE = (DBAPIError, NoConnectionError)
_RESULTS = ["depth.png", "depth.tiff", "depth16.png", "depth.json"]  # every name there is; an artwork says which it has
LONGEST_WAIT = 60  # seconds
STORE_CHECK_SECONDS = 10.0
_IDEMPOTENCY_KEY = r"[!-~]([ -~]{0,253}[!-~])?"
_WAIT = re.compile(r'(?:^|[,;\s])wait\s*=\s*"?0*(\d+)"?\s*(?:$|[,;])', re.IGNORECASE)


class Fault(BaseModel):
    loc: list[str | int] = Field(description="Where: body, path, query or header, then the field.")
    msg: str
    type: str


class Faults(BaseModel):
    detail: list[Fault] = Field(description="Everything that is wrong, at once.")


class Problem(BaseModel):
    detail: str


class ArtworkPage(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    artworks: list[Artwork]
    next_cursor: str | SkipJsonSchema[None] = Field(
        None, description="Give it as `cursor` to read on; absent at the end.", json_schema_extra=absent_not_null
    )


class Check(BaseModel):
    ok: bool
    detail: str = ""


class Readiness(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    status: Literal["ready", "not ready"]
    database: Check
    store: Check
    last_worker_seconds: float | None = Field(description="Age of the last sign of life of any worker; null: there was none.")
    live_workers: int
    waiting: int


@dataclass
class ApiState:
    """What the routes work with, on `app.state.api` while the application runs."""

    settings: Settings
    keys: ApiKeys
    limit: RateLimit
    metrics: RequestMetrics
    artworks: ArtworkStore
    store: Store
    waiting: Waiting
    wrong_keys: WrongKeys
    store_checked: tuple[float, Check] | None = None

    def answer(self, artwork: StoredArtwork) -> Artwork:
        return artwork.answer(self.settings.public_url)

    def check_store(self) -> Check:
        """Whether the store can be written. Asked of it now and then only: on s3 every question costs."""
        if self.store_checked is None or time.monotonic() - self.store_checked[0] > STORE_CHECK_SECONDS:
            check = Check(ok=True)
            try:
                self.store.check_writable()
            except StoreError as error:
                check = Check(ok=False, detail=shown_text(str(error)))
            self.store_checked = (time.monotonic(), check)
        return self.store_checked[1]


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application, for uvicorn (`--factory`) or a test. Without settings it reads them from the environment.

    Raises ConfigurationError; the database is opened when the application starts.
    """
    settings = settings or settings_module.load()
    keys = read_keys(settings)
    metrics = RequestMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        artworks = await run_in_threadpool(open_store, settings)
        store = Store.from_settings(settings)
        database_metrics = DatabaseMetrics(artworks)
        metrics.registry.register(database_metrics)
        limit, wrong_keys = RateLimit(settings.rate_limit), WrongKeys(settings.wrong_keys)
        app.state.api = ApiState(settings, keys, limit, metrics, artworks, store, Waiting(artworks), wrong_keys)
        if not keys:
            log.warning("no DEPTH_API_KEYS: the API answers on loopback only, and whoever is there needs no key")
        stop = asyncio.Event()
        loop = asyncio.create_task(webhooks.deliver_loop(artworks, settings, stop)) if settings.webhooks_in_api else None
        if loop is not None:
            loop.add_done_callback(_tell_when_dead)
        try:
            yield
        finally:
            stop.set()
            if loop is not None:
                await loop
            metrics.registry.unregister(database_metrics)
            artworks.close()

    app = FastAPI(
        title="Depthline",
        summary="Depth maps of images.",
        version=version("depthline"),
        lifespan=lifespan,
        redirect_slashes=False,  # WithoutSlash takes both: a redirect would send keys to whatever scheme a proxy left of the URL
        # Without keys there is nothing to declare: every caller is on loopback.
        responses={403: {"model": Problem}} if not keys else None,
    )
    secured = [Security(HTTPBearer(auto_error=False, description="An API key."))] if keys else []
    app.include_router(_artworks_router(settings), tags=["artworks"], dependencies=secured)
    app.include_router(_operations, tags=["operations"])
    app.add_exception_handler(RequestValidationError, _unprocessable)
    for unavailable in (*_NO_DATABASE, StoreError):
        app.add_exception_handler(unavailable, _unavailable)
    if not keys:
        app.add_middleware(LoopbackOnly)
    app.add_middleware(WithoutSlash)
    app.add_middleware(Observed, metrics=metrics)
    return app


def _tell_when_dead(loop: asyncio.Task[None]) -> None:
    if not loop.cancelled() and (error := loop.exception()):
        log.critical("webhooks are no longer delivered; restart the API", exc_info=error)


# -- errors -------------------------------------------------------------------------------------------------------------------


def _refused(faults: list[dict[str, Any]]) -> JSONResponse:
    return JSONResponse({"detail": faults}, 422)


async def _unprocessable(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _refused([{"loc": list(each["loc"]), "msg": each["msg"], "type": each["type"]} for each in error.errors()])


async def _unavailable(request: Request, error: Exception) -> Response:
    log.error("unavailable", path=shown_text(request.url.path), exc_info=error)
    what = "the store" if isinstance(error, StoreError) else "the database"
    return JSONResponse({"detail": f"{what} does not answer; try again"}, 503, {"Retry-After": "5"})


def _header(name: str, description: str, *, always: bool = True, **schema: Any) -> dict[str, Any]:
    return {name: {"description": description, "required": always, "schema": {"type": "string"} | schema}}


_RETRY_AFTER = _header("Retry-After", "Seconds after which to try again.", type="integer", minimum=1)
_CHALLENGE = _header("WWW-Authenticate", "How to say who calls.", enum=["Bearer"])
_CREATED = (
    _header("Location", "The artwork's path.", format="uri-reference")
    | _header("Preference-Applied", "The wait that was granted.", always=False, pattern="^wait=[0-9]+$")
    | _header("Idempotent-Replayed", "An earlier request with this key made the artwork.", always=False, enum=["true"])
)
_ETAG = _header("ETag", "For If-None-Match and If-Range.", pattern='^"[^"]*"$')
_FILE = _ETAG | _header("Accept-Ranges", "Parts may be asked for.", enum=["bytes"])


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    words = {
        401: "No API key, or none that is known.",
        408: "The body did not arrive in time.",
        404: "There is none, or it belongs to another key.",
        409: "The Idempotency-Key came before with another body.",
        413: "The body is too large.",
        415: "The body is not application/json.",
        429: "Too many requests, or wrong keys; Retry-After says when to come again.",
        503: "The database or the store does not answer.",
    }
    headers = {401: _CHALLENGE, 429: _RETRY_AFTER, 503: _RETRY_AFTER}
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": words[status]} | ({"headers": headers[status]} if status in headers else {})
        for status in statuses
    }
    problems[422] = {"model": Faults, "description": "Something in the request is wrong; `detail` lists every fault."}
    return problems


# -- who calls ----------------------------------------------------------------------------------------------------------------


async def _state(request: Request) -> ApiState:
    state: ApiState = request.app.state.api
    return state


async def _caller(
    request: Request,
    state: Annotated[ApiState, Depends(_state)],
) -> str:
    """The name of the caller's API key, once its rate limit lets it through."""
    name: str | None = LOCAL
    if state.keys:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        key = key.strip() if scheme.lower() == "bearer" else ""
        address = request.client.host if request.client else ""
        if key and (wait := state.wrong_keys.wait(address, key)):
            raise HTTPException(429, "too many wrong API keys from this address", {"Retry-After": str(wait)})
        name = state.keys.owner(key)
        if name is not None:
            state.wrong_keys.right(address, key)
        else:
            if key:
                state.wrong_keys.wrong(address)
            raise HTTPException(401, "an API key is needed: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
    assert name is not None
    request.state.api_key = name
    if wait := state.limit.take(name):
        raise HTTPException(429, "too many requests", {"Retry-After": str(wait)})
    return name


async def _artwork(
    artwork_id: Annotated[UUID, Path()],
    request: Request,
    state: Annotated[ApiState, Depends(_state)],
    caller: Annotated[str, Depends(_caller)],
) -> StoredArtwork:
    """The artwork of the path, if it is the caller's."""
    request.state.artwork_id = str(artwork_id)
    artwork = await run_in_threadpool(state.artworks.get, artwork_id, api_key_id=caller)
    if artwork is None:
        raise _not_found(artwork_id)
    return artwork


def _not_found(artwork_id: UUID) -> HTTPException:
    return HTTPException(404, f"there is no artwork {artwork_id}")


# -- artworks -----------------------------------------------------------------------------------------------------------------


async def _create(
    request: Request,
    response: Response,
    state: Annotated[ApiState, Depends(_state)],
    caller: Annotated[str, Depends(_caller)],
    idempotency_key: Annotated[
        str | None,
        Header(
            description="The same key and body within 24 hours are the same artwork; another body is a 409.",
            json_schema_extra={"pattern": f"^{_IDEMPOTENCY_KEY}$"},
        ),
    ] = None,
    _prefer: Annotated[  # documented here; read below, since several lines are one list
        str | None, Header(alias="prefer", description=f"`wait=N`: answer when done, or after N seconds, up to {LONGEST_WAIT}.")
    ] = None,
) -> Any:
    """Asks for a depth map. The answer comes at once, or with `Prefer: wait=N` when the artwork is done."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":  # also keeps pages of other sites from posting here through a browser
        raise HTTPException(415, "the body must be application/json")
    limit = state.settings.max_body_bytes
    if "expect" in request.headers and int(request.headers.get("content-length", 0)) > limit:  # told before it is sent
        raise _too_large(limit)
    text = await _read_body(request, limit, state.settings.request_seconds)
    faults = []
    if idempotency_key is not None and not re.fullmatch(_IDEMPOTENCY_KEY, idempotency_key):
        message = "1 to 255 printable ASCII characters are wanted"
        faults.append({"loc": ["header", "Idempotency-Key"], "msg": message, "type": "idempotency_key"})
    try:
        new = request_schema.parse(text, state.settings)
    except ValidationError as error:
        faults += request_schema.faults(error)
    if faults:
        return _refused(faults)

    wait = _wait_seconds(request.headers.getlist("prefer"))
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
    artwork, status_code = created.artwork, created.status_code
    request.state.artwork_id = str(artwork.id)
    if status_code is None:  # a replay that comes while the first request still waits is answered for itself
        status_code = ACCEPTED
        if wait:
            await _unless_hung_up(request, state.waiting.until_final(artwork.id, wait))
            now: StoredArtwork | None = await run_in_threadpool(state.artworks.get, artwork.id)
            artwork = now or artwork
            status_code = 200 if artwork.status.final else ACCEPTED
            response.headers["Preference-Applied"] = f"wait={wait}"
        if idempotency_key is not None and not created.replayed:
            await run_in_threadpool(state.artworks.answered, caller, idempotency_key, status_code)
    response.status_code = status_code
    response.headers["Location"] = f"{_PREFIX}/{artwork.id}"
    if created.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return state.answer(artwork)


async def _read_body(request: Request, limit: int, seconds: float) -> bytes:
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {seconds:g} s", {"Connection": "close"}) from None
    return b"".join(parts)


async def _unless_hung_up(request: Request, answer: Coroutine[Any, Any, None]) -> None:
    """Waits for `answer`, and no longer than the client does. Raises ClientDisconnect. The body has been read."""
    waiting = asyncio.create_task(answer)
    listening = asyncio.create_task(_until_hung_up(request))
    try:
        await asyncio.wait([waiting, listening], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise ClientDisconnect
        await waiting
    finally:
        for task in (waiting, listening):
            task.cancel()


async def _until_hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than {limit} bytes", {"Connection": "close"})


def _wait_seconds(prefer: list[str]) -> int:
    """The seconds of `Prefer: wait=N`, 0 without; other preferences are ignored, as RFC 7240 has it."""
    found = _WAIT.search(", ".join(prefer))
    if not found:
        return 0
    return LONGEST_WAIT if len(found[1]) > 9 else min(int(found[1]), LONGEST_WAIT)


async def _list(
    state: Annotated[ApiState, Depends(_state)],
    caller: Annotated[str, Depends(_caller)],
    status: Annotated[ArtworkStatus | None, Query(description="Only artworks that have this status.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(pattern=CURSOR_PATTERN, description="`nextCursor` of the page before.")] = None,
) -> Any:
    """Your artworks, newest first."""
    page = await run_in_threadpool(state.artworks.page, api_key_id=caller, status=status, limit=limit, cursor=cursor)
    return ArtworkPage(artworks=[state.answer(artwork) for artwork in page.artworks], next_cursor=page.next_cursor)


async def _get(artwork: Annotated[StoredArtwork, Depends(_artwork)], state: Annotated[ApiState, Depends(_state)]) -> Any:
    """One artwork as it is now."""
    return state.answer(artwork)


async def _cancel(
    artwork_id: Annotated[UUID, Path()],
    request: Request,
    state: Annotated[ApiState, Depends(_state)],
    caller: Annotated[str, Depends(_caller)],
) -> Any:
    """Cancels an artwork that waits or is being worked on. One that is final stays as it is; the answer says how that is."""
    request.state.artwork_id = str(artwork_id)
    artwork = await run_in_threadpool(state.artworks.cancel, artwork_id, api_key_id=caller)
    if artwork is None:
        raise _not_found(artwork_id)
    return state.answer(artwork)


async def _result(
    name: Annotated[
        str, Path(description="A file's name, the last part of its URL in `results`.", json_schema_extra={"enum": _RESULTS})
    ],
    request: Request,
    artwork: Annotated[StoredArtwork, Depends(_artwork)],
    state: Annotated[ApiState, Depends(_state)],
) -> Response:
    """A file of a finished artwork: its bytes, or part of them (`Range`), or a redirect to where they are."""
    if name not in artwork.results:
        raise HTTPException(404, f"artwork {artwork.id} has no result {name!r}")
    key = layout.file_key(artwork.folder, name)
    if name == encode.SIDECAR and (facts := await run_in_threadpool(_of_somebody_else, state.store, artwork.folder)):
        return JSONResponse(facts, headers={"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"})
    if not state.store.local:
        seconds = state.settings.presigned_seconds
        method = "head_object" if request.method == "HEAD" else "get_object"  # a signature is for one of them
        url = await run_in_threadpool(state.store.fs.sign, state.store.path(key), expiration=seconds, client_method=method)
        return RedirectResponse(url, 307, {"Cache-Control": "private, no-store"})
    try:
        status = await run_in_threadpool(os.stat, state.store.path(key))
    except FileNotFoundError:
        raise HTTPException(404, f"result {name!r} of artwork {artwork.id} is no longer in the store") from None
    headers = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
    response = FileResponse(state.store.path(key), headers=headers, stat_result=status)
    known = request.headers.get("if-none-match", "")
    if known.strip() == "*" or response.headers["etag"] in re.findall(r'"[^"]*"', known):
        return Response(status_code=304, headers=headers | {"ETag": response.headers["etag"]})
    unit = request.headers.get("range", "").partition("=")[0].strip().lower()
    if request.method == "HEAD" or unit != "bytes":  # ranges are of GET and bytes; others are ignored, as RFC 9110 has it
        request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
    return response


def _of_somebody_else(store: Store, folder: str | None) -> dict[str, Any] | None:
    """The facts of a depth map that a bulk run had made before, without the name of its file, which is not the caller's; else
    None."""
    facts = encode.read_sidecar(store, folder) if folder else None
    return facts | {"sourceName": ""} if facts and facts.get("sourceName") else None


def _artworks_router(settings: Settings) -> APIRouter:
    calls = (401, 429, 503) if settings.api_keys.get_secret_value() else (429, 503)
    schema = request_schema.json_schema(settings)
    router = APIRouter()
    router.add_api_route(
        f"{_PREFIX}/depth-map",
        _create,
        methods=["POST"],
        status_code=ACCEPTED,
        response_model=Artwork,
        response_model_exclude_none=True,
        responses=_problems(*calls, 408, 409, 413, 415)
        | {
            200: {"model": Artwork, "description": "`Prefer: wait` saw it end.", "headers": _CREATED},
            202: {"description": "Accepted; `GET` its Location to see how it goes.", "headers": _CREATED},
        },
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
        operation_id="createDepthMap",
        summary="Create a depth map",
    )
    router.add_api_route(
        _PREFIX,
        _list,
        methods=["GET"],
        response_model=ArtworkPage,
        response_model_exclude_none=True,
        responses=_problems(*calls),
        operation_id="listArtworks",
        summary="List artworks",
    )
    router.add_api_route(
        _PREFIX + "/{artwork_id:uuid}",
        _get,
        methods=["GET"],
        response_model=Artwork,
        response_model_exclude_none=True,
        responses=_problems(*calls, 404),
        operation_id="getArtwork",
        summary="Get an artwork",
    )
    router.add_api_route(
        _PREFIX + "/{artwork_id:uuid}/cancel",
        _cancel,
        methods=["POST"],
        response_model=Artwork,
        response_model_exclude_none=True,
        responses=_problems(*calls, 404),
        operation_id="cancelArtwork",
        summary="Cancel an artwork",
    )
    router.add_api_route(
        _PREFIX + "/{artwork_id:uuid}/results/{name}",
        _result,
        methods=["GET"],
        response_class=Response,
        responses=_problems(*calls, 404)
        | {
            200: {
                "description": "The file.",
                "content": {kind: {} for kind in ("image/png", "image/tiff", "application/json")},
                "headers": _FILE,
            },
            206: {"description": "Part of the file.", "headers": _FILE},
            304: {"description": "The file is the one of If-None-Match.", "headers": _ETAG},
            307: {
                "description": "The file is at Location for a while.",
                "headers": _header("Location", "A signed URL.", format="uri"),
            },
            400: {"description": "The Range header is malformed."},
            416: {
                "description": "The range lies outside the file.",
                "headers": _header("Content-Range", "The file's length.", always=False),
            },
        },
        operation_id="getResult",
        summary="Get a result file",
    )
    _answer_head(router)
    return router


def _answer_head(router: APIRouter) -> None:
    """HEAD wherever GET is, as RFC 9110 has it and monitors ask; the server leaves the body out. The document has GET alone."""
    for route in list(router.routes):
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            router.add_api_route(
                route.path,
                route.endpoint,
                methods=["HEAD"],
                response_model=route.response_model,
                response_model_exclude_none=route.response_model_exclude_none,
                response_class=route.response_class,
                include_in_schema=False,
            )


# -- operations ---------------------------------------------------------------------------------------------------------------

_operations = APIRouter()


@_operations.get("/health/live", operation_id="live", summary="Is the process alive?")
async def _live() -> dict[Literal["status"], Literal["live"]]:
    return {"status": "live"}


@_operations.get(
    "/health/ready",
    operation_id="ready",
    summary="Can requests be taken?",
    responses={503: {"model": Readiness, "description": "Not ready; the checks say why."}},
)
async def _ready(response: Response, state: Annotated[ApiState, Depends(_state)]) -> Readiness:
    """Database and store must answer. How long ago a worker gave a sign of life is told, and refuses nothing."""
    queue, database = None, Check(ok=True)
    try:
        queue = await run_in_threadpool(queue_status, state.artworks.database, fresh_seconds=FRESH_SECONDS)
    except _NO_DATABASE as error:
        database = Check(ok=False, detail=type(error).__name__)
    store = await run_in_threadpool(state.check_store)
    ready = database.ok and store.ok
    response.status_code = 200 if ready else 503
    return Readiness(
        status="ready" if ready else "not ready",
        database=database,
        store=store,
        last_worker_seconds=queue.last_worker_seconds if queue else None,
        live_workers=queue.live_workers if queue else 0,
        waiting=queue.waiting if queue else 0,
    )


@_operations.get("/metrics", operation_id="metrics", summary="Figures for Prometheus", response_class=PlainTextResponse)
async def _metrics(state: Annotated[ApiState, Depends(_state)]) -> Response:
    text = await run_in_threadpool(generate_latest, state.metrics.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


_answer_head(_operations)
