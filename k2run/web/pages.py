"""The pages that show: what can be run, what runs, what ran; how figures went from run to run; a stack's diagnosis.

A presenter sees a run as it was at a moment, and its charts alone, also when the run itself has ended.
Long because every page that only shows is on this one.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from k2run.bench.latency import figure
from k2run.bench.regression import Trend, trends
from k2run.engine.events import RunFinished
from k2run.engine.journal import JOURNAL, read_journal
from k2run.engine.outline import outline
from k2run.evidence.drawings import load_pictures
from k2run.evidence.history import OF_STEPS, History
from k2run.evidence.html import Form, from_run_to_run, marks_of, over_time
from k2run.evidence.measurements import LEAST_POINTS, titled, written
from k2run.evidence.report_html import STYLE, report_html
from k2run.evidence.report_markdown import report_markdown
from k2run.evidence.view import view_of
from k2run.evidence.wording import clean, moment, without_id
from k2run.web.feed import charts_of, open_incidents
from k2run.web.fragments import ON_CALL, PANELS, PRESENTER, RUN, Drawing, draw, drawn, is_watched, marked
from k2run.web.guard import POLICY
from k2run.web.listings import NotFound
from k2run.web.site import Denied, site_of, stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from markupsafe import Markup
    from starlette.requests import Request

    from k2run.engine.events import AnyEvent
    from k2run.engine.store import Store
    from k2run.evidence.measurements import Load, Series
    from k2run.evidence.view import RunView
    from k2run.stack.model import Chart
    from k2run.web.feed import FollowedRun
    from k2run.web.guard import User
    from k2run.web.listings import CatalogueEntry
    from k2run.web.site import Site

RECENT, PAGE = 6, 40
PIECE = 256 * 1024
_STYLE_HASH = b64encode(sha256(STYLE.read_bytes()).digest()).decode()
REPORT_POLICY = POLICY.replace("style-src 'self'", f"style-src 'sha256-{_STYLE_HASH}'").replace(
    "script-src 'self'", "script-src 'none'"
)
SHOWN = 40
"""Figures on a page of trends."""
FRESH_S = 10.0
"""Seconds for which figures are shown to everyone who asks."""
T = TypeVar("T")
KEPT = 16
"""Answers that are kept at most."""


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
    """The page of a runbook; when it could not be started, with what was in the form, and why not."""
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
        values = {
            "run": followed.folder.name,
            "view": followed.view,
            "now": followed.now,
            "state": followed.state,
            "parts": marked(drawings),
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
    html = await _report(request, report_html)
    return HTMLResponse(html, headers={"content-security-policy": REPORT_POLICY})


async def report_text(request: Request) -> Response:
    """The report as Markdown."""
    return PlainTextResponse(await _report(request, report_markdown))


async def journal(request: Request) -> Response:
    """The journal itself."""
    site = site_of(request)
    site.reader(request)
    path = site.runs.folder(request.path_params["run"]) / JOURNAL
    return StreamingResponse(_pieces(path), media_type="application/x-ndjson")


async def healthz(request: Request) -> Response:  # noqa: ARG001 - the form of an endpoint
    """That the server answers."""
    return JSONResponse({"status": "ok"})


async def _report(request: Request, render: Callable[[RunView, RunView | None], str]) -> str:
    site = site_of(request)
    site.reader(request)
    return await site.feed(request.path_params["run"]).report(render)


def _pieces(path: Path) -> Iterator[bytes]:
    """A file, read by a thread as fast as it is taken."""
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


async def _stack(request: Request) -> str:
    """The name of the stack that a reader asks for.

    A diagnosis asks real services, and reads what they need a secret for, so it needs a token everywhere.

    Raises:
        NotFound: There is no such stack.
    """
    site = site_of(request)
    site.reader(request, known=True)
    name: str = request.path_params["stack"]
    if name not in await run_in_threadpool(site.catalogue.stack_names):
        raise NotFound("stack not found", hint="the home page lists all stacks")
    return name


async def diagnosis(request: Request) -> Response:
    """What is wrong with a stack, as far as it was seen by now."""
    name = await _stack(request)
    site = site_of(request)
    window = site.diagnoses.of(name)
    await window.first()
    shown = window.drawn()
    who = site.reader(request, known=True)
    return HTMLResponse(site.page("diagnosis.html", who, stack=name, shown=shown, parts=marked(shown.parts)))


async def diagnosis_events(request: Request) -> Response:
    """What further looks of a diagnosis find, as server-sent events; only the page begins one."""
    name = await _stack(request)
    return stream(request, site_of(request).diagnoses.follow(name), known=True)


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


def routes() -> list[Route]:
    """The routes of these pages, with what they have found out and share."""
    figures: AnswerCache[list[tuple[Trend, Markup]]] = AnswerCache(FRESH_S)

    async def trends(request: Request) -> Response:
        """How the figures of a runbook went from run to run."""
        site = site_of(request)
        who = site.reader(request)
        names = sorted(await run_in_threadpool(site.runs.last_of))
        asked = request.query_params.get("runbook", "")
        chosen = asked if asked in names else next(iter(names), "")
        found = await figures.of(chosen, lambda: _trends(site, chosen)) if chosen else []
        return HTMLResponse(site.page("trends.html", who, names=names, chosen=chosen, trends=found))

    return [
        *ROUTES,
        Route("/trends", trends),
        Route("/diagnosis/{stack}", diagnosis),
        Route("/diagnosis/{stack}/events", diagnosis_events),
    ]


def _trends(site: Site, runbook: str) -> list[tuple[Trend, Markup]]:
    history = History(site.store.home)
    metrics = [each.metric for each in history.metrics(name=runbook) if each.kind not in OF_STEPS][:SHOWN]
    measured = ((metric, history.points(metric, name=runbook)) for metric in metrics)
    found = [each for metric, points in measured if points for each in trends(metric, points)]
    return [(each, drawn(from_run_to_run(each.title, [point.value for point in each.points]))) for each in found]


class AnswerCache(Generic[T]):
    """A cache of answers by what was asked, each kept for some seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: OrderedDict[object, tuple[float, T]] = OrderedDict()
        self._making: dict[object, asyncio.Task[T]] = {}

    async def of(self, key: object, make: Callable[[], T]) -> T:
        """The answer to `key`; requests that wait for one in the making take no thread."""
        at, found = self._known.get(key, (0.0, None))
        if found is not None and time.monotonic() - at < self._seconds:
            return found
        if key not in self._making:
            self._making[key] = asyncio.create_task(self._make(key, make))
        return await asyncio.shield(self._making[key])

    async def _make(self, key: object, make: Callable[[], T]) -> T:
        try:
            made = await run_in_threadpool(make)
            self._known[key] = (time.monotonic(), made)
            self._known.move_to_end(key)
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
            return made
        finally:
            del self._making[key]


WIDTH = 560
MOST_FAR = 4
JOURNALS_KEPT = 4
"""Journals that are kept in memory."""
PERCENTILES = ("p50", "p95", "p99")
"""Those that stand beside the chart of a load."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A run up to a moment, as the panels of its page ask for it."""

    folder: Path
    view: RunView
    now: float
    state: str
    charts: Sequence[Chart]

    @classmethod
    def of(cls, folder: Path, events: Sequence[AnyEvent], at: float, store: Store) -> Moment:
        """The run at so many seconds after its start, and not later than its end."""
        known = [event for event in events if event.t <= at]
        over = any(isinstance(event, RunFinished) for event in known)
        last = events[-1].t if events else 0.0
        view = view_of(known)
        return cls(folder, view, min(at, last), "ended" if over else "running", charts_of(view, store))

    @property
    def clock(self) -> str:
        """The time of day of that moment."""
        begun = self.view.started
        if begun is None:
            return ""
        at = datetime.fromisoformat(begun.at) + timedelta(seconds=self.now - begun.t)
        return moment(at.isoformat(timespec="seconds"))


class Journals:
    """The journals of runs, read again when they have grown."""

    def __init__(self) -> None:
        self._known: OrderedDict[Path, tuple[int, list[AnyEvent]]] = OrderedDict()

    def of(self, folder: Path) -> list[AnyEvent]:
        """The events of a run."""
        size = (folder / JOURNAL).stat().st_size
        known = self._known.pop(folder, None)
        if known is None or known[0] != size:
            known = (size, list(read_journal(folder)))
        self._known[folder] = known
        if len(self._known) > JOURNALS_KEPT:
            self._known.popitem(last=False)
        return known[1]


def replay_routes(journals: Journals) -> list[Route]:
    """The routes of runs as they were."""

    def replay(request: Request) -> Response:
        """The presenter's view of a run at a moment: `?at=SECONDS` after its start."""
        site = site_of(request)
        who = site.reader(request)
        folder = site.runs.folder(request.path_params["run"])
        shown = Moment.of(folder, journals.of(folder), _seconds(request.query_params.get("at", "")), site.store)
        if shown.view.started is None:
            raise Denied(404, "The run had not started at that moment")
        parts = Drawing(PRESENTER, "", {}).changes(shown)
        values = {"run": folder.name, "view": shown.view, "shown": shown, "parts": marked(parts)}
        return HTMLResponse(site.page("replay.html", who, **values))

    def charts(request: Request) -> Response:
        """What a run measured, as charts alone: `?show=WORD` of those with a word in their titles, `?far` large."""
        site = site_of(request)
        who = site.reader(request)
        folder = site.runs.folder(request.path_params["run"])
        view = view_of(journals.of(folder))
        if view.started is None:
            raise Denied(404, "The run has not started yet", "try again in a moment")
        far = "far" in request.query_params
        word = request.query_params.get("show", "").lower()
        found = [
            each
            for each in _charted(view, charts_of(view, site.store))
            if word in each.title.lower() or word == each.kind
        ]
        found = found[:MOST_FAR] if far else found
        drawings = [(each.title, each.said, each.drawn(len(found) if far else 0)) for each in found]
        values = {"run": folder.name, "view": view, "far": far, "charts": drawings}
        return HTMLResponse(site.page("run_charts.html", who, **values))

    return [Route("/runs/{run}/replay", replay), Route("/runs/{run}/charts", charts)]


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        raise Denied(400, "?at= is a number of seconds after the start of the run") from None


class Charted(NamedTuple):
    """A chart that can be drawn.

    Attributes:
        said: What it says, in words.
        kind: `series` or `loads`.
        drawn: Draws it, given how many share the screen from afar; 0 for a page.
    """

    title: str
    said: str
    kind: str
    drawn: Callable[[int], Markup]


def _charted(view: RunView, known: Sequence[Chart]) -> Iterator[Charted]:
    """The charts of a run; what a demo is about comes first."""
    series = [each for each in view.measured.all(2) if each.moves and (is_watched(each) or each.count >= LEAST_POINTS)]
    span = _span(series)
    for each in sorted(series, key=is_watched, reverse=True):
        title, levels = titled(each, known)
        yield Charted(
            title, f"up to {written(each, levels, each.most)}", "series", partial(_course, view, each, levels, span)
        )
    for load in (each for each in view.loads() if each.counts):
        shown = [f"{name} {figure(value)} ms" for name, value in load.percentiles.items() if name in PERCENTILES]
        yield Charted(without_id(clean(load.step)), ", ".join(shown), "loads", partial(_answers, load))


def _course(
    view: RunView, series: Series, levels: Sequence[str], span: tuple[float | None, float | None], far: int
) -> Markup:
    marks = [each for each in marks_of(view) if not far or each.kind != "undone"]
    form = Form(width=WIDTH, far=far, levels=levels)
    return drawn(over_time(series, marks, form=form, begin=span[0], end=span[1]))


def _answers(load: Load, far: int) -> Markup:
    return drawn(load_pictures(load, far=far)[0])


def _span(series: Sequence[Series]) -> tuple[float | None, float | None]:
    """From the first to the last measurement of what people watch, so that its charts have one scale of time."""
    watched = [each for each in series if is_watched(each)]
    if not watched:
        return None, None
    return min(each.points[0][0] for each in watched), max(each.points[-1][0] for each in watched)
