"""How a metric developed from run to run, and whether it changed."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist, median
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.bench.baseline import MOST
from k2run.bench.regression import Drift, drift

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.evidence.history import Point

SURE = 0.05
"""A difference that chance alone brings about more rarely than this counts as shown."""
LEAST = 4
"""Figures on each side below which no test can show anything at that level (Mann-Whitney: 4 against 4 can)."""


class Difference(Struct, frozen=True, kw_only=True):
    """Figures of the newest runs compared with those of the runs before; both sides know how far runs differ.

    Attributes:
        runs: How many runs there are on both sides.
        ratio: Median of the second over that of the first; None where the first is 0.
        p: How likely such a difference is by chance alone (Mann-Whitney, two-sided); None with too few figures.
    """

    before: float
    after: float
    runs: int
    ratio: float | None
    p: float | None

    @property
    def shown(self) -> bool:
        """Whether it is more than chance."""
        return self.p is not None and self.p < SURE

    def says(self) -> str:
        """In words: `up 12 % (p = 0.003)`, `no difference beyond the spread of 9 runs (p = 0.41)`."""
        if self.p is None:
            return "not enough runs to tell"
        if not self.shown:
            return f"no difference beyond the spread of {self.runs} runs (p = {self.p:.2f})"
        way = "up" if self.after > self.before else "down"
        by = f" {100 * abs(self.ratio - 1):.0f} %" if self.ratio is not None else ""
        return f"{way}{by} (p = {self.p:.3f})" if self.p >= 0.001 else f"{way}{by} (p < 0.001)"  # noqa: PLR2004 - digits shown


def difference(before: Sequence[float], after: Sequence[float]) -> Difference:
    """Hold figures of the same thing against each other; neither side may be empty."""
    first, second = median(before), median(after)
    enough = min(len(before), len(after)) >= LEAST
    return Difference(
        before=first,
        after=second,
        runs=len(before) + len(after),
        ratio=second / first if first else None,
        p=_mann_whitney(before, after) if enough else None,
    )


def _mann_whitney(one: Sequence[float], other: Sequence[float]) -> float:
    """Two-sided p of the Mann-Whitney U test by its normal approximation, with corrections for ties and continuity."""
    ranks, ties = _ranks([*one, *other])
    n, m = len(one), len(other)
    u = sum(ranks[:n]) - n * (n + 1) / 2
    whole = n + m
    spread = n * m / 12 * (whole + 1 - ties / (whole * (whole - 1)))
    if spread <= 0:
        return 1.0
    z = max(0.0, abs(u - n * m / 2) - 0.5) / sqrt(spread)
    return 2 * (1 - NormalDist().cdf(z))


def _ranks(values: Sequence[float]) -> tuple[list[float], float]:
    """The rank of each value, those of equals shared; and the sum of t³ less t over all groups of equals."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks, ties, start = [0.0] * len(values), 0.0, 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for index in order[start:end]:
            ranks[index] = (start + 1 + end) / 2
        ties += (end - start) ** 3 - (end - start)
        start = end
    return ranks, ties


RECENT = 5
"""The newest runs, compared with those before them."""
BEFORE = 20


TIMED = frozenset({"run", "clock", "section", "step"})
"""Kinds of metric in which an operator's time is a part: those of attended and unattended runs are no one trend."""


class Trend(Struct, frozen=True, kw_only=True):
    """A metric over the runs that measured it, oldest first; there is at least one.

    Attributes:
        of: `attended` or `unattended` where only such runs can be compared with each other; else empty.
        change: The newest runs against those before them; None when there are too few to part.
        drift: A steady movement of the newest runs in one direction; None without one, or with too few runs.
    """

    metric: str
    points: list[Point]
    least: float
    middle: float
    most: float
    change: Difference | None
    drift: Drift | None = None
    of: str = ""

    @property
    def title(self) -> str:
        """The metric, and of which runs where that matters."""
        return f"{self.metric}, {self.of} runs" if self.of else self.metric

    @property
    def latest(self) -> Point:
        """The newest run."""
        return self.points[-1]

    def says(self) -> str:
        """How it changed: `last runs compared with earlier ones: up 12 % (p = 0.003)`; "" where nothing can be said."""
        change = f"last runs compared with earlier ones: {self.change.says()}" if self.change is not None else ""
        return "; ".join(part for part in (change, self.drift.says() if self.drift is not None else "") if part)


def trends(metric: str, points: Sequence[Point]) -> list[Trend]:
    """Sum up what the runs measured; times of attended and unattended runs apart, those like the newest run first."""
    newest = points[-1]
    if newest.kind not in TIMED:
        return [_trend(metric, points)]
    alike = [point for point in points if point.attended == newest.attended]
    others = [point for point in points if point.attended != newest.attended]
    if not others:
        return [_trend(metric, points)]
    return [_trend(metric, each, "attended" if each[0].attended else "unattended") for each in (alike, others)]


def _trend(metric: str, points: Sequence[Point], of: str = "") -> Trend:
    values = [point.value for point in points]
    recent, before = values[-RECENT:], values[-RECENT - BEFORE : -RECENT]
    return Trend(
        metric=metric,
        points=list(points),
        least=min(values),
        middle=median(values),
        most=max(values),
        change=difference(before, recent) if before else None,
        drift=drift(values[-MOST:]),
        of=of,
    )
