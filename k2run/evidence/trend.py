"""How a figure went from run to run, and whether it changed."""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.evidence.difference import Difference, difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.evidence.history import Point

RECENT = 5
"""The newest runs, which are held against the ones before."""
BEFORE = 20
_BARS = "▁▂▃▄▅▆▇█"


class Trend(Struct, frozen=True, kw_only=True):
    """A metric over the runs that measured it, oldest first; there is at least one.

    Attributes:
        change: The newest runs against those before them; None when there are too few to part.
    """

    metric: str
    points: list[Point]
    least: float
    middle: float
    most: float
    change: Difference | None

    @property
    def latest(self) -> Point:
        """The newest run."""
        return self.points[-1]


def trend(metric: str, points: Sequence[Point]) -> Trend:
    """Sum up what the runs measured."""
    values = [point.value for point in points]
    recent, before = values[-RECENT:], values[-RECENT - BEFORE : -RECENT]
    return Trend(
        metric=metric,
        points=list(points),
        least=min(values),
        middle=median(values),
        most=max(values),
        change=difference(before, recent) if before else None,
    )


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as a row of bars; where there are more than fit, each bar is the median of its share."""
    if len(values) > width:
        edges = [round(number * len(values) / width) for number in range(width + 1)]
        values = [median(values[start:end]) for start, end in pairwise(edges)]
    least, most = min(values), max(values)
    if most == least:
        return _BARS[3] * len(values)
    return "".join(_BARS[round((len(_BARS) - 1) * (value - least) / (most - least))] for value in values)
