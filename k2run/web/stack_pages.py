"""The page of a stack: its services, and its metrics over time; with large text for a projector."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from k2run.bench.latency import figure
from k2run.evidence.html.charts import Form, over_time
from k2run.web.fragments import drawn
from k2run.web.site import site_of
from k2run.web.stack_watch import GAP, StackWatches
from k2run.web.templating import draw

if TYPE_CHECKING:
    from markupsafe import Markup
    from starlette.requests import Request

    from k2run.web.stack_watch import Course

WIDTH, FAR_WIDTH = 560, 420
"""Of a chart in its own units; on a projector fewer, so that its text is larger."""
MOST_FAR = 6
"""Charts that fit on a projector together with the services."""
MINUTES = 300.0
"""Seconds of a chart from which on its times are written without seconds."""


class DrawnChart(Struct, frozen=True, kw_only=True):
    """One chart of the page.

    Attributes:
        latest: The newest value, with its unit; empty while there is none.
        problem: Why nothing is seen now.
    """

    title: str
    source: str
    latest: str = ""
    svg: Markup | None = None
    problem: str = ""


def routes(watches: StackWatches) -> list[Route]:
    """The routes of these pages.

    Args:
        watches: What looks at the metrics.
    """

    def stack(request: Request) -> Response:
        """A stack."""
        values = _values(request, watches)
        return HTMLResponse(site_of(request).page("stack.html", site_of(request).reader(request), **values))

    def live(request: Request) -> Response:
        """The part of the page that refreshes itself."""
        return HTMLResponse(draw("stack_live.html", **_values(request, watches)))

    return [Route("/stacks/{stack}", stack), Route("/stacks/{stack}/live", live)]


def _values(request: Request, watches: StackWatches) -> dict[str, Any]:
    site = site_of(request)
    site.reader(request)
    health = site.catalogue.health(request.path_params["stack"])
    watch = watches.of(health.name)
    far = "far" in request.query_params
    show = request.query_params.get("show", "")
    courses = _chosen(watch.courses(), show, far=far)
    return {
        "stack": health,
        "far": far,
        "show": show,
        "query": f"?{request.url.query}" if request.url.query else "",
        "charts": [_drawn(each, FAR_WIDTH if far else WIDTH) for each in courses],
        "problem": watch.problem,
        "at": datetime.now(UTC).strftime("%H:%M:%S UTC"),
    }


def _chosen(courses: list[Course], show: str, *, far: bool) -> list[Course]:
    """The charts that are asked for by their numbers from 1; without numbers all, or as many as fit."""
    numbers = [int(each) for each in show.split(",") if each.isdecimal() and len(each) < 4]  # noqa: PLR2004 - digits
    if show == "services":
        return []
    if numbers:
        return [courses[number - 1] for number in numbers if 0 < number <= len(courses)]
    return courses[:MOST_FAR] if far else courses


def _drawn(course: Course, width: int) -> DrawnChart:
    chart, series = course.chart, course.series
    if not series.points:
        return DrawnChart(title=chart.title, source=course.source, problem=course.problem)
    begin, end = series.points[0][0], series.points[-1][0]
    svg = over_time(
        series,
        [],
        form=Form(
            width=width,
            far=width == FAR_WIDTH,
            labels=_clock if end - begin < MINUTES else _minutes,
            levels=chart.levels,
            gap=GAP * course.every,
        ),
    )
    value = series.latest
    named = chart.levels[int(value)] if chart.levels and value in range(len(chart.levels)) else ""
    latest = named or f"{figure(value)} {course.unit}".replace(" /s", "/s").strip()
    if course.problem:
        latest = ""  # the newest point is an old one
    return DrawnChart(title=chart.title, source=course.source, latest=latest, svg=drawn(svg), problem=course.problem)


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")


def _minutes(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M")
