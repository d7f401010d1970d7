"""The charts of a run as text, for a terminal without a browser."""

from __future__ import annotations

from itertools import pairwise
from math import log10
from typing import TYPE_CHECKING

from k2run.bench.latency import figure, in_ms
from k2run.evidence.trend import sparkline
from k2run.evidence.wording import clean, count, span

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k2run.evidence.measurements import Load, Series
    from k2run.evidence.view import RunView

ROWS = 12
"""Bars of a histogram."""
BARS = "▏▎▍▌▋▊▉█"
"""Eighths of a letter."""
LABEL = 10
LEAST_BAR = 10


def plots(view: RunView, width: int) -> list[str]:
    """A histogram for each load, and a line for each series, in the order of the run.

    Args:
        view: The run.
        width: Letters of a line.
    """
    drawn = [
        *(_series(each, width) for each in view.measured.all() if each.moves),
        *(_load(each, width) for each in view.loads()),
    ]
    return [line for plot in drawn for line in (*plot, "")][:-1]


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
