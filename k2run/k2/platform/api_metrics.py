"""The API's own measurements, under K2's names and labels, and the layer of the server that takes them."""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from starlette.datastructures import Headers, MutableHeaders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SERVICE = {"service": "k2-platform", "environment": "dev", "component": ""}
_LATENCY_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_CORRELATION_HEADER = "X-Correlation-ID"


class Measurements:
    """The counters of one server, in a registry of their own."""

    def __init__(self, version: str, component: str = "api") -> None:
        self._labels = {**_SERVICE, "component": component}
        disable_created_metrics()  # type: ignore[no-untyped-call]  # K2 has no _created series
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        info = Info("k2_platform", "The platform", registry=self._registry)
        info.info({"version": version, "environment": "dev", "deployment": "sandbox"})
        http, query = [*_SERVICE, "method", "endpoint"], [*_SERVICE, "query_type"]
        self._requests = Counter(
            "k2_http_requests_total", "Requests answered", [*http, "status_code"], registry=self._registry
        )
        self._errors = Counter(
            "k2_http_request_errors_total", "Requests refused or failed", [*http, "error_type"], registry=self._registry
        )
        self._seconds = Histogram(
            "k2_http_request_duration_seconds",
            "Time to answer a request",
            [*http, "status_code"],
            buckets=_LATENCY_S,
            registry=self._registry,
        )
        self._open = Gauge(
            "k2_http_requests_in_progress", "Requests being answered", list(_SERVICE), registry=self._registry
        ).labels(**self._labels)
        self._queries = Counter(
            "k2_query_executions_total", "Queries by outcome", [*query, "status"], registry=self._registry
        )
        self._query_seconds = Histogram(
            "k2_query_duration_seconds", "Time of a query", query, buckets=_LATENCY_S, registry=self._registry
        )

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self._registry)

    @contextmanager
    def query(self, kind: str) -> Iterator[None]:
        """Time one query of this kind and count how it ended."""
        started, status = time.perf_counter(), "error"
        try:
            yield
            status = "success"
        finally:
            self._queries.labels(**self._labels, query_type=kind, status=status).inc()
            self._query_seconds.labels(**self._labels, query_type=kind).observe(time.perf_counter() - started)

    def request_opened(self) -> None:
        """A request came in."""
        self._open.inc()

    def request_closed(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        """A request was answered with `status` after `seconds`."""
        self._open.dec()
        labels = {**self._labels, "method": method, "endpoint": endpoint}
        self._requests.labels(**labels, status_code=str(status)).inc()
        self._seconds.labels(**labels, status_code=str(status)).observe(seconds)
        if status >= 400:  # noqa: PLR2004  the first status that is an error
            kind = "server_error" if status >= 500 else "client_error"  # noqa: PLR2004  the first that is the server's
            self._errors.labels(**labels, error_type=kind).inc()


class Observed:
    """The outermost layer: measures each request and gives it a correlation id, the client's own or a new one."""

    def __init__(self, app: ASGIApp, measurements: Measurements) -> None:
        self._app, self._measurements = app, measurements

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on and watch its answer go out."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        correlation_id = Headers(scope=scope).get(_CORRELATION_HEADER) or uuid.uuid4().hex[:8]
        scope.setdefault("state", {})["correlation_id"] = correlation_id
        status, started = 500, time.perf_counter()

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[_CORRELATION_HEADER] = correlation_id
                if status >= 400:  # noqa: PLR2004  the first status that is an error
                    headers["Cache-Control"] = "no-store"
            await send(message)

        self._measurements.request_opened()
        try:
            await self._app(scope, receive, send_observed)
        finally:
            endpoint = scope.get("state", {}).get("endpoint", "unmatched")
            took = time.perf_counter() - started
            self._measurements.request_closed(scope["method"], endpoint, status, took)
