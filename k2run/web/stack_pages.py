"""The page of a stack: its services, and its metrics over time, read every second or asked of Prometheus."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from msgspec import Struct, field
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from k2run.actions.deadline import Deadline
from k2run.adapters.metrics import published
from k2run.adapters.prometheus import Prometheus, query_range
from k2run.app.launch import open_stack
from k2run.bench.latency import figure
from k2run.errors import K2runError
from k2run.evidence.html import Form, over_time
from k2run.evidence.measurements import Series
from k2run.language.quantities import Duration
from k2run.stack.model import Show
from k2run.stack.services import Services
from k2run.web.fragments import draw, drawn
from k2run.web.site import site_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from markupsafe import Markup
    from starlette.requests import Request

    from k2run.adapters.metrics import Exposition
    from k2run.engine.store import Store
    from k2run.stack.model import Chart
    from k2run.stack.stack import Stack

EVERY_S = 1.0
"""Seconds between two looks."""
SPAN_S = 900.0
"""Seconds that a chart reaches back."""
WINDOW_S = {Show.RATE: 5.0, Show.P50: 15.0, Show.P95: 15.0, Show.P99: 15.0}
"""Seconds over which rates and percentiles are taken: commits come in batches."""
KEPT_S = 600.0
"""Seconds without a reader after which nothing is read any more."""
PROMETHEUS_S = 5.0
"""Seconds between two questions to Prometheus, and between its points."""
PATIENCE_S = 2.0
GAP = 6
"""So many missing points interrupt a line."""
Raw = float | dict[float, float]
"""What one look says of one chart: a value, or the buckets of a histogram by their upper bound."""
WIDTH = 560
"""Of a chart in its own units; on a projector fewer, so that its text is larger."""
MOST_FAR = 6
"""Charts that fit on a projector together with the services."""
MINUTES = 300.0
"""Seconds of a chart from which on its times are written without seconds."""


class Course(Struct, kw_only=True):
    """One chart as far as it was seen.

    Attributes:
        series: Unix time in seconds, and value.
        source: Where the points are from.
        every: Seconds between two points.
        problem: Why nothing was seen at the last look; empty when something was.
    """

    chart: Chart
    series: Series
    source: str = ""
    every: float = EVERY_S
    problem: str = "no look yet"

    @property
    def unit(self) -> str:
        """What stands behind its figures."""
        if self.chart.show in {Show.P50, Show.P95, Show.P99} and self.chart.metric.endswith("_seconds"):
            return "ms"
        return f"{self.chart.unit or ''}/s" if self.chart.show is Show.RATE else self.chart.unit


class Looks(Struct, kw_only=True):
    """What own looks have seen of one chart.

    Attributes:
        raw: Monotonic seconds, and what was seen, as far back as a window reaches.
        points: Unix time in seconds, and value.
    """

    chart: Chart
    raw: deque[tuple[float, Raw]] = field(default_factory=deque)
    points: deque[tuple[float, float]] = field(default_factory=deque)
    problem: str = "no look yet"

    def take(self, exposition: Exposition, now: float, at: float) -> None:
        """Keep what a service publishes now; a missing series leaves a gap, never a zero."""
        seen = raw_of(exposition, self.chart)
        if seen is None:
            self.problem = f"{self.chart.metric} has no series at {exposition.address}"
            return
        self.problem = ""
        value = self._value(seen, now)
        if value is not None:
            self.points.append((at, value))
        while self.points and at - self.points[0][0] > SPAN_S:
            self.points.popleft()

    def _value(self, seen: Raw, now: float) -> float | None:
        if isinstance(seen, float) and self.chart.show is Show.VALUE:
            return seen
        window = WINDOW_S[self.chart.show]
        self.raw.append((now, seen))
        while len(self.raw) > 2 and now - self.raw[1][0] >= window:  # noqa: PLR2004 - one before the window stays
            self.raw.popleft()
        begun, before = self.raw[0]
        if now <= begun:
            return None
        if isinstance(seen, float) and isinstance(before, float):
            return (seen - before if seen >= before else seen) / (now - begun)
        assert isinstance(seen, dict) and isinstance(before, dict)  # noqa: S101, PT018 - of one chart
        grown = {bound: count - before.get(bound, 0.0) for bound, count in seen.items()}
        found = quantile(int(self.chart.show[1:]) / 100, seen if min(grown.values(), default=0) < 0 else grown)
        return found if found is None or not self.chart.metric.endswith("_seconds") else 1000 * found


def raw_of(exposition: Exposition, chart: Chart) -> Raw | None:
    """What a metrics page says of a chart; None where it has no series for it."""
    histogram = chart.show in {Show.P50, Show.P95, Show.P99}
    name = f"{chart.metric}_bucket" if histogram else chart.metric
    fitting = [each for each in exposition.series if each.name == name and chart.labels.items() <= each.labels.items()]
    if not fitting or any(math.isnan(each.value) for each in fitting):
        return None
    if not histogram:
        values = [float(each.value) for each in fitting]
        return max(values) if chart.levels else math.fsum(values)
    buckets: dict[float, float] = {}
    for each in fitting:
        bound = float(each.labels.get("le", "inf"))
        buckets[bound] = buckets.get(bound, 0.0) + each.value
    return buckets


def quantile(share: float, buckets: dict[float, float]) -> float | None:
    """The value below which a share of the observations lies, as Prometheus estimates it; None without any."""
    bounds = sorted(buckets)
    whole = buckets[bounds[-1]] if bounds else 0.0
    if whole <= 0:
        return None
    lower, under = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= share * whole:
            if math.isinf(bound):
                return lower
            inside = buckets[bound] - under
            return lower + (bound - lower) * ((share * whole - under) / inside if inside else 1.0)
        lower, under = bound, buckets[bound]
    return lower


def promql(chart: Chart, instance: str) -> str:
    """What Prometheus is asked for the same chart, of one instance only."""
    labels = {**chart.labels, "instance": instance}
    within = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    if chart.show is Show.VALUE:
        return f"{'max' if chart.levels else 'sum'}({chart.metric}{{{within}}})"
    if chart.show is Show.RATE:
        return f"sum(rate({chart.metric}{{{within}}}[30s]))"
    share = int(chart.show[1:]) / 100
    asked = f"histogram_quantile({share}, sum by (le) (rate({chart.metric}_bucket{{{within}}}[30s])))"
    return f"1000 * {asked}" if chart.metric.endswith("_seconds") else asked


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class StackWatch:
    """Looks at the metrics of one stack in a thread of its own, for as long as they are read.

    Args:
        open_: Opens the stack; again and again, so that a changed file counts.
    """

    def __init__(self, open_: Callable[[], Stack]) -> None:
        self._open = open_
        self._asked = 0.0
        self._lock = threading.Lock()
        self._looks: list[Looks] = []
        self._prometheus: dict[str, Series] = {}
        self._thread: threading.Thread | None = None
        self.problem = ""

    def courses(self) -> list[Course]:
        """What was seen so far; looking begins, or goes on."""
        with self._lock:
            self._asked = time.monotonic()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, name="stack watch", daemon=True)
                self._thread.start()
            return [self._course(each) for each in self._looks]

    def _course(self, looks: Looks) -> Course:
        chart = looks.chart
        known = self._prometheus.get(chart.title)
        if known is not None:
            return Course(chart=chart, series=known, source="Prometheus", every=PROMETHEUS_S, problem="")
        points = list(looks.points)
        series = _series(chart, points)
        return Course(chart=chart, series=series, source="k2run's own looks", problem=looks.problem)

    def _watch(self) -> None:
        asked = -math.inf
        while time.monotonic() - self._asked < KEPT_S:
            began = time.monotonic()
            try:
                stack = self._open()
                self._look(stack, stack.charts)
                if began - asked >= PROMETHEUS_S:
                    asked, self._prometheus = began, dict(_from_prometheus(stack, stack.charts))
                self.problem = ""
            except K2runError as error:
                self.problem = error.message
            except Exception:  # a defect must not leave a page that stands still and says nothing
                self.problem = "internal error of k2run: the log of `k2run serve` has it"
                logging.getLogger("k2run").exception("the watch of a stack")
            time.sleep(max(0.05, EVERY_S - (time.monotonic() - began)))

    def _look(self, stack: Stack, charts: Sequence[Chart]) -> None:
        if [each.chart for each in self._looks] != charts:
            known = {each.chart.title: each for each in self._looks if each.chart in charts}
            self._looks = [known.get(chart.title) or Looks(chart=chart) for chart in charts]
        pages: dict[str, Exposition | K2runError] = {}
        for name in dict.fromkeys(chart.service for chart in charts):
            try:
                pages[name] = published(Services(stack=stack), name, "", Deadline(PATIENCE_S))
            except K2runError as error:
                pages[name] = error
        now, at = time.monotonic(), time.time()
        with self._lock:
            for each in self._looks:
                page = pages[each.chart.service]
                if isinstance(page, K2runError):
                    each.problem = stack.redact(page.message)
                    each.raw.clear()
                else:
                    each.take(page, now, at)


def _from_prometheus(stack: Stack, charts: Sequence[Chart]) -> Iterator[tuple[str, Series]]:
    """What Prometheus knows of the charts; those of which it knows nothing are left to our own looks."""
    if Prometheus.key not in stack.connections or stack.unusable(Prometheus.key):
        return
    prometheus = stack.settings(Prometheus.key)
    connection = Prometheus(**prometheus) if prometheus is not None and "tls" not in prometheus else None
    for chart in charts if connection is not None else ():
        instance = urlsplit(stack.services[chart.service].metrics).netloc.rpartition("@")[2]
        if not instance or connection is None:
            continue
        try:
            query = promql(chart, instance)
            found = query_range(connection, Deadline(PATIENCE_S), query, Duration(SPAN_S), Duration(PROMETHEUS_S))
        except K2runError:
            continue
        points = found.series[0].points
        if len(found.series) == 1 and time.time() - points[-1][0] < 2 * PROMETHEUS_S:
            yield chart.title, _series(chart, points)


def _series(chart: Chart, points: list[tuple[float, float]]) -> Series:
    most = max((value for _, value in points), default=0.0)
    return Series(title=chart.title, unit=chart.unit, points=points, count=len(points), most=most)


class StackWatches:
    """The watches of all stacks, one for each that is read."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watches: dict[str, StackWatch] = {}

    def of(self, name: str) -> StackWatch:
        """The watch of a stack; it begins with the first question."""
        if name not in self._watches:
            self._watches[name] = StackWatch(lambda: open_stack(name, store=self._store))
        return self._watches[name]


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
    """The routes of these pages."""

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
        "charts": [_drawn(each, (len(courses) if show else MOST_FAR) if far else 0) for each in courses],
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


def _drawn(course: Course, far: int) -> DrawnChart:
    chart, series = course.chart, course.series
    if not series.points:
        return DrawnChart(title=chart.title, source=course.source, problem=course.problem)
    begin, end = series.points[0][0], series.points[-1][0]
    svg = over_time(
        series,
        [],
        form=Form(
            width=WIDTH,
            far=far,
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
