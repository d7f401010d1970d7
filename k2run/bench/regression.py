"""Whether the latencies of two loads differ, or only look as if they did."""

from __future__ import annotations

import random
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.bench.latency import QUANTILES, counts, needed

if TYPE_CHECKING:
    from collections.abc import Sequence

DRAWS = 1000
"""Resamples behind an interval: its ends are then good to about a tenth of its width."""
TAILS = (0.025, 0.975)
"""Of the 95 % interval."""
SEED = 20260121
"""The same two loads always give the same interval."""


class Change(Struct, frozen=True, kw_only=True):
    """How a percentile changed from one load to another.

    Attributes:
        name: Which percentile: p50 …
        before_ms: What it was.
        after_ms: What it is.
        ratio: After over before.
        low: Lower end of the ratio's 95 % interval, by bootstrap.
        high: Its upper end.
    """

    name: str
    before_ms: float
    after_ms: float
    ratio: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether it is more than chance among the samples of the two loads."""
        return self.low > 1 or self.high < 1

    def says(self) -> str:
        """In words: `p99 12 % slower (8 % to 17 %)`, `p99: no difference shown (-4 % to +6 %)`."""
        if not self.shown:
            return f"{self.name}: no difference shown ({_percent(self.low)} to {_percent(self.high)})"
        way = "slower" if self.ratio > 1 else "faster"
        return f"{self.name} {_percent(self.ratio)}, {way} ({_percent(self.low)} to {_percent(self.high)})"


def changes(before: str, after: str, names: Sequence[str] = tuple(QUANTILES)) -> list[Change]:
    """How the percentiles changed that the samples of both loads can carry.

    Each load is resampled, and the ratio of the percentiles of the two resamples taken, `DRAWS` times. A percentile of
    a resample is the one of the samples at a rank that follows a beta distribution, so that nothing is copied. That
    knows the spread within each load; what differs from run to run beyond it (another day, another neighbour) it
    cannot know.

    Args:
        before: Histogram of the earlier load, encoded.
        after: Histogram of the later one.
        names: Which percentiles.
    """
    one, other = _Samples(before), _Samples(after)
    return [_change(name, one, other) for name in names if min(one.size, other.size) >= needed(QUANTILES[name])]


class _Samples:
    """The samples of a histogram by their rank."""

    def __init__(self, histogram: str) -> None:
        found = counts(histogram)
        self._values = [value for value, _ in found]
        self._ranks = list(accumulate(number for _, number in found))
        self.size = self._ranks[-1] if found else 0

    def at(self, share: float) -> float:
        """The value below which this share of the samples lies, in milliseconds."""
        rank = min(max(share, 0.0) * self.size, self.size)
        return self._values[min(bisect_left(self._ranks, rank), len(self._values) - 1)]


def _change(name: str, one: _Samples, other: _Samples) -> Change:
    quantile, chance = QUANTILES[name], random.Random(SEED)  # noqa: S311 - statistics, not secrets
    ratios = sorted(_resampled(other, quantile, chance) / _resampled(one, quantile, chance) for _ in range(DRAWS))
    low, high = (ratios[round(tail * (DRAWS - 1))] for tail in TAILS)
    before, after = one.at(quantile), other.at(quantile)
    return Change(name=name, before_ms=before, after_ms=after, ratio=after / before, low=low, high=high)


def _resampled(samples: _Samples, quantile: float, chance: random.Random) -> float:
    return samples.at(chance.betavariate(samples.size * quantile, samples.size * (1 - quantile) + 1))


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.3g} %" if ratio != 1 else "0 %"
