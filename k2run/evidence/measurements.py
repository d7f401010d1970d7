"""What a run measured over time: series of one value each, latencies of loads; their plots in a terminal."""

from __future__ import annotations

import re
from itertools import pairwise
from math import log10
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, field

from k2run.bench.latency import counts, figure, in_ms
from k2run.engine.events import StepFinished, StepStarted, StepTried
from k2run.evidence.wording import clean, count, span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from k2run.stack.model import Chart

LEAST_POINTS = 4
"""Points below which a chart says no more than the table of steps."""
KEPT = 1200
"""Points kept of a series; beyond that, every second one is dropped."""
LEVELS = 10
"""Distinct whole values up to which a series is drawn as stairs."""
_MEASURED = {
    "kafka.lag": ("total", "lag of", "messages"),
    "kafka.rate": ("per_s", "rate of", "messages/s"),
    "kafka.watermarks": ("total", "messages in", "messages"),
    "iceberg.rows": ("rows", "rows of", "rows"),
    "metrics.read": ("value", "", ""),
    "metrics.rate": ("per_s", "rate of", "/s"),
    "prometheus.query": ("value", "", ""),
}
"""Actions whose result is one number that moves: its field, the start of the title, its unit.

Of any other action, the field that the step's expectation names is followed.
"""
_TITLE_ARGS = ("metric", "query", "service", "topic", "group", "table", "labels")
_NO_IDENTITY = frozenset({"window"})
"""Arguments that change how a value is measured, not which."""
_FIELD = re.compile(r"\bresult\.([a-z_]\w*)")
ROWS = 12
"""Bars of a histogram."""
BARS = "▏▎▍▌▋▊▉█"
"""Eighths of a letter."""
_BARS = "▁▂▃▄▅▆▇█"
LABEL = 10
LEAST_BAR = 10

_METRIC = re.compile(r"\b[a-z][a-z0-9]*(?:_[a-z0-9]+)+\b")


class Series(Struct, kw_only=True):
    """One value over time, measured by one step or by several that ask the same.

    Attributes:
        points: Seconds into the run, and the value; every second one where there are more than `KEPT`.
        count: How often it was measured.
        most: The largest value.
        lines: The first and last journal line of the measurements.
    """

    title: str
    unit: str = ""
    points: list[tuple[float, float]] = field(default_factory=list)
    count: int = 0
    most: float = 0.0
    lines: tuple[int, int] = (0, 0)

    def add(self, seq: int, at: float, value: float) -> None:
        """Add a measurement."""
        self.most = max(self.most, value) if self.count else value
        self.lines = (self.lines[0] if self.count else seq, seq)
        self.count += 1
        self.points.append((at, value))
        if len(self.points) > KEPT:
            del self.points[1:-1:2]

    @property
    def latest(self) -> float:
        """The newest value."""
        return self.points[-1][1]

    @property
    def moves(self) -> bool:
        """Whether its values differ."""
        return len({value for _, value in self.points}) > 1

    @property
    def stairs(self) -> bool:
        """Whether a value holds until the next one, as that of a level does."""
        values = {value for _, value in self.points}
        return len(values) <= LEVELS and all(value == int(value) for value in values)


class Measurements(Struct):
    """The series of one run. `begin` and `take` are its only writers."""

    _series: dict[str, Series] = field(default_factory=dict)
    _started: dict[str, StepStarted] = field(default_factory=dict)
    _tried: dict[str, list[StepTried]] = field(default_factory=dict)

    def begin(self, event: StepStarted) -> None:
        """A step starts."""
        self._started[event.step] = event

    def take(self, event: StepTried | StepFinished) -> None:
        """A step has a result, at an attempt or at its end."""
        started = self._started.get(event.step)
        if started is None:
            return
        if started.action in _MEASURED:
            self._add(started, _MEASURED[started.action][0], event)
        elif isinstance(event, StepTried):
            self._tried.setdefault(event.step, []).append(event)
        else:
            self._add_expected(started, event)
        if isinstance(event, StepFinished):
            del self._started[event.step]

    def all(self, least: int = LEAST_POINTS) -> list[Series]:
        """The series with at least so many points, in the order in which they began."""
        return [each for each in self._series.values() if each.count >= least]

    def _add_expected(self, started: StepStarted, finished: StepFinished) -> None:
        """Add the field that the expectation names; only the end of a step says what was expected."""
        tried: list[StepTried | StepFinished] = [*self._tried.pop(finished.step, []), finished]
        fields: list[str] = _FIELD.findall(finished.expected)
        name = next((name for name in fields if _number(finished.result, name) is not None), "")
        for each in tried if name else []:
            self._add(started, name, each)

    def _add(self, started: StepStarted, name: str, event: StepTried | StepFinished) -> None:
        value = _number(event.result, name)
        if value is None:
            return
        args = {key: arg for key, arg in started.args.items() if key not in _NO_IDENTITY}
        key = f"{started.action} {name} {msgspec.json.encode(args, enc_hook=str).decode()}"
        if key not in self._series:
            unit = _MEASURED[started.action][2] if started.action in _MEASURED else ""
            self._series[key] = Series(title=_title(started, name), unit=unit)
        self._series[key].add(event.seq, event.t, value)


def _number(result: Any, name: str) -> float | None:
    value = result.get(name) if isinstance(result, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _title(started: StepStarted, name: str) -> str:
    """Such as `lag of orders, writers`; `http.get status, api` for other actions."""
    given = [_given(started.args[key]) for key in _TITLE_ARGS if started.args.get(key)]
    about = ", ".join(given) or started.name
    if started.action in _MEASURED:
        return clean(f"{_MEASURED[started.action][1]} {about}".strip())
    return clean(f"{started.action} {name}, {about}")


def _given(value: Any) -> str:
    return " ".join(f"{name}={entry}" for name, entry in value.items()) if isinstance(value, dict) else str(value)


class Load(Struct, frozen=True, kw_only=True):
    """The latencies that one step measured.

    Attributes:
        line: Of the journal.
        counts: Milliseconds, ascending, and how many answers took so long; empty when the histogram is damaged.
        percentiles: Milliseconds of each that the samples carry: `p50`, `p99.9`.
        not_measured: Why others are missing.
    """

    step: str
    line: int
    counts: list[tuple[float, int]]
    percentiles: dict[str, float]
    not_measured: str

    @property
    def answers(self) -> int:
        """How many there are."""
        return sum(number for _, number in self.counts)

    def says(self) -> str:
        """Such as `p50 5.1 ms, p99 7.9 ms`."""
        told = ", ".join(f"{name} {in_ms(value)}" for name, value in self.percentiles.items())
        return told or "too few samples for any percentile"


def loads_of(steps: Iterable[tuple[str, StepFinished]]) -> Iterator[Load]:
    """The loads among steps, given as their names and ends."""
    for name, finished in steps:
        result = finished.result
        if isinstance(result, dict) and result.get("histogram") and result.get("percentiles"):
            yield Load(
                step=name,
                line=finished.seq,
                counts=_counts(str(result["histogram"])),
                percentiles=_named(result["percentiles"]),
                not_measured=str(result.get("not_measured") or ""),
            )


def _counts(histogram: str) -> list[tuple[float, int]]:
    try:
        return counts(histogram)
    except Exception:  # noqa: BLE001 - a damaged histogram must not cost the rest of the report
        return []


def _named(percentiles: dict[str, Any]) -> dict[str, float]:
    known = {name: each.get("value_ms") for name, each in percentiles.items()}
    return {name.replace("999", "99.9"): value for name, value in known.items() if value is not None}


def plots(measured: Iterable[Series], loads: Iterable[Load], width: int) -> list[str]:
    """A histogram for each load, and a line for each series, in the order of the run.

    Args:
        measured: What the run measured over time; what did not move is left out.
        loads: Its loads.
        width: Letters of a line.
    """
    drawn = [
        *(_series(each, width) for each in measured if each.moves),
        *(_load(each, width) for each in loads),
    ]
    return [line for plot in drawn for line in (*plot, "")][:-1]


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as a row of bars; where there are more than fit, each bar is the median of its share."""
    if len(values) > width:
        from statistics import median  # every run imports this module

        edges = [round(number * len(values) / width) for number in range(width + 1)]
        values = [median(values[start:end]) for start, end in pairwise(edges)]
    least, most = min(values), max(values)
    if most == least:
        return _BARS[3] * len(values)
    return "".join(_BARS[round((len(_BARS) - 1) * (value - least) / (most - least))] for value in values)


def _series(each: Series, width: int) -> list[str]:
    """A value over time, on a scale of its own; each letter stands for the same time."""
    begins, ends = each.points[0][0], each.points[-1][0]
    first, most, last = (_figure(value) for value in (each.points[0][1], each.most, each.latest))
    row = sparkline(_evenly(each.points, min(width - 2, 80)), width)
    return [
        each.title,
        f"  {row}",
        f"  first {first}, highest {most}, last {last}; from {span(begins)} to {span(ends)} into the run",
    ]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else figure(value, 4)


def _evenly(points: Sequence[tuple[float, float]], many: int) -> list[float]:
    """The value that held at each of so many moments, equally far apart."""
    begins, ends = points[0][0], points[-1][0]
    moments = [begins + (ends - begins) * place / (many - 1) for place in range(many)]
    later = iter([*pairwise(points), (points[-1], (float("inf"), 0.0))])
    (_, value), (until, _) = next(later)
    held = []
    for moment in moments:
        while moment >= until:
            (_, value), (until, _) = next(later)
        held.append(value)
    return held


def _load(load: Load, width: int) -> list[str]:
    if not load.counts:
        return [clean(load.step), "  no latencies to draw"]
    heading = f"{clean(load.step)}: {load.says()}, of {count(load.answers, 'answer')}"
    return [heading, *_histogram(load, width)]


def _histogram(load: Load, width: int) -> Iterator[str]:
    """Rows of a logarithmic scale of milliseconds, with the percentiles beside the row that they lie in."""
    low, high = log10(load.counts[0][0]), log10(load.counts[-1][0])
    step = (high - low) / ROWS or 0.1
    rows = [0] * ROWS
    marks: list[list[str]] = [[] for _ in rows]
    for value, number in load.counts:
        rows[_row(value, low, step)] += number
    for name, value in load.percentiles.items():
        marks[_row(value, low, step)].append(name)
    room = max(LEAST_BAR, min(60, width - LABEL - 24))
    for place, number in enumerate(rows):
        upper = in_ms(10 ** (low + (place + 1) * step))
        bar = _bar(number / max(rows), room)
        yield f"{upper:>{LABEL}} {bar} {number:,}{'  ← ' + ', '.join(marks[place]) if marks[place] else ''}"


def _row(value: float, low: float, step: float) -> int:
    return max(0, min(ROWS - 1, int((log10(value) - low) / step)))


def _bar(share: float, room: int) -> str:
    eighths = round(share * room * len(BARS))
    if share and not eighths:
        eighths = 1  # few are not none
    whole, rest = divmod(eighths, len(BARS))
    return BARS[-1] * whole + (BARS[rest - 1] if rest else "")


def titled(series: Series, known: Iterable[Chart]) -> tuple[str, Sequence[str]]:
    """A title for people, and the names of its levels: those of the stack's chart of the same metric."""
    words = series.title.replace(",", " ").split()
    for chart in known:
        if chart.metric in words:
            return chart.title, chart.levels
    said = _METRIC.sub(
        lambda metric: metric[0].removesuffix("_total").replace("_", " "), series.title.partition(",")[0]
    )
    return said[:1].upper() + said[1:], ()


def written(series: Series, levels: Sequence[str], value: float) -> str:
    """A value of a series with its unit, or as the level that it stands for."""
    return levels[int(value)] if value in range(len(levels)) else f"{figure(value, 4)} {series.unit}".strip()


def at_place(value: Any, field: str) -> Any:
    """The value at a place such as `result.percentiles.p99`; names with dots in them are tried whole first."""
    if not field:
        return value
    if isinstance(value, dict) and field in value:
        return value[field]
    head, _, rest = field.partition(".")
    if isinstance(value, list):
        return at_place(value[int(head)], rest) if head.isdigit() and int(head) < len(value) else None
    return at_place(value[head], rest) if isinstance(value, dict) and head in value else None
