"""The pages that look further: how figures went from run to run, and what is wrong with a stack."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from k2run.actions.catalogue import Catalogue
from k2run.errors import UsageError
from k2run.evidence.history import OF_STEPS, History
from k2run.evidence.html.element import tag
from k2run.evidence.trend import Trend, trend
from k2run.faces.diagnose import lines_of, recovery_runbooks
from k2run.faces.launch import open_stack
from k2run.faces.web.parts import drawn
from k2run.faces.web.site import site_of
from k2run.recovery.diagnosis import Diagnosis, diagnose

if TYPE_CHECKING:
    from markupsafe import Markup
    from starlette.requests import Request

    from k2run.faces.web.site import Site

SHOWN = 40
"""Figures on a page of trends."""
FRESH_S = 10.0
"""Seconds for which a diagnosis is shown to everybody who asks: it looks at real services."""
_WIDTH, _HEIGHT, _EDGE = 240, 48, 4


class Diagnoses:
    """Diagnoses of stacks, one at a time, each kept for a moment."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Diagnosis]] = {}
        self._lock = threading.Lock()

    def of(self, site: Site, name: str) -> Diagnosis:
        """The diagnosis of a stack."""
        with self._lock:
            known = self._known.get(name)
            if known is None or time.monotonic() - known[0] > FRESH_S:
                catalogue = Catalogue()
                found = diagnose(recovery_runbooks(catalogue), open_stack(name, store=site.store), catalogue)
                known = self._known[name] = (time.monotonic(), found)
            return known[1]


def trends(request: Request) -> Response:
    """How the figures of a runbook went from run to run."""
    site = site_of(request)
    who = site.reader(request)
    names = sorted(site.runs.last_of())
    asked = request.query_params.get("runbook", "")
    chosen = asked if asked in names else next(iter(names), "")
    found = _trends(site, chosen) if chosen else []
    values = {"names": names, "chosen": chosen, "trends": [(each, picture(each)) for each in found]}
    return HTMLResponse(site.page("trends.html", who, **values))


def picture(found: Trend) -> Markup:
    """A figure from run to run, as a line."""
    values = [point.value for point in found.points]
    width = (_WIDTH - 2 * _EDGE) / max(1, len(values) - 1)
    height = (_HEIGHT - 2 * _EDGE) / ((found.most - found.least) or 1.0)
    spots = [
        (round(_EDGE + at * width, 1), round(_HEIGHT - _EDGE - (value - found.least) * height, 1))
        for at, value in enumerate(values)
    ]
    x, y = spots[-1]
    line = tag("path", "", d="M" + "L".join(f"{left} {top}" for left, top in spots))
    title = tag("title", f"{found.metric} over {len(values)} runs")
    spot = tag("circle", "", cx=x, cy=y, r=3.5)
    return drawn(tag("svg", title, line, spot, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", class_="chart"))


def routes() -> list[Route]:
    """The routes of these pages, with the diagnoses that they share."""
    diagnoses = Diagnoses()

    def diagnosis(request: Request) -> Response:
        site = site_of(request)
        who = site.reader(request)
        name = request.path_params["stack"]
        if name not in site.shelf.stack_names():
            raise UsageError("there is no such stack", hint="the first page lists them")
        found = diagnoses.of(site, name)
        text = "\n".join(lines_of(found))
        return HTMLResponse(site.page("diagnosis.html", who, stack=name, found=found, text=text))

    return [Route("/trends", trends), Route("/diagnosis/{stack}", diagnosis)]


def _trends(site: Site, runbook: str) -> list[Trend]:
    history = History(site.store.home)
    metrics = [each.metric for each in history.metrics(name=runbook) if each.kind not in OF_STEPS][:SHOWN]
    return [trend(metric, points) for metric in metrics if (points := history.points(metric, name=runbook))]
