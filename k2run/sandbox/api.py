"""The query API: Starlette over DuckDB over the Iceberg table, and the broker's tail for the newest second.

It starts before the table exists and says so on /health (503) and on every query (503, TABLE_NOT_FOUND); from the
consumer's first commit on it answers.
"""

from __future__ import annotations

import argparse
import hmac
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.routing import Route

from k2run.sandbox import api_answers as say
from k2run.sandbox.api_endpoints import VERSION, Endpoints
from k2run.sandbox.api_health import HealthCheck
from k2run.sandbox.api_metrics import Measurements, Observed
from k2run.sandbox.program import log, require_free_port
from k2run.sandbox.queries import Queries
from k2run.sandbox.queries_files import TableFiles, TableMissingError, TableUnreadableError
from k2run.sandbox.queries_tail import BrokerTail

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

TABLE = "market_data.trades_v2"
_NO_STORE = "no-store"
_STOP_WITHIN_S = 1


def arguments() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="k2run.sandbox.api", description=__doc__)
    parser.add_argument("--port", type=int, default=18000, help="port to answer on (default: 18000)")
    parser.add_argument("--host", default="127.0.0.1", help="address to answer on; 0.0.0.0 in a container")
    parser.add_argument("--warehouse", type=Path, required=True, help="directory of the catalog and the tables")
    parser.add_argument("--bootstrap", default="127.0.0.1:19092", help="the broker (default: 127.0.0.1:19092)")
    parser.add_argument("--api-key", default="k2-dev-api-key-2026", help="what X-API-Key must say on /v1")
    return parser


def application(warehouse: Path, bootstrap: str, api_key: str) -> Starlette:
    """The API over one warehouse and one broker, neither of which need be there yet."""
    table, tail, measurements = TableFiles(warehouse, TABLE), BrokerTail(bootstrap), Measurements(VERSION)
    queries = Queries(table)
    threading.Thread(target=_warm_up, args=(queries, table), daemon=True).start()
    ends = Endpoints(queries, tail, HealthCheck(VERSION, queries, table, tail), measurements)
    locked = _Lock(api_key)
    return Starlette(
        routes=[
            _route("/", ends.root),
            _route("/health", ends.health),
            _route("/metrics", ends.metrics),
            _route("/v1/trades", locked(ends.trades), cache="private, max-age=5"),
            _route("/v1/trades/recent", locked(ends.recent)),  # K2 lets it be kept 5 s, which is not recent
            _route("/v1/symbols", locked(ends.symbols), cache="private, max-age=300"),
            _route("/v1/summary/{symbol}/{date}", locked(ends.summary), cache="private, max-age=60"),
            _route("/v1/stats", locked(ends.stats), cache="private, max-age=30"),
            _route("/v1/snapshots", locked(ends.snapshots), cache="private, max-age=10"),
        ],
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


def _warm_up(queries: Queries, table: TableFiles) -> None:
    """Import and connect now what the first query would otherwise wait for."""
    queries.check()
    import pyiceberg.manifest  # noqa: F401  imported for its time

    with suppress(TableMissingError, TableUnreadableError):
        table.view()


def main() -> None:
    """Serve until told to stop."""
    options = arguments().parse_args()
    require_free_port(options.port)
    import uvicorn

    app = application(options.warehouse, options.bootstrap, options.api_key)
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_STOP_WITHIN_S,
    )
    server = uvicorn.Server(config)
    # uvicorn stops in good order on a signal and then raises it again: this program has ended as it should, with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    log("api_listening", url=f"http://{options.host}:{options.port}", warehouse=options.warehouse)
    server.run()
    log("api_stopped")


if __name__ == "__main__":
    main()
