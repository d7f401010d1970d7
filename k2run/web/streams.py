"""Answers that last while a client watches: server-sent events, for as long as the watcher may look."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

from starlette.responses import Response, StreamingResponse

from k2run.errors import K2runError
from k2run.web.site import Denied, site_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.requests import Request

MOST_WATCHERS = 500
ALLOWED_S = 1.0
"""Seconds between two looks at whether a watcher may still look: a session that ends also ends its streams."""
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


def stream(request: Request, events: AsyncGenerator[bytes], *, known: bool = False) -> Response:
    """Send events until the watcher goes, signs out, or may not look any more.

    Args:
        request: What the watcher sent.
        events: What is sent.
        known: Looking there needs a token everywhere.

    Raises:
        Denied: The watcher may not look, or too many do.
    """
    site = site_of(request)
    site.reader(request, known=known)
    if site.watchers >= MOST_WATCHERS:
        raise Denied(503, "Too many open pages", "close some and try again")
    sent = while_allowed(events, lambda: _may_look(request, known=known), ALLOWED_S)
    return StreamingResponse(sent, media_type="text/event-stream", headers=HEADERS)


def _may_look(request: Request, *, known: bool) -> bool:
    try:
        site_of(request).reader(request, known=known)
    except (Denied, K2runError):
        return False
    return True


async def while_allowed(
    events: AsyncGenerator[bytes], allowed: Callable[[], bool], every: float
) -> AsyncGenerator[bytes]:
    """The same events, ended when they are no longer allowed, also while none comes.

    Args:
        events: What is sent.
        allowed: Whether more may be sent.
        every: Seconds between two questions.
    """
    async with aclosing(events):
        asked = time.monotonic()
        while True:
            coming = asyncio.ensure_future(anext(events, None))
            try:
                while not coming.done():
                    await asyncio.wait({coming}, timeout=max(0.0, asked + every - time.monotonic()))
                    if time.monotonic() - asked >= every:
                        if not allowed():
                            return
                        asked = time.monotonic()
                event = coming.result()
            finally:
                if coming.cancel():
                    await asyncio.wait({coming})
            if event is None:
                return
            yield event
