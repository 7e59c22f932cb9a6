"""Metrics of the API and of the queue for Prometheus, and the middleware that measures and logs every request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from uuid import uuid4

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from depth_api.errors import error_response
from depth_api.logs import log
from depth_core.display import shown_text
from depth_core.serving.artworks.statistics import queue_status, statistics
from depth_core.serving.artworks.store import ArtworkStore
from depth_core.serving.webhooks import endpoints as webhook_endpoints
from depth_core.serving.webhooks.outbox import backlog

CLIENT_DISCONNECTED = 499  # in logs and metrics: the client did not wait for the answer; nobody is sent this status
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
FRESH_SECONDS = 60.0  # a worker whose last heartbeat is no older is alive


class RequestMetrics:
    """Counts and times of the API's own requests, and the registry that /metrics shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "depthline_http_requests", "Requests by route and status.", ["method", "route", "status"], registry=self.registry
        )
        self.disconnects = Counter(
            "depthline_http_client_disconnects",
            "Requests whose clients did not wait for the answer.",
            ["route"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "depthline_http_request_seconds", "Seconds until the last byte.", ["method", "route"], registry=self.registry
        )


class DatabaseMetrics(Collector):
    """Metrics that the database has, queried at every scrape: artworks, the queue, workers, stages, webhooks."""

    def __init__(self, store: ArtworkStore) -> None:
        self._store = store

    def describe(self) -> Iterator[Metric]:
        return iter(())  # so that registering queries nothing

    def collect(self) -> Iterator[Metric]:
        try:
            found = list(self._figures())
        except SQLAlchemyError as error:  # the API's own are needed then most of all
            log.error("the database does not answer; its metrics are left out", exc_info=error)
            found = []
        yield GaugeMetricFamily("depthline_database_up", "1 when the database answers, else 0.", 1 if found else 0)
        yield from found

    def _figures(self) -> Iterator[Metric]:
        database = self._store.database
        figures, queue = statistics(database), queue_status(database, fresh_seconds=FRESH_SECONDS)
        by_status = GaugeMetricFamily("depthline_artworks", "Artworks by status.", labels=["status"])
        for status, count in figures.by_status.items():
            by_status.add_metric([status], count)
        yield by_status
        yield GaugeMetricFamily("depthline_queue_depth", "Artworks that wait.", queue.waiting)
        yield GaugeMetricFamily(
            "depthline_queue_age_seconds", "Seconds the oldest waiting artwork has waited.", queue.oldest_waiting_seconds
        )
        yield GaugeMetricFamily("depthline_workers", "Workers alive.", queue.live_workers)
        seconds = CounterMetricFamily("depthline_stage_seconds", "Seconds of work by stage.", labels=["stage"])
        counts = CounterMetricFamily("depthline_stage_artworks", "Artworks that went through a stage.", labels=["stage"])
        for stage, (total, artworks) in sorted(figures.stage_seconds.items()):
            seconds.add_metric([stage], total)
            counts.add_metric([stage], artworks)
        yield seconds
        yield counts
        webhooks = GaugeMetricFamily("depthline_webhooks", "Webhook deliveries by state.", labels=["state"])
        for state, count in backlog(self._store).items():
            webhooks.add_metric([state], count)
        yield webhooks
        endpoints = GaugeMetricFamily("depthline_webhook_endpoints", "Webhook endpoints that fail, by state.", labels=["state"])
        for state, count in webhook_endpoints.counts(self._store).items():
            endpoints.add_metric([state], count)
        yield endpoints


class Telemetry:
    """Times, counts and logs every request; gives it an id that its log lines and its answer carry.

    Unexpected exceptions are answered here, since Starlette would answer it outside, without the id.
    """

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, start, status, answering = uuid4().hex, time.perf_counter(), 500, False
        path = shown_text(scope["path"])
        scope.setdefault("state", {})

        async def send_observed(message: Message) -> None:
            nonlocal status, answering
            if message["type"] == "http.response.start":
                status, answering = message["status"], True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_observed)
            except ClientDisconnect:  # there is nobody to answer
                status = CLIENT_DISCONNECTED
            except Exception as error:
                log.error("internal error", path=path, exc_info=error)
                if answering:
                    raise
                await error_response(500, "internal error")(scope, receive, send_observed)
            finally:
                seconds = time.perf_counter() - start
                # A route's pattern, never the path: labels must not grow with what strangers ask for.
                route = getattr(scope.get("route"), "path_format", "other")
                method = scope["method"] if route != "other" and scope["method"] in _METHODS else "other"
                if status == CLIENT_DISCONNECTED:
                    self.metrics.disconnects.labels(route).inc()
                self.metrics.requests.labels(method, route, str(status)).inc()
                self.metrics.seconds.labels(method, route).observe(seconds)
                log.info(
                    "request",
                    method=scope["method"],
                    path=path,
                    status=status,
                    seconds=round(seconds, 4),
                    **{name: value for name, value in scope["state"].items() if name in ("artwork_id", "api_key")},
                )
