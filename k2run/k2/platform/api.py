"""The query API: Starlette over DuckDB over the Iceberg table, and the broker's tail for the newest second.

It starts before the table exists and says so on /health (503) and on every query (503, TABLE_NOT_FOUND); from the
consumer's first commit on it answers.
"""

from __future__ import annotations

import argparse
import hmac
import sys
import threading
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route

from k2run.k2.platform import api_answers as say
from k2run.k2.platform import store_files, topics
from k2run.k2.platform.api_answers import HealthCheck, Measurements, Observed
from k2run.k2.platform.program import add_broker, log, require_free_port, take_port, web_server
from k2run.k2.platform.queries import Queries, Trades
from k2run.k2.platform.queries_files import TableMissingError, TableUnreadableError
from k2run.k2.platform.queries_tail import BrokerTail, TailUnreadableError
from k2run.k2.platform.store_files import FileCache, StoreFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

    from k2run.k2.platform.queries import TradeRow
    from k2run.k2.platform.queries_files import Snapshot, TableView
    from k2run.k2.platform.queries_tail import Tail

VERSION = "1.0.0"
_UNHEALTHY = 503  # K2 answers 200 with "unhealthy" in the body, which every probe by status takes for health


class Endpoints:
    """One method per endpoint. They run in threads, for what they wait on are DuckDB and the broker."""

    def __init__(
        self, queries: Queries, tail: BrokerTail, health: HealthCheck, measurements: Measurements, s3_endpoint: str
    ) -> None:
        self._queries, self._tail, self._health, self._measurements = queries, tail, health, measurements
        self._s3_endpoint = s3_endpoint

    def root(self, _request: Request) -> Response:
        """Say what this is."""
        return say.as_json({"name": "K2 Market Data API", "version": VERSION, "health": "/health", "api": "/v1"})

    def health(self, _request: Request) -> Response:
        """Probe DuckDB, the table and the broker. 503 when no query can be answered."""
        found = self._health()
        return say.as_json(found, _UNHEALTHY if found.status == "unhealthy" else 200)

    def metrics(self, _request: Request) -> Response:
        """The server's measurements."""
        return Response(self._measurements.text(), media_type="text/plain; version=0.0.4")

    def trades(self, request: Request) -> Response:
        """The newest trades of a symbol, an exchange, a time; newest first."""
        asked = say.asked(request.query_params, say.TradesQuestion)
        wanted = Trades(asked.symbol, asked.exchange, say.utc(asked.start_time), say.utc(asked.end_time))
        with self._measurements.query("trades"):
            rows = self._queries.newest(wanted, asked.limit)
        return _answer(request, rows, pagination=say.page(len(rows), asked.limit))

    def recent(self, request: Request) -> Response:
        """The newest trades of a symbol in the last minutes, from the table and the broker; oldest first."""
        asked = say.asked(request.query_params, say.RecentQuestion)
        since = _now() - timedelta(minutes=asked.window_minutes)
        wanted = Trades(asked.symbol, asked.exchange, since)
        with self._measurements.query("recent"):
            view, stored = self._queries.on_the_table(
                lambda view: (view, self._queries.newest_in(view, wanted, asked.limit))
            )
            tail = self._tail_past(view, wanted)
        rows = _merged(stored, tail, asked.limit)
        query = {
            "symbol": asked.symbol,
            "exchange": asked.exchange,
            "window_minutes": asked.window_minutes,
            "start_time": since,
            "end_time": _now(),  # of the reading, which took in what arrived meanwhile
        }
        meta = {"query": query, "sources": _sources(stored, rows, tail)}
        return _answer(request, rows, meta=meta, pagination=say.page(len(rows), asked.limit))

    def symbols(self, request: Request) -> Response:
        """Every symbol that has a trade."""
        asked = say.asked(request.query_params, say.ExchangeQuestion)
        with self._measurements.query("symbols"):
            return _answer(request, self._queries.symbols(asked.exchange))

    def summary(self, request: Request) -> Response:
        """One symbol's UTC day: open, high, low, close, volume, count, volume-weighted price."""
        asked = say.asked(request.query_params, say.ExchangeQuestion)
        symbol, day = request.path_params["symbol"].upper(), _day(request.path_params["date"])
        with self._measurements.query("summary"):
            found = self._queries.summary(symbol, asked.exchange, day)
        if found is None:
            raise say.RefusedError(404, "NOT_FOUND", f"No trades for {symbol} on {day}")
        return _answer(request, found)

    def stats(self, request: Request) -> Response:
        """What the table holds, as its metadata counts it."""
        return _answer(request, {"s3_endpoint": self._s3_endpoint, **self._queries.on_the_table(_stats)})

    def snapshots(self, request: Request) -> Response:
        """The table's latest commits, newest first."""
        asked = say.asked(request.query_params, say.SnapshotsQuestion)
        if asked.table not in ("trades", "trades_v2"):
            raise say.RefusedError(400, "INVALID_TABLE", f"Table {asked.table!r} is not trades_v2")
        view = self._queries.on_the_table(lambda view: view)
        newest_first = sorted(view.snapshots, key=lambda snapshot: snapshot.timestamp_ms, reverse=True)
        found = [_snapshot(one) for one in newest_first[: asked.limit]]
        return _answer(request, found, table_name="trades_v2", pagination=say.page(len(found), asked.limit))

    def _tail_past(self, view: TableView, wanted: Trades) -> Tail | str:
        """The broker's part, or why there is none: without it the table alone is still an answer."""
        try:
            return self._tail.past(topics.read_ledger(view.properties), wanted)
        except TailUnreadableError as error:
            return str(error)


def _answer(request: Request, data: object, *, meta: Mapping[str, object] | None = None, **more: object) -> Response:
    return say.answer(data, correlation_id=request.state.correlation_id, meta=meta, **more)


def _merged(stored: list[TradeRow], tail: Tail | str, limit: int) -> list[TradeRow]:
    """Both parts without the messages they share, the newest `limit` of them, oldest first."""
    unread = () if isinstance(tail, str) else tail.rows
    by_id = {row.message_id: row for row in (*unread, *stored)}
    newest_first = sorted(by_id.values(), key=lambda row: (row.timestamp, row.message_id), reverse=True)
    return newest_first[:limit][::-1]


def _sources(stored: list[TradeRow], rows: list[TradeRow], tail: Tail | str) -> dict[str, object]:
    """How many of the rows came from where, and whether anything is known to be left out."""
    in_table = {row.message_id for row in stored}
    from_table = sum(row.message_id in in_table for row in rows)
    if isinstance(tail, str):
        return {"iceberg": from_table, "kafka": None, "complete": False, "problem": tail}
    return {"iceberg": from_table, "kafka": len(rows) - from_table, "complete": tail.complete, "problem": None}


def _stats(view: TableView) -> dict[str, object]:
    return {
        "warehouse_path": view.location,
        "connection_active": True,
        "trades_count": view.rows,
        "quotes_count": None,
        "error": None,
        "snapshot_id": view.snapshot.snapshot_id if view.snapshot else None,
        "data_files": len(view.files),
        "data_bytes": sum(file.size for file in view.files),
        "oldest_trade": min((file.oldest for file in view.files), default=None),
        "newest_trade": view.newest,
    }


def _snapshot(one: Snapshot) -> dict[str, object]:
    at = datetime.fromtimestamp(one.timestamp_ms / 1000, UTC).replace(tzinfo=None)
    return {
        "snapshot_id": one.snapshot_id,
        "timestamp": at,
        "manifest_list": one.manifest_list,
        "summary": one.summary,
    }


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise say.RefusedError(400, "VALIDATION_ERROR", f"{text!r} is not a date: expected YYYY-MM-DD") from error


# The API with the defects of the original K2: what it answers wrongly, slowly, or not at all. Nothing here is broken
# further than the original is, so that a check which passes on it has looked at something.

ANSWER_S = 0.17
"""Seconds that the original takes for one answer; it gives one at a time."""
_NO_CONNECTION = "'QueryEngine' object has no attribute 'connection'"
_one_at_a_time = threading.Lock()


def slowly(endpoint: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """The same endpoint, six answers a second at most, each after the original's pause."""

    def answer(request: Request) -> Response:
        with _one_at_a_time:
            time.sleep(ANSWER_S)
        return endpoint(request)

    return answer


def original_health(_request: Request) -> Response:
    """Always 200, and always unhealthy: it reads an attribute that does not exist."""
    down: dict[str, Any] = {"name": "duckdb", "status": "unhealthy", "latency_ms": None, "message": _NO_CONNECTION}
    return say.as_json(
        {
            "status": "unhealthy",
            "version": "1.0.0",
            "timestamp": _now(),
            "dependencies": [down, {**down, "name": "iceberg"}],
        }
    )


def original_stats(request: Request) -> Response:
    """Always 200, and counts tables of the first version, which are not there."""
    counted = {
        "s3_endpoint": "",
        "warehouse_path": "",
        "connection_active": False,
        "trades_count": None,
        "quotes_count": None,
        "error": "Table market_data.trades does not exist",
    }
    return say.answer(counted, correlation_id=request.state.correlation_id)


def _failing(code: str, message: str) -> Callable[[Request], Response]:
    def fail(_request: Request) -> Response:
        raise say.RefusedError(500, code, message)

    return fail


WRONG: dict[str, Callable[[Request], Response]] = {
    "/v1/trades/recent": _failing("HYBRID_QUERY_FAILED", "name 'METRICS' is not defined"),
    "/v1/snapshots": _failing("QUERY_FAILED", "Table market_data.trades does not exist"),
    "/v1/quotes": _failing("QUERY_FAILED", "Table market_data.quotes_v2 does not exist"),
    "/v1/stats": original_stats,
}
"""What the original answers wrongly behind the API key."""
LIVENESS = "/health"


def originals(routes: list[Route], make: Callable[..., Route], locked: Callable[..., Any]) -> list[Route]:
    """The routes of the API with those of the original in their places.

    Args:
        routes: Those of the API.
        make: Makes a route of a path and an endpoint.
        locked: Puts an endpoint behind the API key.
    """
    kept = [route for route in routes if route.path not in {*WRONG, LIVENESS}]
    return [make(LIVENESS, original_health), *(make(path, locked(slowly(each))) for path, each in WRONG.items()), *kept]


TABLE = "market_data.trades_v2"
_NO_STORE = "no-store"
_SWITCH_S = 0.001  # a request waits for the thread that follows the table; with Python's own 5 ms, many times over


def arguments() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="k2run.k2.platform.api", description=__doc__)
    parser.add_argument("--port", type=int, default=18000, help="port to answer on (default: 18000)")
    parser.add_argument("--host", default="127.0.0.1", help="address to answer on; 0.0.0.0 in a container")
    store_files.add_catalog(parser)
    store_files.add_store(parser)
    parser.add_argument(
        "--cache", type=Path, required=True, help="directory of local copies of data files, emptied at each start"
    )
    add_broker(parser)
    parser.add_argument("--api-key", default="k2-dev-api-key-2026", help="what X-API-Key must say on /v1")
    parser.add_argument("--as-is", action="store_true", help="answer with the defects of the original K2")
    return parser


def application(
    catalog: str,
    s3_endpoint: str,
    cache: Path,
    bootstrap: str,
    api_key: str,
    registry: str = "",
    *,
    as_is: bool = False,
) -> Starlette:
    """The API over one catalog, object store and broker, none of which need be there yet."""
    store, tail, measurements = StoreFiles(s3_endpoint), BrokerTail(bootstrap, registry), Measurements(VERSION)
    queries = Queries(catalog, store, FileCache(store, cache), TABLE)
    threading.Thread(target=_warm_up, args=(queries,), daemon=True).start()
    ends = Endpoints(queries, tail, HealthCheck(VERSION, queries, queries.table, tail), measurements, s3_endpoint)
    locked = _Lock(api_key)
    paced = slowly if as_is else _as_it_is
    routes = [
        _route("/", ends.root),
        _route("/health", ends.health),
        _route("/metrics", ends.metrics),
        _route("/v1/trades", locked(paced(ends.trades)), cache="private, max-age=5"),
        _route("/v1/trades/recent", locked(ends.recent)),  # K2 lets it be kept 5 s, which is not recent
        _route("/v1/symbols", locked(paced(ends.symbols)), cache="private, max-age=300"),
        _route("/v1/summary/{symbol}/{date}", locked(paced(ends.summary)), cache="private, max-age=60"),
        _route("/v1/stats", locked(ends.stats), cache="private, max-age=30"),
        _route("/v1/snapshots", locked(ends.snapshots), cache="private, max-age=10"),
    ]
    return Starlette(
        routes=originals(routes, _route, locked) if as_is else routes,
        middleware=[Middleware(Observed, measurements=measurements)],
        exception_handlers={
            say.RefusedError: lambda _, error: say.refusal(error),
            say.InvalidQueryError: lambda _, error: say.invalid(error),
            TableMissingError: lambda _, error: say.refusal(say.RefusedError(503, "TABLE_NOT_FOUND", str(error))),
            TableUnreadableError: lambda _, error: say.refusal(say.RefusedError(500, "QUERY_FAILED", str(error))),
            404: lambda *_: say.as_json({"detail": "Not Found"}, 404),
            405: lambda *_: say.as_json({"detail": "Method Not Allowed"}, 405),
            Exception: _failed,
        },
    )


def _as_it_is(endpoint: Callable[[Request], Response]) -> Callable[[Request], Response]:
    return endpoint


class _Lock:
    """Puts an endpoint behind the API key."""

    def __init__(self, api_key: str) -> None:
        self._key = api_key.encode()

    def __call__(self, endpoint: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def unlocked(request: Request) -> Response:
            given = request.headers.get("X-API-Key")
            if given is None:
                raise say.RefusedError(401, "UNAUTHORIZED", "API key required: send it as X-API-Key")
            if not hmac.compare_digest(given.encode(), self._key):
                raise say.RefusedError(403, "FORBIDDEN", "Invalid API key")
            return endpoint(request)

        return unlocked


def _route(path: str, endpoint: Callable[[Request], Response], cache: str = _NO_STORE) -> Route:
    async def answer(request: Request) -> Response:
        request.state.endpoint = path
        response = await run_in_threadpool(endpoint, request)
        response.headers["Cache-Control"] = cache
        return response

    return Route(path, answer)


def _failed(request: Request, error: Exception) -> Response:
    log("request_failed", "error", path=request.url.path, error=f"{type(error).__name__}: {error}")
    return say.failure()


def _warm_up(queries: Queries) -> None:
    """Import and connect now what the first query would otherwise wait for, and follow the table from then on."""
    queries.check()
    import pyiceberg.manifest  # noqa: F401  imported for its time

    queries.table.follow()


def main() -> None:
    """Serve until told to stop."""
    options = arguments().parse_args()
    require_free_port(options.port)
    sys.setswitchinterval(_SWITCH_S)
    app = application(
        options.catalog,
        options.s3_endpoint,
        options.cache,
        options.bootstrap,
        options.api_key,
        options.registry,
        as_is=options.as_is,
    )
    server = web_server(app, options.port, options.host)
    taken = take_port(options.port, options.host)
    log("api_listening", url=f"http://{options.host}:{options.port}", catalog=options.catalog)
    server.run([taken])
    log("api_stopped")


if __name__ == "__main__":
    main()
