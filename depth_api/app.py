"""The HTTP API as an application: its routes, error handlers and middleware, and what is opened and closed with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from depth_api import cross_origin, errors, openapi
from depth_api.auth import ApiKeys, LoopbackOnly, StripTrailingSlash, read_keys, read_metrics_key
from depth_api.housekeeping import tidy_loop
from depth_api.logs import log
from depth_api.long_polling import LongPolling
from depth_api.path_prefix import PathPrefix
from depth_api.routes import artworks, documentation, models, operations, page, results, uploads
from depth_api.schemas import ErrorAnswer
from depth_api.state import ApiState
from depth_api.telemetry import DatabaseMetrics, RequestMetrics, Telemetry
from depth_api.wrong_keys import WrongKeys
from depth_core import settings as settings_module
from depth_core.output import formats
from depth_core.serving.artworks.store import open_store
from depth_core.serving.rate_limits import RateLimits
from depth_core.serving.webhooks.delivery import deliver_loop
from depth_core.settings import Settings
from depth_core.storage import Store


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application, for uvicorn (`--factory`) or a test. Without settings it reads them from the environment.

    Raises ConfigurationError; the database is opened when the application starts.
    """
    settings = settings or settings_module.load()
    keys, metrics_key = read_keys(settings), read_metrics_key(settings)
    formats.of_requests(settings)  # a worker would refuse them later, after requests were accepted
    metrics = RequestMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _opened(settings, keys, metrics_key, metrics) as app.state.api:
            yield

    app = _Api(
        title="Depthline",
        summary="Depth maps of images.",
        version=version("depthline"),
        lifespan=lifespan,
        openapi_url="/openapi.json" if settings.docs else None,
        docs_url=None,  # see routes.documentation: FastAPI's own pages come from a CDN
        redoc_url=None,
        redirect_slashes=False,  # see StripTrailingSlash; a redirect would send keys to whatever scheme a proxy left of the URL
        # Without keys there is nothing to declare: every caller is on loopback.
        responses={403: {"model": ErrorAnswer, "description": "The caller is not on loopback."}} if not keys else None,
    )
    secured = [Security(HTTPBearer(auto_error=False, description="An API key."))] if keys else []
    metered = HTTPBearer(scheme_name="MetricsKey", auto_error=False, description="The key of DEPTH_METRICS_KEY.")
    for module in (artworks, results):
        app.include_router(module.build(settings), tags=["artworks"], dependencies=secured)
    app.include_router(models.build(settings), tags=["models"], dependencies=secured)
    app.include_router(uploads.build(settings), tags=["uploads"], dependencies=secured)
    app.include_router(operations.router, tags=["operations"])
    metrics_route = operations.metrics_router(has_key=bool(metrics_key))
    app.include_router(metrics_route, tags=["operations"], dependencies=[Security(metered)] if metrics_key else [])
    if settings.docs:
        documentation.add(app)
    app.include_router(page.router)
    errors.register(app)
    if not keys:
        app.add_middleware(LoopbackOnly)
    app.add_middleware(PathPrefix, prefix=settings.root_path)
    app.add_middleware(StripTrailingSlash)
    app.add_middleware(Telemetry, metrics=metrics)
    cross_origin.allow(app, settings.cors_origins, has_keys=bool(keys))
    app.add_middleware(errors.JsonErrors)  # the outermost: preflights are refused with text, too
    return app


class _Api(FastAPI):
    def openapi(self) -> dict[str, Any]:
        return openapi.complete(super().openapi())


@asynccontextmanager
async def _opened(settings: Settings, keys: ApiKeys, metrics_key: ApiKeys, metrics: RequestMetrics) -> AsyncIterator[ApiState]:
    """The state while the application runs. Delivers webhooks meanwhile, unless the settings say that others do."""
    files = Store.from_settings(settings)
    store = await run_in_threadpool(open_store, settings)
    limits = RateLimits(settings.database_location, settings.rate_limit)
    database_metrics = DatabaseMetrics(store)
    metrics.registry.register(database_metrics)
    if not keys:
        log.warning("no DEPTH_API_KEYS: the API answers on loopback only, without a key")
    stop = asyncio.Event()
    delivery = asyncio.create_task(deliver_loop(store, settings, stop)) if settings.webhooks_in_api else None
    if delivery is not None:
        delivery.add_done_callback(_log_failure)
    tidying = asyncio.create_task(tidy_loop(store.database, files, stop))
    try:
        yield ApiState(
            settings=settings,
            keys=keys,
            metrics_key=metrics_key,
            limits=limits,
            metrics=metrics,
            artworks=store,
            store=files,
            long_polling=LongPolling(store),
            wrong_keys=WrongKeys(settings.wrong_keys),
        )
    finally:
        stop.set()
        await tidying
        if delivery is not None:
            await delivery
        metrics.registry.unregister(database_metrics)
        limits.close()
        store.close()


def _log_failure(delivery: asyncio.Task[None]) -> None:
    if not delivery.cancelled() and (error := delivery.exception()):
        log.critical("webhooks are no longer delivered; restart the API", exc_info=error)
