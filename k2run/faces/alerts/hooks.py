"""The addresses at which alerts arrive, for any Starlette application to mount."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route

from k2run.errors import JournalLost, UsageError
from k2run.faces.alerts.delivery import read_alertmanager, read_plain
from k2run.faces.alerts.secret import bears, signed

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from k2run.faces.alerts.book import Book
    from k2run.faces.alerts.delivery import Delivery

LARGEST = 2 * 1024 * 1024
SIGNATURE = "x-k2run-signature"


class _TooLarge(Exception):
    pass


def hook_routes(book: Book, secret: str) -> list[Route]:
    """`/hooks/alertmanager`, and `/hooks/generic` for everything else.

    Args:
        book: Where deliveries are kept.
        secret: Alertmanager bears it as its token; other senders sign the body with it.
    """

    async def alertmanager(request: Request) -> Response:
        if not bears(request.headers.get("authorization", ""), secret):
            return _refused(401, "no token, or a wrong one", {"www-authenticate": "Bearer"})
        return await _take(request, None, read_alertmanager)

    async def generic(request: Request) -> Response:
        return await _take(request, request.headers.get(SIGNATURE, ""), read_plain)

    async def _take(request: Request, signature: str | None, read: Callable[[bytes], Delivery]) -> Response:
        try:
            body = await _body(request)
        except _TooLarge:
            return _refused(413, f"a delivery has at most {LARGEST} bytes")
        if signature is not None and not signed(signature, body, secret):
            return _refused(401, f"no signature in {SIGNATURE}, or a wrong one")
        try:
            incident = await run_in_threadpool(lambda: book.receive(read(body)))
        except UsageError as error:
            return _refused(400, str(error))
        except JournalLost as error:
            return _refused(503, str(error))  # the sender tries again
        return JSONResponse({"incident": incident.id, "state": incident.state})

    return [
        Route("/hooks/alertmanager", alertmanager, methods=["POST"]),
        Route("/hooks/generic", generic, methods=["POST"]),
    ]


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
