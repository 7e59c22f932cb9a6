"""What routes ask FastAPI for: the application's state, who calls, and the caller's artwork that the path names."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from anyio import to_thread
from fastapi import Depends, HTTPException, Path, Request
from starlette.concurrency import run_in_threadpool

from depth_api.auth import LOCAL, ApiKeys
from depth_api.state import ApiState
from depth_core.serving.artworks.types import StoredArtwork


async def _state(request: Request) -> ApiState:
    state: ApiState = request.app.state.api
    return state


State = Annotated[ApiState, Depends(_state)]


async def _caller(request: Request, state: State) -> str:
    """The name of the caller's API key, once its rate limit lets it through."""
    name = _key_name(request, state, state.keys) if state.keys else LOCAL
    request.state.api_key = name
    if state.limits and (wait := await to_thread.run_sync(state.limits.take, name, limiter=state.limits_at_once)):
        raise HTTPException(429, "too many requests", {"Retry-After": str(wait)})
    return name


async def may_read_metrics(request: Request, state: State) -> None:
    """Lets everyone through where there is no DEPTH_METRICS_KEY, else those who have it."""
    if state.metrics_key:
        _key_name(request, state, state.metrics_key)


def _key_name(request: Request, state: ApiState, keys: ApiKeys) -> str:
    """The name that the key in the Authorization header has in `keys`. Answers 401 when it has none, 429 after too many wrong
    ones."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    key = key.strip() if scheme.lower() == "bearer" else ""
    address = request.client.host if request.client else ""
    if key and (wait := state.wrong_keys.wait(address, key)):
        raise HTTPException(429, "too many wrong API keys from this address", {"Retry-After": str(wait)})
    name = keys.owner(key)
    if name is None:
        if key:
            state.wrong_keys.wrong(address)
        reason = "unknown API key" if key else "no API key: send the header Authorization: Bearer KEY"
        raise HTTPException(401, reason, {"WWW-Authenticate": "Bearer"})
    state.wrong_keys.right(address, key)
    return name


Caller = Annotated[str, Depends(_caller)]


async def _own_artwork(artwork_id: Annotated[UUID, Path()], request: Request, state: State, caller: Caller) -> StoredArtwork:
    """The artwork that the path names. Answers 404 when there is none, or it is not the caller's."""
    request.state.artwork_id = str(artwork_id)
    artwork = await run_in_threadpool(state.artworks.get, artwork_id, api_key_id=caller)
    if artwork is None:
        raise no_such_artwork(artwork_id)
    return artwork


OwnArtwork = Annotated[StoredArtwork, Depends(_own_artwork)]


def no_such_artwork(artwork_id: UUID) -> HTTPException:
    return HTTPException(404, f"there is no artwork {artwork_id}")


def path_of(request: Request, path: str) -> str:
    """A path of this API as its clients write it: behind the prefix under which a proxy has it."""
    prefix: str = request.scope.get("root_path", "")
    return prefix.rstrip("/") + path
