"""How measured values went during a run: series out of the journal, drawn as SVG."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from k2run.engine.events import FaultStruck, StepFinished, StepStarted, StepTried, UndoFinished
from k2run.evidence.html.element import Html, tag
from k2run.evidence.wording import span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.engine.events import AnyEvent

MEASURED = {
    "kafka.lag": ("total", ("group",), "messages behind"),
    "kafka.rate": ("per_s", ("topic",), "messages/s"),
    "kafka.watermarks": ("total", ("topic",), "messages"),
    "iceberg.rows": ("rows", ("table",), "rows"),
    "metrics.read": ("value", ("metric", "labels"), ""),
    "metrics.rate": ("per_s", ("metric", "labels"), "/s"),
    "prometheus.query": ("value", ("query",), ""),
}
"""Actions whose result is one number that moves: its field, the arguments that name it, its unit."""
FIRST = ("lag", "level")
"""What is drawn before everything else: what people watch during a demo."""
MOST = 6
"""Charts on a page."""
KEPT = 1200
"""Points of a series; beyond that every second one is dropped."""
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 420, 140, 46, 10, 22
_EXACT = 1000
"""From here on, decimals say nothing."""
_NICE = (1, 1.5, 2, 3, 4, 6, 8, 10)


@dataclass(slots=True)
class Series:
    """One value over time.

    Attributes:
        points: Seconds since the run started, and the value then.
    """

    name: str
    unit: str
    stepped: bool = False
    points: list[tuple[float, float]] = field(default_factory=list)

    def add(self, at: float, value: float) -> None:
        """Take in a measurement."""
        self.points.append((at, value))
        if len(self.points) > KEPT:
            del self.points[1:-1:2]

    @property
    def moves(self) -> bool:
        """Whether there is anything to draw."""
        values = {value for _, value in self.points}
        return len(self.points) > 1 and (len(values) > 1 or self.watched)

    @property
    def watched(self) -> bool:
        """Whether it is what people watch during a demo."""
        return any(word in self.name.lower() for word in FIRST)


class Course:
    """The measured values of one run; `fold` is the only writer."""

    def __init__(self) -> None:
        self._series: dict[str, Series] = {}
        self._of_step: dict[str, tuple[Series, str]] = {}
        self._marks: list[tuple[float, str]] = []

    def fold(self, event: AnyEvent) -> None:
        """Take in the next event of the journal."""
        match event:
            case StepStarted():
                self._begin(event)
            case StepTried() | StepFinished():
                series, measure = self._of_step.get(event.step, (None, ""))
                value = event.result.get(measure) if isinstance(event.result, dict) else None
                if series is not None and isinstance(value, int | float) and not isinstance(value, bool):
                    series.add(event.t, float(value))
            case FaultStruck():
                self._marks.append((event.began or event.t, "fault"))
            case UndoFinished():
                self._marks.append((event.t, "undo"))

    def drawn(self) -> list[Series]:
        """The series worth a chart, lag and level first."""
        moving = [series for series in self._series.values() if series.moves]
        return sorted(moving, key=lambda series: not series.watched)[:MOST]

    def charts(self) -> Iterator[tuple[Series, Html]]:
        """Each series with its picture."""
        for series in self.drawn():
            yield series, chart(series, self._marks)

    def _begin(self, event: StepStarted) -> None:
        measured = MEASURED.get(event.action)
        if measured is None:
            return
        value, names, unit = measured
        parts = [_short(event.args[name]) for name in names if event.args.get(name)]
        name = " ".join(parts) or event.name
        label = f"lag of {name}" if event.action == "kafka.lag" else name
        series = self._series.setdefault(
            f"{event.action} {name}", Series(name=label, unit=unit, stepped="level" in name)
        )
        self._of_step[event.step] = (series, value)


def chart(series: Series, marks: list[tuple[float, str]]) -> Html:
    """A line over time, with what was broken and put back meanwhile."""
    begin, end = series.points[0][0], series.points[-1][0]
    length = max(end - begin, 0.001)
    top = _ceiling(max(value for _, value in series.points))
    low = min(0.0, *(value for _, value in series.points))

    def x(at: float) -> float:
        return round(_LEFT + (at - begin) / length * (_WIDTH - _LEFT - 8), 1)

    def y(value: float) -> float:
        return round(_TOP + (1 - (value - low) / (top - low)) * (_HEIGHT - _TOP - _BOTTOM), 1)

    lines = [_level(y(value), _compact(value)) for value in (low, (low + top) / 2, top)]
    seen = [(at, kind) for at, kind in marks if begin <= at <= end]
    struck = [tag("line", x1=x(at), x2=x(at), y1=_TOP, y2=_HEIGHT - _BOTTOM, class_=kind) for at, kind in seen]
    last = series.points[-1]
    return tag(
        "svg",
        tag("title", f"{series.name}: {_compact(last[1])} {series.unit}, between {span(begin)} and {span(end)}"),
        *lines,
        *struck,
        tag("path", "", d=_path([(x(at), y(value)) for at, value in series.points], stepped=series.stepped)),
        tag("circle", "", cx=x(last[0]), cy=y(last[1]), r=4),
        tag("text", span(begin), x=_LEFT, y=_HEIGHT - 6),
        tag("text", span(end), x=_WIDTH - 8, y=_HEIGHT - 6, class_="end"),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        class_="chart",
    )


def latest(series: Series) -> str:
    """The newest value, for people."""
    value = series.points[-1][1]
    return f"{value:,.0f}" if value.is_integer() or abs(value) >= _EXACT else f"{value:.4g}"


def _level(y: float, label: str) -> Html:
    line = tag("line", x1=_LEFT, x2=_WIDTH - 8, y1=y, y2=y, class_="grid")
    return Html(line + tag("text", label, x=_LEFT - 8, y=y + 4.5, class_="end"))


def _path(points: list[tuple[float, float]], *, stepped: bool) -> str:
    (x, y), rest = points[0], points[1:]
    return f"M{x} {y}" + "".join(f"H{x}V{y}" if stepped else f"L{x} {y}" for x, y in rest)


def _ceiling(value: float) -> float:
    """The next round number."""
    if value <= 0:
        return 1.0
    power = 10.0 ** (len(f"{value:.0f}") - 1) if value >= 1 else 0.1
    return next((nice * power for nice in _NICE if nice * power >= value), value)


def _compact(value: float) -> str:
    """A figure that fits beside an axis: `600k`, `1.5M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={entry}" for name, entry in value.items())
    return str(value)
