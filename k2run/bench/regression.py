"""Whether figures of runs differ, or only as much as runs differ from each other by themselves: of loads, of metrics.

What one run measures varies within the run (other requests would have given another p99) and from run to run (another
day, a busy neighbour). The second is mostly the larger part, and no single run knows it: it comes from the runs before.
"""

from __future__ import annotations

from math import atan, cos, exp, log, pi, sin, sqrt
from statistics import NormalDist, fmean, linear_regression, median, variance
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.bench.latency import Z95, Percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

SURE = 0.05
"""A difference that chance alone brings about more rarely than this is one."""
SURE_OF_DRIFT = 0.01
"""The same of a drift, which is looked for beside the difference."""
FEWEST = 3
"""Runs from which on their own spread is known; two figures may be alike by chance."""
ASSUMED = 0.1
"""Spread between runs (standard deviation, as a share) where there are fewer: what a shared machine easily shows."""
RESOLUTION = 0.001
"""Share by which figures differ because they are kept in three digits."""
RATE = "rate"
"""The figure of a load that is no latency."""
FEWEST_FOR_DRIFT = 5
"""Runs from which on a drift is told from chance."""
MOST = 10
"""Runs that make a baseline: enough to know how far runs differ by themselves, few enough to be of the same time."""


class Sample(Struct, frozen=True, kw_only=True):
    """A figure of one run, above 0.

    Attributes:
        value: Milliseconds, or a rate a second.
        error: Its standard error within the run, as a share.
    """

    value: float
    error: float


class Change(Struct, frozen=True, kw_only=True):
    """How a figure changed from earlier runs to a later one.

    Attributes:
        name: Which figure: p50 …, or rate.
        before: What it was, the geometric mean of several runs.
        after: What it is.
        ratio: After over before.
        low: Lower end of the interval that the ratio lies in by chance alone around what was measured.
        high: Its upper end.
        runs: Earlier runs that the spread between runs is known from.
    """

    name: str
    before: float
    after: float
    ratio: float
    low: float
    high: float
    runs: int

    @property
    def shown(self) -> bool:
        """Whether it is more than runs differ by themselves."""
        return self.low > 1 or self.high < 1

    @property
    def is_weak(self) -> bool:
        """Whether the spread between runs is assumed, because there are too few of them."""
        return self.runs < FEWEST

    def says(self) -> str:
        """In words: `+12 %, slower (+8 % to +17 %), beyond the spread of 8 runs`."""
        interval = f"({percent(self.low)} to {percent(self.high)})"
        if self.shown:
            return f"{percent(self.ratio)}, {self._way()} {interval}, beyond {self._spread()}"
        if self.is_weak:
            return f"not enough runs to tell: {percent(self.ratio)} {interval} with {self._spread()}"
        return f"no difference beyond {self._spread()} {interval}"

    def _way(self) -> str:
        if self.name == RATE:
            return "higher" if self.ratio > 1 else "lower"
        return "slower" if self.ratio > 1 else "faster"

    def _spread(self) -> str:
        if not self.is_weak:
            return f"the spread of {self.runs} runs"
        return f"the {ASSUMED:.0%} assumed between runs, {self.runs} of which {'is' if self.runs == 1 else 'are'} known"


class Drift(Struct, frozen=True, kw_only=True):
    """A figure that goes one way from run to run.

    Attributes:
        each: By how much it changes from one run to the next, as a ratio.
        whole: By how much it has changed from the first of the runs to the last one.
        runs: How many they are.
    """

    each: float
    whole: float
    runs: int

    def says(self) -> str:
        """In words: `drifting: +8 % a run over the last 10 runs, +100 % in all`."""
        return f"drifting: {percent(self.each)} a run over the last {self.runs} runs, {percent(self.whole)} in all"


def change(name: str, before: Sequence[Sample], after: Sample, spread: Sequence[Sample], *, among: int = 1) -> Change:
    """How a figure changed, with the interval that the spread between runs leaves.

    The logarithms of a figure over the runs are taken as normal; the interval is the prediction interval of one more
    run, ȳ ± t(n-1) s √(1/m + 1) (Hahn and Meeker, Statistical Intervals, 1991, section 4.7), with s from the n runs of
    `spread` and ȳ over the m runs of `before`. Where the later run has fewer samples than those, its larger error
    within the run is added. With fewer runs than `FEWEST`, `ASSUMED` stands for what their spread would tell.

    Args:
        name: Which figure.
        before: The earlier runs that it is compared with.
        after: The later run.
        spread: Runs that should be alike; their spread is what runs differ by themselves.
        among: How many figures of the load are told together: all of them hold at once in 95 of 100 cases (Bonferroni).
    """
    within = max(fmean(one.error**2 for one in spread), RESOLUTION**2)
    if len(spread) < FEWEST:
        between, far = ASSUMED**2 + within, NormalDist().inv_cdf(1 - SURE / among / 2)
    else:
        between = max(variance(log(one.value) for one in spread), within)
        far = quantile(SURE / among, len(spread) - 1)
    half = far * sqrt(between * (1 + 1 / len(before)) + max(0.0, after.error**2 - within))
    mean = fmean(log(one.value) for one in before)
    by = log(after.value) - mean
    return Change(
        name=name,
        before=exp(mean),
        after=after.value,
        ratio=exp(by),
        low=exp(by - half),
        high=exp(by + half),
        runs=len(spread),
    )


def drift(values: Sequence[float]) -> Drift | None:
    """Where figures above 0, oldest first, go one way: how fast. None where chance explains it, or they are too few.

    A line through the logarithms, by least squares; its slope is compared with its standard error (Student's t with
    n - 2 degrees of freedom).
    """
    runs = len(values)
    if runs < FEWEST_FOR_DRIFT or min(values) <= 0:
        return None
    logs = [log(value) for value in values]
    slope, start = linear_regression(range(runs), logs)
    rest = sum((one - start - slope * at) ** 2 for at, one in enumerate(logs)) / (runs - 2)
    error = sqrt(max(rest, RESOLUTION**2) / (runs * (runs**2 - 1) / 12))
    if two_sided(slope / error, runs - 2) >= SURE_OF_DRIFT:
        return None
    return Drift(each=exp(slope), whole=exp(slope * (runs - 1)), runs=runs)


def sample_of(percentile: Percentile | None) -> Sample | None:
    """A percentile as one run measured it; None where it did not.

    Half its 95 % interval on the scale of logarithms is 1.96 standard errors (Woodruff, JASA 47, 1952).
    """
    if percentile is None or not percentile.value_ms or not percentile.low_ms or not percentile.high_ms:
        return None
    return Sample(value=percentile.value_ms, error=log(percentile.high_ms / percentile.low_ms) / (2 * Z95))


def sample_of_rate(rate: float | None, answers: int) -> Sample | None:
    """A rate as one run measured it; its error is that of a count."""
    return Sample(value=rate, error=1 / sqrt(answers)) if rate and answers else None


def percent(ratio: float) -> str:
    """A ratio as a change: `+12 %`."""
    return f"{100 * (ratio - 1):+.3g} %" if ratio != 1 else "0 %"


CLOSE = 1e-9
"""How exact a quantile is, as a share of it."""


def two_sided(t: float, freedom: int) -> float:
    """How likely a value at least so far from 0, to either side, is by chance alone: 0 to 1.

    Exact for whole degrees of freedom: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3 (odd)
    and 26.7.4 (even).

    Args:
        t: The value.
        freedom: Degrees of freedom, 1 or more.
    """
    theta = atan(abs(t) / sqrt(freedom))
    sine, square = sin(theta), cos(theta) ** 2
    odd = freedom % 2
    term = cos(theta) if odd else 1.0
    terms = 0.0 if freedom == 1 else term
    for n in range(3 if odd else 2, freedom - 1, 2):
        term *= square * (n - 1) / n
        terms += term
    within = 2 / pi * (theta + sine * terms) if odd else sine * terms
    return min(1.0, max(0.0, 1 - within))


def quantile(chance: float, freedom: int) -> float:
    """The value that is exceeded, to either side, so rarely by chance alone.

    Args:
        chance: Above 0 and below 1; 0.05 belongs to a 95 % interval.
        freedom: Degrees of freedom, 1 or more.
    """
    low, high = 0.0, 1.0
    while two_sided(high, freedom) > chance:
        low, high = high, 2 * high
    while high - low > CLOSE * high:
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, freedom) > chance else (low, middle)
    return high


class Point(Struct, frozen=True, kw_only=True):
    """What one run measured, the line of its journal that says so, and whether an operator was there."""

    run: str
    began: str
    outcome: str
    value: float
    seq: int
    kind: str
    attended: bool = False


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
