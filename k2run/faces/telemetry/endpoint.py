"""The address of the metrics, for any Starlette application to mount."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from k2run.faces.alerts.secret import bears
from k2run.faces.telemetry.exposition import Exposition

if TYPE_CHECKING:
    from starlette.requests import Request

    from k2run.engine.store import Store


def metrics_routes(store: Store, secret: str = "") -> list[Route]:
    """`/metrics`.

    Args:
        store: The k2run home.
        secret: What a scraper bears as its token; everybody may look when empty.
    """
    exposition = Exposition(store)

    async def metrics(request: Request) -> Response:
        if secret and not bears(request.headers.get("authorization", ""), secret):
            return PlainTextResponse("no token, or a wrong one\n", 401, {"www-authenticate": "Bearer"})
        return Response(await run_in_threadpool(exposition.text), media_type=CONTENT_TYPE_LATEST)

    return [Route("/metrics", metrics)]
