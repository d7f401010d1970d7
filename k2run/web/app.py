"""The web application: routes, the guard in front of them, and error pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from k2run.errors import K2runError
from k2run.stack.redactor import unsecret
from k2run.web import forms, incidents, pages, replays, stack_pages, trend_pages
from k2run.web.guard import READING, UNAUTHORIZED, Guard, Limits
from k2run.web.runs import NotFound
from k2run.web.site import Denied, Site, site_of
from k2run.web.stack_watch import StackWatches
from k2run.web.templating import icon, static

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_TITLES = {
    400: "Bad request",
    401: "Sign in first",
    403: "Not allowed",
    404: "Not found",
    409: "Not possible now",
    503: "Busy",
}


def create_app(
    site: Site, *, hosts: frozenset[str] = LOOPBACK, limits: Limits | None = None, more: Sequence[BaseRoute] = ()
) -> Starlette:
    """The application for one k2run home.

    Args:
        site: What it serves.
        hosts: Names by which it may be called.
        limits: What one client may take.
        more: Routes of other parts of k2run: hooks under `/hooks/`, metrics, and such.
    """
    app = Starlette(
        routes=[
            Route("/static/{version}/{name}", static),
            Route("/favicon.ico", icon),
            *pages.ROUTES,
            *trend_pages.routes(),
            *replays.routes(replays.Journals()),
            *stack_pages.routes(StackWatches(site.store)),
            *forms.ROUTES,
            *incidents.ROUTES,
            *more,
        ],
        middleware=[Middleware(Guard, hosts=hosts, limits=limits or Limits())],
        exception_handlers={
            Denied: _denied,
            K2runError: _refused,
            HTTPException: _failed,
            500: _broke,
        },
    )
    app.state.site = site
    return app


async def _denied(request: Request, error: Exception) -> Response:
    assert isinstance(error, Denied)  # noqa: S101 - registered for it
    site = site_of(request)
    program = "authorization" in request.headers or request.url.path.endswith("/events")
    if error.status == UNAUTHORIZED and request.method in READING and not program:
        return RedirectResponse("/enter", 303)
    html = site.page(
        "error.html",
        site.user_or_anonymous(request),
        title=_TITLES.get(error.status, "Request failed"),
        message=unsecret(error.message),
        hint=unsecret(error.hint),
        back="/enter" if error.status == UNAUTHORIZED else "/",
    )
    return HTMLResponse(html, error.status)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, K2runError)  # noqa: S101 - registered for it
    return await _denied(request, Denied(404 if isinstance(error, NotFound) else 409, error.message, error.hint))


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    return await _denied(request, Denied(error.status_code, "There is no page at this address"))


async def _broke(request: Request, error: Exception) -> Response:  # noqa: ARG001 - what broke is in the server's log, not on the page
    return HTMLResponse(
        "<!doctype html><title>k2run</title><p>Internal error of k2run; see the log of <code>k2run serve</code>.</p>",
        500,
    )
