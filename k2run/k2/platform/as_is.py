"""The API with the defects of the original K2: what it answers wrongly, slowly, or not at all.

Nothing here is broken further than the original is, so that a check which passes on it has looked at something.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from k2run.k2.platform import api_answers as say

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

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


def health(_request: Request) -> Response:
    """Always 200, and always unhealthy: it reads an attribute that does not exist."""
    down: dict[str, Any] = {"name": "duckdb", "status": "unhealthy", "latency_ms": None, "message": _NO_CONNECTION}
    return say.as_json(
        {
            "status": "unhealthy",
            "version": "1.0.0",
            "timestamp": datetime.now(UTC).replace(tzinfo=None),
            "dependencies": [down, {**down, "name": "iceberg"}],
        }
    )


def stats(request: Request) -> Response:
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
    "/v1/stats": stats,
}
"""What the original answers wrongly behind the API key."""
LIVENESS = "/health"


def replace(routes: list[Route], make: Callable[..., Route], locked: Callable[..., Any]) -> list[Route]:
    """The routes of the API with those of the original in their places.

    Args:
        routes: Those of the API.
        make: Makes a route of a path and an endpoint.
        locked: Puts an endpoint behind the API key.
    """
    kept = [route for route in routes if route.path not in {*WRONG, LIVENESS}]
    return [make(LIVENESS, health), *(make(path, locked(slowly(each))) for path, each in WRONG.items()), *kept]
