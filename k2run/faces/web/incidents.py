"""The pages of incidents: all of them, and one with its alerts, its diagnosis, and the runbook that answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from k2run.faces.web.changes import allowed
from k2run.faces.web.incident_parts import draw_all, draw_one, find
from k2run.faces.web.pages import MOST_WATCHERS
from k2run.faces.web.parts import drawn
from k2run.faces.web.site import Denied, site_of
from k2run.faces.web.tokens import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from markupsafe import Markup
    from starlette.requests import Request

    from k2run.faces.web.site import Site
    from k2run.faces.web.watched import Drawn


def incidents(request: Request) -> Response:
    """All incidents: those that are open, and the last ones that are closed."""
    site = site_of(request)
    who = site.reader(request)
    shown = draw_all(site)
    return HTMLResponse(site.page("incidents.html", who, parts=_marked(shown), shown=shown))


def incident(request: Request) -> Response:
    """One incident."""
    site = site_of(request)
    who = site.reader(request)
    found = find(site, request.path_params["incident"])
    shown = draw_one(site, found.id, who.csrf)
    values = {"incident": found, "parts": _marked(shown), "shown": shown}
    return HTMLResponse(site.page("incident.html", who, **values))


async def all_events(request: Request) -> Response:
    """What changes on the page of all incidents, as server-sent events."""
    return _follow(request, lambda site: lambda: draw_all(site))


async def events(request: Request) -> Response:
    """What changes on the page of an incident, as server-sent events."""
    name = request.path_params["incident"]
    await run_in_threadpool(find, site_of(request), name)
    return _follow(request, lambda site: lambda: draw_one(site, name))


async def approve(request: Request) -> Response:
    """Let the runbook of an incident be started."""
    return await _decide(request, "approve")


async def decline(request: Request) -> Response:
    """Leave an incident to people: its runbook is not started."""
    return await _decide(request, "decline")


async def _decide(request: Request, what: str) -> Response:
    site = site_of(request)
    who, _ = await allowed(request, Role.APPROVER)
    found = await run_in_threadpool(find, site, request.path_params["incident"])
    site.audit(request, who, what, found.id)
    act = site.book.approve if what == "approve" else site.book.decline
    await run_in_threadpool(act, found.id, who.name)
    return RedirectResponse(f"/incidents/{found.id}", 303)


def _follow(request: Request, draws: Callable[[Site], Callable[[], Drawn]]) -> Response:
    site = site_of(request)
    site.reader(request)
    if site.watchers >= MOST_WATCHERS:
        raise Denied(503, "Too many are watching")
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(site.watched.watch(draws(site)), media_type="text/event-stream", headers=headers)


def _marked(shown: Drawn) -> dict[str, Markup]:
    return {name: drawn(html) for name, html in shown.parts.items()}


ROUTES = [
    Route("/incidents", incidents),
    Route("/incidents/events", all_events),
    Route("/incidents/{incident}", incident),
    Route("/incidents/{incident}/events", events),
    Route("/incidents/{incident}/approve", approve, methods=["POST"]),
    Route("/incidents/{incident}/decline", decline, methods=["POST"]),
]
