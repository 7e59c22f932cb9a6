"""Routes for operators: is the process alive, can it take requests, metrics for Prometheus."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool

from depth_api import errors
from depth_api.dependencies import State, may_read_metrics
from depth_api.errors import DATABASE_ERRORS, error_body
from depth_api.routes.head import answer_head
from depth_api.schemas import Check, NotReady, Readiness
from depth_api.telemetry import FRESH_SECONDS
from depth_core.serving.artworks.statistics import queue_status

router = APIRouter()


@router.get("/health/live", operation_id="live", summary="Is the process alive?")
async def _live() -> dict[Literal["status"], Literal["live"]]:
    return {"status": "live"}


@router.get(
    "/health/ready",
    operation_id="ready",
    summary="Can requests be taken?",
    response_model=Readiness,
    responses={503: {"model": NotReady, "description": "Not ready; `database` and `store` say why."}},
)
async def _ready(state: State) -> Any:
    """Ready when database and store answer. The age of the last worker's heartbeat is shown, but does not affect readiness."""
    queue, database = None, Check(ok=True)
    try:
        queue = await run_in_threadpool(queue_status, state.artworks.database, fresh_seconds=FRESH_SECONDS)
    except DATABASE_ERRORS as error:
        database = Check(ok=False, detail=type(error).__name__)
    store = await run_in_threadpool(state.check_store)
    ready = database.ok and store.ok
    answer = Readiness(
        status="ready" if ready else "not ready",
        database=database,
        store=store,
        last_worker_seconds=queue.last_worker_seconds if queue else None,
        live_workers=queue.live_workers if queue else 0,
        waiting=queue.waiting if queue else 0,
    )
    if ready:
        return answer
    failed = " or ".join(name for name, check in (("the database", database), ("the store", store)) if not check.ok)
    return JSONResponse(error_body(503, f"no answer from {failed}") | answer.model_dump(by_alias=True), 503)


answer_head(router)


def metrics_router(*, has_key: bool) -> APIRouter:
    """The router of `/metrics`, which may have a key of its own."""
    metrics = APIRouter(dependencies=[Depends(may_read_metrics)])
    metrics.add_api_route(
        "/metrics",
        _metrics,
        operation_id="metrics",
        summary="Figures for Prometheus",
        response_class=PlainTextResponse,
        responses=errors.documented(401, 429) if has_key else None,
    )
    return answer_head(metrics)


async def _metrics(state: State) -> Response:
    text = await run_in_threadpool(generate_latest, state.metrics.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
