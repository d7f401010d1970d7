"""What the HTTP servers say and count.

K2's envelope round an answer, its bodies for a refusal, what a query may ask, and the requests under K2's names.
"""

from __future__ import annotations

import re
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
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
from starlette.responses import Response

from k2run.k2.platform.queries_files import TableMissingError, TableUnreadableError
from k2run.k2.platform.queries_tail import TailUnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from k2run.k2.platform.queries import Queries
    from k2run.k2.platform.queries_files import TableFiles
    from k2run.k2.platform.queries_tail import BrokerTail

Status = Literal["healthy", "degraded", "unhealthy"]
Seen = tuple[Status, str | None]  # what a probe found, and a word on it

_SLOW_MS = {"duckdb": 1000.0, "iceberg": 5000.0, "kafka": 1000.0}
_NEEDED = ("duckdb", "iceberg")  # without the broker the table still answers, all but its last second


class Dependency(msgspec.Struct, frozen=True):
    """One probe: `latency_ms` is null when it failed."""

    name: str
    status: Status
    latency_ms: float | None
    message: str | None


class Health(msgspec.Struct, frozen=True):
    """K2's /health body."""

    status: Status
    version: str
    timestamp: datetime
    dependencies: list[Dependency]


class HealthCheck:
    """Probes DuckDB, the Iceberg table and the broker side by side, each within about a second."""

    def __init__(self, version: str, queries: Queries, table: TableFiles, tail: BrokerTail) -> None:
        self._version, self._queries, self._table, self._tail = version, queries, table, tail
        self._threads = ThreadPoolExecutor(6, "health")

    def __call__(self) -> Health:
        """The state of things now."""
        probes = {"duckdb": self._duckdb, "iceberg": self._iceberg, "kafka": self._kafka}
        running = [self._threads.submit(_probed, name, probe) for name, probe in probes.items()]
        found = [probe.result() for probe in running]
        return Health(_overall(found), self._version, datetime.now(UTC).replace(tzinfo=None), found)

    def _duckdb(self) -> Seen:
        self._queries.check()
        return "healthy", None

    def _iceberg(self) -> Seen:
        view = self._table.view()
        self._queries.check_newest_file(view)
        if not view.rows:
            return "degraded", "the table has no rows yet"
        if silence := self._table.silence:
            return "degraded", f"{silence}; as of snapshot {view.snapshot.snapshot_id if view.snapshot else 'none'}"
        return "healthy", f"{view.rows} rows in {len(view.files)} files"

    def _kafka(self) -> Seen:
        return "healthy", self._tail.check()


def _probed(name: str, probe: Callable[[], Seen]) -> Dependency:
    started = time.perf_counter()
    try:
        status, message = probe()
    except (TableMissingError, TableUnreadableError, TailUnreadableError) as error:
        return Dependency(name, "unhealthy", None, str(error))
    except Exception as error:  # noqa: BLE001  a probe that breaks is what this endpoint is there to tell
        return Dependency(name, "unhealthy", None, f"{type(error).__name__}: {error}")
    took_ms = round((time.perf_counter() - started) * 1000, 2)
    return Dependency(name, "degraded" if took_ms > _SLOW_MS[name] else status, took_ms, message)


def _overall(found: list[Dependency]) -> Status:
    if any(one.status == "unhealthy" and one.name in _NEEDED for one in found):
        return "unhealthy"
    return "healthy" if all(one.status == "healthy" for one in found) else "degraded"


Question = TypeVar("Question", bound=msgspec.Struct)

_JSON = msgspec.json.Encoder(decimal_format="number")
_PLACE = re.compile(r"(?P<problem>.*?)(?: - at `\$\.(?P<place>[^`]+)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<place>[^`]+)`")


class RefusedError(Exception):
    """A request the API answers with an error body: status, K2's error code, and one sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class InvalidQueryError(Exception):
    """A query parameter that is missing or not what it must be."""

    def __init__(self, place: str, problem: str, given: str | None) -> None:
        super().__init__(f"{place}: {problem}")
        self.place, self.problem, self.given = place, problem, given


class TradesQuestion(msgspec.Struct, frozen=True):
    """The parameters of /v1/trades."""

    symbol: str | None = None
    exchange: str | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100


class RecentQuestion(msgspec.Struct, frozen=True):
    """The parameters of /v1/trades/recent."""

    symbol: str
    exchange: str
    window_minutes: Annotated[int, msgspec.Meta(ge=1, le=60)] = 15
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1000


class ExchangeQuestion(msgspec.Struct, frozen=True):
    """The parameters of /v1/symbols and /v1/summary."""

    exchange: str | None = None


class SnapshotsQuestion(msgspec.Struct, frozen=True):
    """The parameters of /v1/snapshots."""

    table: str = "trades_v2"
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10


def asked(parameters: Mapping[str, str], question: type[Question]) -> Question:
    """The query's parameters as what the endpoint expects; parameters it does not know are left aside, as in K2.

    Raises:
        InvalidQueryError: One is missing, of another type, or out of bounds.
    """
    try:
        return msgspec.convert(dict(parameters), question, strict=False)
    except msgspec.ValidationError as error:
        text = str(error)
        if missing := _MISSING.match(text):
            raise InvalidQueryError(missing["place"], "Field required", None) from error
        found = _PLACE.fullmatch(text)
        place = (found and found["place"]) or ""
        raise InvalidQueryError(place, found["problem"] if found else text, parameters.get(place)) from error


def utc(moment: datetime | None) -> datetime | None:
    """A moment as the table stores it: in UTC without a zone. A moment given without a zone is taken as UTC."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment and moment.tzinfo else moment


def answer(data: object, *, correlation_id: str, meta: Mapping[str, object] | None = None, **more: object) -> Response:
    """K2's envelope of success: `success`, `meta`, `data`, and what else the endpoint has to say."""
    about = {"correlation_id": correlation_id, "timestamp": datetime.now(UTC).replace(tzinfo=None), **(meta or {})}
    return as_json({"success": True, "meta": about, "data": data, **more})


def page(rows: int, limit: int) -> dict[str, Any]:
    """K2's word on paging: `has_more` when the limit was reached, `total` never known."""
    return {"limit": limit, "offset": 0, "total": None, "has_more": rows == limit}


def refusal(error: RefusedError) -> Response:
    """The body of a refused request; 503 says when to come back."""
    body = {"detail": {"error": error.code, "message": error.message}}
    response = as_json(body, error.status)
    if error.status == 503:  # noqa: PLR2004  Service Unavailable
        response.headers["Retry-After"] = "1"
    return response


def invalid(error: InvalidQueryError) -> Response:
    """The body FastAPI, and so K2, gives a query that does not validate."""
    kind = "missing" if error.problem == "Field required" else "value_error"
    detail = {"type": kind, "loc": ["query", error.place], "msg": error.problem, "input": error.given}
    return as_json({"detail": [detail]}, 422)


def failure() -> Response:
    """The body of an unexpected error; its cause is in the log."""
    body = {"success": False, "error": {"code": "INTERNAL_ERROR", "message": "An unexpected error occurred"}}
    return as_json(body, 500)


def as_json(body: object, status: int = 200) -> Response:
    """A JSON response; times without a zone stay without one."""
    return Response(_JSON.encode(body), status, media_type="application/json")


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
