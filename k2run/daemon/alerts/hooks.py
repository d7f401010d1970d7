"""The addresses at which alerts arrive, for any Starlette application to mount."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route

from k2run.daemon.alerts.delivery import (
    SIGNATURE,
    TIME,
    WINDOW_S,
    bears,
    is_timely,
    read_alertmanager,
    read_plain,
    signed,
)
from k2run.errors import JournalLost, UsageError
from k2run.used_once import Spent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from k2run.daemon.alerts.delivery import Delivery
    from k2run.daemon.alerts.incident import Incident
    from k2run.daemon.alerts.store import IncidentStore

LARGEST = 2 * 1024 * 1024
OK = 200


class _TooLarge(Exception):
    pass


def hook_routes(incidents: IncidentStore, secret: str) -> list[Route]:
    """`/hooks/alertmanager`, and `/hooks/generic` for everything else.

    Args:
        incidents: Where deliveries are kept.
        secret: Alertmanager bears it as its token; other senders sign the time and the body with it.
    """
    spent = Spent(incidents.folder / "signatures", 2 * WINDOW_S)

    async def alertmanager(request: Request) -> Response:
        if not bears(request.headers.get("authorization", ""), secret):
            return _refused(401, "no token, or a wrong one", {"www-authenticate": "Bearer"})
        return await _take(await _body(request), read_alertmanager)

    async def generic(request: Request) -> Response:
        signature, at = request.headers.get(SIGNATURE, "").strip().lower(), request.headers.get(TIME, "")
        body = await _body(request)
        if not signed(signature, at, body, secret):
            return _refused(401, f"no signature of {TIME} and the body in {SIGNATURE}, or a wrong one")
        if not is_timely(at, time.time()):
            return _refused(
                401, f"{TIME} is not within {WINDOW_S:g}s of this server's clock, which says {time.time():.0f}"
            )
        if not spent.take(signature):
            return _refused(409, "this delivery was taken before; another one is signed with a time of its own")
        taken = await _take(body, read_plain)
        await run_in_threadpool(spent.keep if taken.status_code == OK else spent.give_back, signature)
        return taken

    async def _take(body: bytes, read: Callable[[bytes], Delivery]) -> Response:
        try:
            incident = await run_in_threadpool(lambda: incidents.receive(read(body)))
        except UsageError as error:
            return _refused(400, str(error))
        except JournalLost as error:
            return _refused(503, str(error))  # the sender tries again
        return JSONResponse(_receipt(incident))

    return [
        Route("/hooks/alertmanager", _bounded(alertmanager), methods=["POST"]),
        Route("/hooks/generic", _bounded(generic), methods=["POST"]),
    ]


def _bounded(take: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that refuses a body that is too large."""

    async def endpoint(request: Request) -> Response:
        try:
            return await take(request)
        except _TooLarge:
            return _refused(413, f"a delivery has at most {LARGEST} bytes")

    return endpoint


def _receipt(incident: Incident | None) -> dict[str, str | None]:
    """What the sender of a delivery is told."""
    if incident is None:
        return {"incident": None, "state": "no incident is open for what is resolved"}
    return {"incident": incident.id, "state": incident.state}


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST:
            raise _TooLarge
        parts.append(part)
    return b"".join(parts)


def _refused(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)
