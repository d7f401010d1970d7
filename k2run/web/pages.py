"""The pages that show: what can be run, what runs, what ran."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from k2run.engine.journal import JOURNAL
from k2run.engine.outline import outline
from k2run.evidence.compare import last_rehearsal
from k2run.evidence.report_html import STYLE, report_html
from k2run.evidence.report_markdown import report_markdown
from k2run.web.fragments import ON_CALL, PANELS, PRESENTER, RUN, drawn
from k2run.web.guard import POLICY
from k2run.web.incident_feed import open_incidents
from k2run.web.site import Denied, site_of
from k2run.web.streams import stream
from k2run.web.templating import draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.requests import Request

    from k2run.web.catalogue import CatalogueEntry
    from k2run.web.feed import FollowedRun
    from k2run.web.site import Site
    from k2run.web.tokens import User

RECENT, PAGE = 6, 40
PIECE = 256 * 1024
_STYLE_HASH = b64encode(sha256(STYLE.read_bytes()).digest()).decode()
REPORT_POLICY = POLICY.replace("style-src 'self'", f"style-src 'sha256-{_STYLE_HASH}'").replace(
    "script-src 'self'", "script-src 'none'"
)


def home(request: Request) -> Response:
    """Stacks with their health, running runs, runbooks with their last verdict."""
    site = site_of(request)
    who = site.reader(request)
    values = {"runbooks": site.catalogue.by_kind(), "verdicts": site.runs.last_of(), **_overview(site)}
    return HTMLResponse(site.page("home.html", who, **values))


def overview(request: Request) -> Response:
    """The part of the home page that refreshes itself."""
    site = site_of(request)
    site.reader(request)
    return HTMLResponse(draw("overview.html", **_overview(site)))


def _overview(site: Site) -> dict[str, Any]:
    recent, total = site.runs.newest(RECENT)
    return {
        "incidents": open_incidents(site.incidents),
        "open": site.runs.open(),
        "stacks": site.catalogue.stacks(),
        "recent": recent,
        "total": total,
    }


def runbook(request: Request) -> Response:
    """One runbook, and the form that starts it."""
    site = site_of(request)
    return runbook_page(site, site.reader(request), site.catalogue.runbook(request.path_params["key"]))


def runbook_page(
    site: Site, who: User, entry: CatalogueEntry, *, given: dict[str, str] | None = None, problem: str = ""
) -> Response:
    """The page of a runbook.

    Args:
        site: The site.
        who: Who looks.
        entry: The runbook.
        given: What was in the form before, when it could not be started.
        problem: Why not.
    """
    recent = [brief for brief in site.runs.newest(200)[0] if entry.runbook and brief.name == entry.runbook.name]
    html = site.page(
        "runbook.html",
        who,
        entry=entry,
        plan=outline(entry.runbook) if entry.runbook else [],
        stacks=site.catalogue.stack_names(),
        runs=recent[:RECENT],
        given=given or {},
        problem=problem,
    )
    return HTMLResponse(html, 400 if problem else 200)


def runs(request: Request) -> Response:
    """All runs, newest first."""
    site = site_of(request)
    who = site.reader(request)
    asked = request.query_params.get("page", "1")
    page = min(max(1, int(asked) if asked.isdecimal() and len(asked) < 7 else 1), 100_000)  # noqa: PLR2004 - more digits than pages
    found, total = site.runs.newest(PAGE, before=PAGE * (page - 1))
    pages = max(1, -(-total // PAGE))
    return HTMLResponse(site.page("runs.html", who, runs=found, page=page, pages=pages, total=total))


async def run(request: Request) -> Response:
    """One run, live or past."""
    return await _of_run(request, RUN, "run.html")


async def presenter(request: Request) -> Response:
    """One run for a projector."""
    return await _of_run(request, PRESENTER, "presenter.html")


async def on_call(request: Request) -> Response:
    """One run for an operator on call: what is happening, and the one thing to do."""
    return await _of_run(request, ON_CALL, "oncall.html")


async def _of_run(request: Request, layout: str, name: str) -> Response:
    site = site_of(request)
    who = site.reader(request)

    def page(followed: FollowedRun, drawings: dict[str, str]) -> Response:
        if followed.view.started is None:
            raise Denied(404, "The run has not started yet", "try again in a moment")
        parts = {key: drawn(html) for key, html in drawings.items()}
        values = {
            "run": followed.folder.name,
            "view": followed.view,
            "now": followed.now,
            "state": followed.state,
            "parts": parts,
        }
        return HTMLResponse(site.page(name, who, **values))

    return await site.feed(request.path_params["run"]).page(layout, who.csrf, page)


async def events(request: Request) -> Response:
    """What changes on the page of a run, as server-sent events."""
    site = site_of(request)
    site.reader(request)
    layout = request.query_params.get("layout", RUN)
    if layout not in PANELS:
        raise Denied(404, "Unknown layout")
    return stream(request, site.feed(request.path_params["run"]).watch(layout))


async def report(request: Request) -> Response:
    """The report of a run, made from its journal."""
    html = await _report(request, _html)
    return HTMLResponse(html, headers={"content-security-policy": REPORT_POLICY})


async def report_text(request: Request) -> Response:
    """The report as Markdown."""
    return PlainTextResponse(await _report(request, _markdown))


async def journal(request: Request) -> Response:
    """The journal itself."""
    site = site_of(request)
    site.reader(request)
    path = site.runs.folder(request.path_params["run"]) / JOURNAL
    return StreamingResponse(_pieces(path), media_type="application/x-ndjson")


async def healthz(request: Request) -> Response:  # noqa: ARG001 - the form of an endpoint
    """That the server answers."""
    return JSONResponse({"status": "ok"})


async def _report(request: Request, make: Callable[[FollowedRun], str]) -> str:
    site = site_of(request)
    site.reader(request)
    return await site.feed(request.path_params["run"]).report(make)


def _html(followed: FollowedRun) -> str:
    followed.view.alive = followed.state == "running"
    return report_html(followed.view, last_rehearsal(followed.folder, followed.view))


def _markdown(followed: FollowedRun) -> str:
    followed.view.alive = followed.state == "running"
    return report_markdown(followed.view, last_rehearsal(followed.folder, followed.view))


def _pieces(path: Path) -> Iterator[bytes]:
    """A file, read by a thread as fast as it is taken."""
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


ROUTES = [
    Route("/", home),
    Route("/overview", overview),
    Route("/runbooks/{key}", runbook),
    Route("/runs", runs),
    Route("/runs/{run}", run),
    Route("/runs/{run}/presenter", presenter),
    Route("/runs/{run}/oncall", on_call),
    Route("/runs/{run}/events", events),
    Route("/runs/{run}/report", report),
    Route("/runs/{run}/report.md", report_text),
    Route("/runs/{run}/journal", journal),
    Route("/healthz", healthz),
]
