"""A run as it was at a moment, and its charts alone: what a presenter shows when the run itself has ended."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from k2run.bench.latency import figure
from k2run.engine.events import RunFinished
from k2run.engine.journal import JOURNAL, read_journal
from k2run.evidence.drawings import load_pictures
from k2run.evidence.html import Form, marks_of, over_time
from k2run.evidence.measurements import LEAST_POINTS, titled, written
from k2run.evidence.view import view_of
from k2run.evidence.wording import clean, moment, without_id
from k2run.web.feed import charts_of
from k2run.web.fragments import PRESENTER, Drawing, drawn, is_watched
from k2run.web.site import Denied, site_of

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

WIDTH = 560
MOST_FAR = 4
KEPT = 4
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
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        return known[1]


def routes(journals: Journals) -> list[Route]:
    """The routes of these pages.

    Args:
        journals: Where they come from.
    """

    def replay(request: Request) -> Response:
        """The presenter's view of a run at a moment: `?at=SECONDS` after its start."""
        site = site_of(request)
        who = site.reader(request)
        folder = site.runs.folder(request.path_params["run"])
        shown = Moment.of(folder, journals.of(folder), _seconds(request.query_params.get("at", "")), site.store)
        if shown.view.started is None:
            raise Denied(404, "The run had not started at that moment")
        parts = Drawing(PRESENTER, "", {}).changes(shown)
        values = {"run": folder.name, "view": shown.view, "shown": shown, "parts": _marked(parts)}
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


def _marked(parts: dict[str, str]) -> dict[str, Markup]:
    return {key: drawn(html) for key, html in parts.items()}


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
