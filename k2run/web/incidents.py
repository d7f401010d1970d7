"""The pages of incidents: all of them; one with its alerts, diagnosis and runbook; and where alerts arrive."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
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
from k2run.daemon.alerts.incident import (
    Alerted,
    AnyEntry,
    Approved,
    Began,
    Chosen,
    Closed,
    Declined,
    Diagnosed,
    Dropped,
    Ended,
    Joined,
    Opened,
    Ordered,
    PutOff,
    Requeued,
    Resolved,
)
from k2run.errors import JournalLost, UsageError
from k2run.files import Spent
from k2run.web.feed import DrawnPage, open_incidents, tone_of
from k2run.web.forms import allowed
from k2run.web.fragments import draw, marked
from k2run.web.guard import Role
from k2run.web.listings import NotFound
from k2run.web.site import site_of, stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from starlette.requests import Request

    from k2run.daemon.alerts.delivery import Delivery
    from k2run.daemon.alerts.incident import Incident
    from k2run.daemon.alerts.incident_store import IncidentStore
    from k2run.web.listings import RunSummary
    from k2run.web.site import Site

CLOSED = 60
"""Closed incidents on the page of all."""
TOLD = 40
"""Lines of what happened in one."""
PARTS = ("incident", "answer", "alerts", "seen", "told")
LARGEST = 2 * 1024 * 1024
OK = 200


def find(site: Site, name: str) -> Incident:
    """An incident by its whole id; nothing else is looked up by what a browser sends.

    Raises:
        NotFound: There is no such incident.
    """
    for found in site.incidents.all():
        if found.id == name:
            return found
    raise NotFound("incident not found", hint="the Incidents page lists all incidents")


def draw_all(site: Site) -> DrawnPage:
    """The page of all incidents."""
    found = site.incidents.all()
    over = [one for one in reversed(found) if one.closed is not None]
    values = {"open": open_incidents(site.incidents), "closed": over[:CLOSED], "total": len(over)}
    return DrawnPage(now=0.0, state="ended", parts={"p-incidents": draw("parts/incidents.html", **values)})


def draw_one(site: Site, name: str, csrf: str = "") -> DrawnPage:
    """The page of an incident.

    Args:
        site: The site.
        name: The incident.
        csrf: The reader's, for the forms; parts that are sent to everybody have none, the page's script puts it in.
    """
    found = find(site, name)
    values = {
        "incident": found,
        "tone": tone_of(found),
        "now": found.age_s,
        "live": found.closed is None,
        "runbook": Path(found.chosen.path).stem if found.chosen is not None and found.chosen.path else "",
        "run": _run_of(site, found),
        "told": list(told(site.incidents.entries(found)))[-TOLD:],
        "csrf": csrf,
    }
    parts = {f"p-{part}": draw(f"parts/{part}.html", **values) for part in PARTS}
    return DrawnPage(now=round(found.age_s, 3), state="running" if found.closed is None else "ended", parts=parts)


def _run_of(site: Site, found: Incident) -> RunSummary | None:
    try:
        return site.runs.brief(site.runs.folder(found.run)) if found.run else None
    except UsageError:  # its folder was deleted
        return None


def told(entries: Sequence[AnyEntry]) -> Iterator[tuple[str, str]]:
    """The history of an incident, each entry with its time; repeated notices are one."""
    firing: dict[str, str] = {}
    for entry in entries:
        if isinstance(entry, Alerted):
            if firing.get(entry.alert) == entry.status:
                continue
            firing[entry.alert] = entry.status
        yield entry.at, _says(entry)


def _says(entry: AnyEntry) -> str:  # noqa: C901, PLR0911, PLR0912 - one line for each event
    match entry:
        case Opened():
            return "opened"
        case Alerted():
            return f"{entry.status}: {entry.title or entry.alert}"
        case Diagnosed():
            return f"{entry.stack} diagnosed: {', '.join(entry.matches) or 'no recovery runbook matches'}"
        case Chosen():
            return f"{entry.runbook} chosen: {entry.why}" if entry.runbook else entry.why
        case Approved():
            return f"approved by {entry.by}"
        case Declined():
            return f"declined by {entry.by}"
        case Ordered():
            return "run ordered"
        case Began():
            return f"run {entry.run} started"
        case Resolved():
            return "every alert is resolved while the run continues; only its end says whether it recovered this"
        case PutOff():
            return f"postponed: {entry.why}"
        case Requeued():
            return f"queued again: {entry.why}"
        case Joined():
            return f"same cause as {entry.incident}, whose run answers both"
        case Dropped():
            return f"not needed any more: {entry.why}"
        case Ended():
            return f"run ended: {entry.verdict}"
        case Closed():
            return f"closed: {entry.why}"


def incidents(request: Request) -> Response:
    """All incidents: those that are open, and the last ones that are closed."""
    site = site_of(request)
    who = site.reader(request)
    shown = draw_all(site)
    return HTMLResponse(site.page("incidents.html", who, parts=marked(shown.parts), shown=shown))


def incident(request: Request) -> Response:
    """One incident."""
    site = site_of(request)
    who = site.reader(request)
    found = find(site, request.path_params["incident"])
    shown = draw_one(site, found.id, who.csrf)
    values = {"incident": found, "parts": marked(shown.parts), "shown": shown}
    return HTMLResponse(site.page("incident.html", who, **values))


async def all_events(request: Request) -> Response:
    """What changes on the page of all incidents, as server-sent events."""
    site = site_of(request)
    return stream(request, site.watched.watch(partial(draw_all, site)))


async def events(request: Request) -> Response:
    """What changes on the page of an incident, as server-sent events."""
    name, site = request.path_params["incident"], site_of(request)
    site.reader(request)
    await run_in_threadpool(find, site, name)
    return stream(request, site.watched.watch(partial(draw_one, site, name)))


async def approve(request: Request) -> Response:
    """Let the runbook of an incident be started."""
    return await _decide(request, "approve")


async def decline(request: Request) -> Response:
    """Decline to start the runbook of an incident."""
    return await _decide(request, "decline")


async def _decide(request: Request, what: str) -> Response:
    site = site_of(request)
    who, _ = await allowed(request, Role.APPROVER)
    found = await run_in_threadpool(find, site, request.path_params["incident"])
    site.audit(request, who, what, found.id)
    act = site.incidents.approve if what == "approve" else site.incidents.decline
    await run_in_threadpool(act, found.id, who.name)
    return RedirectResponse(f"/incidents/{found.id}", 303)


ROUTES = [
    Route("/incidents", incidents),
    Route("/incidents/events", all_events),
    Route("/incidents/{incident}", incident),
    Route("/incidents/{incident}/events", events),
    Route("/incidents/{incident}/approve", approve, methods=["POST"]),
    Route("/incidents/{incident}/decline", decline, methods=["POST"]),
]


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
