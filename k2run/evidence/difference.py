"""Whether two sets of figures differ, or only look as if they did."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist, median
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Sequence

SURE = 0.05
"""A difference that chance alone brings about more rarely than this counts as shown."""
LEAST = 4
"""Figures on each side below which no test can show anything at that level (Mann-Whitney: 4 against 4 can)."""


class Difference(Struct, frozen=True, kw_only=True):
    """Two sets of figures held against each other.

    Attributes:
        ratio: Median of the second over that of the first; None where the first is 0.
        p: How likely such a difference is by chance alone (Mann-Whitney, two-sided); None with too few figures.
    """

    before: float
    after: float
    ratio: float | None
    p: float | None

    @property
    def shown(self) -> bool:
        """Whether it is more than chance."""
        return self.p is not None and self.p < SURE

    def says(self) -> str:
        """In words: `up 12 % (p = 0.003)`, `no difference shown (p = 0.41)`, `too few figures to tell`."""
        if self.p is None:
            return "too few figures to tell"
        if not self.shown:
            return f"no difference shown (p = {self.p:.2f})"
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
