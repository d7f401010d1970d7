"""Latencies, kept in a histogram, the percentiles that so many samples can carry, and how people read them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

LONGEST = 3600
"""Seconds; a longer latency is counted as this."""
DIGITS = 3
"""Significant digits of a recorded latency: an error of at most 0.1 %."""
CELL_BITS = 11
"""Leading bits of microseconds that tell the cells of a histogram of three digits apart."""
BEYOND = 10
"""Samples that must lie beyond a percentile for it to be reported.

The number of samples beyond it is what a percentile rests on, and its standard error is its square root: with ten, a
third. p50 needs 20 samples, p90 100, p95 200, p99 1,000 and p99.9 10,000.
"""
Z95 = 1.96
"""Standard deviations to each side of a 95 % confidence interval."""
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}


BLUR_MS, BLUR = 0.3, 0.1
"""How far a percentile may be off because requests were sent late, in milliseconds or as a share of it."""


class Percentile(Struct, frozen=True, kw_only=True):
    """One percentile in milliseconds; None is not measured.

    Attributes:
        low_ms: Lower end of its 95 % confidence interval, from order statistics (no distribution is assumed).
        high_ms: Upper end.
        needs: Samples that it needs.
        blurred: Whether it is not measured because the generator sent too many requests late.
        at_most_ms: The same counted from when each request was due: what the generator was late included, so an upper
            bound also where the service's own share is not measured. A bound below a promise proves it.
    """

    value_ms: float | None
    low_ms: float | None = None
    high_ms: float | None = None
    needs: int = 0
    blurred: bool = False
    at_most_ms: float | None = None


class Spread(Struct, frozen=True, kw_only=True):
    """What is known of some latencies.

    Attributes:
        samples: How many they are.
        percentiles: By name: p50, p90, p95, p99, p999.
        not_measured: Why some percentiles are missing; empty when none is.
    """

    samples: int
    percentiles: dict[str, Percentile]
    mean_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    not_measured: str = ""

    def value(self, name: str) -> float | None:
        """A percentile in milliseconds, or None where the samples cannot carry it."""
        return self.percentiles[name].value_ms


class Latencies:
    """A histogram of latencies from 1 µs to an hour.

    They are counted in cells as wide as the histogram's own and go into it once it is read: its `record_value` alone
    would take a load generator 2 µs of every answer.
    """

    def __init__(self) -> None:
        self._fresh: Counter[int] = Counter()
        self._kept = _empty()
        self._samples = 0
        self._total = 0.0
        self._least = math.inf
        self._most = 0.0

    def __len__(self) -> int:
        return self._samples

    def record(self, seconds: float) -> None:
        """Count one latency."""
        self._fresh[_cell(seconds)] += 1
        self._samples += 1
        self._total += seconds
        self._least = min(self._least, seconds)
        self._most = max(self._most, seconds)

    def record_all(self, seconds: Sequence[float]) -> None:
        """Count many latencies, faster than one by one."""
        if not seconds:
            return
        self._fresh.update([_cell(each) for each in seconds])
        self._samples += len(seconds)
        self._total += sum(seconds)
        least, most = min(seconds), max(seconds)
        self._least = min(self._least, least)
        self._most = max(self._most, most)

    def add(self, encoded: Sequence[str]) -> None:
        """Merge histograms that other workers encoded."""
        histogram = self._histogram()
        for one in encoded:
            histogram.decode_and_add(one)
        self._samples = int(histogram.get_total_count())
        self._total = histogram.get_mean_value() * self._samples / 1_000_000
        if self._samples:
            self._least = histogram.get_min_value() / 1_000_000
            self._most = histogram.get_max_value() / 1_000_000

    def encode(self) -> str:
        """The whole histogram as text (HdrHistogram V2, base64)."""
        encoded = self._histogram().encode()
        return encoded.decode("ascii") if isinstance(encoded, bytes) else str(encoded)

    def spread(self, *, sure: Latencies | None = None, late: str = "") -> Spread:
        """Percentiles, each only where enough samples lie beyond it and the generator has no real part in it.

        Args:
            sure: The same latencies less what of each may be the generator's; the truth lies between the two.
            late: What is said where the two are too far apart.
        """
        count = len(self)
        percentiles = {name: self._percentile(quantile, count, sure) for name, quantile in QUANTILES.items()}
        few = [f"{name} needs {one.needs:,}" for name, one in percentiles.items() if count < one.needs]
        blurred = [name for name, one in percentiles.items() if one.blurred]
        reasons = [f"{', '.join(few)} samples, and there are {count:,}"] if few else []
        if blurred:
            reasons.append(f"{', '.join(blurred)}: {late}")
        mean = sure is None or not _is_blurred(self.mean, sure.mean)
        longest = sure is None or not _is_blurred(self.most, sure.most)
        return Spread(
            samples=count,
            percentiles=percentiles,
            mean_ms=_ms(self.mean) if count and mean else None,
            min_ms=_ms(self._least) if count else None,
            max_ms=_ms(self._most) if count and longest else None,
            not_measured="; ".join(reasons),
        )

    @property
    def mean(self) -> float:
        """Seconds; 0 without samples."""
        return self._total / self._samples if self._samples else 0.0

    @property
    def most(self) -> float:
        """The longest, in seconds; 0 without samples."""
        return self._most

    def _percentile(self, quantile: float, count: int, sure: Latencies | None) -> Percentile:
        needs = needed(quantile)
        if count < needs:
            return Percentile(value_ms=None, needs=needs)
        histogram = self._histogram()
        half = Z95 * math.sqrt(quantile * (1 - quantile) / count)
        value, low, high = (
            histogram.get_value_at_percentile(100 * min(1.0, at)) / 1000
            for at in (quantile, quantile - half, quantile + half + 1 / count)
        )
        if sure is not None and _is_blurred(value / 1000, sure._at(quantile)):  # noqa: SLF001 - another one of its kind
            return Percentile(value_ms=None, needs=needs, blurred=True, at_most_ms=value)
        return Percentile(value_ms=value, low_ms=low, high_ms=high, needs=needs, at_most_ms=value)

    def _at(self, quantile: float) -> float:
        return float(self._histogram().get_value_at_percentile(100 * quantile)) / 1_000_000

    def _histogram(self) -> HdrHistogram:
        for micros, count in self._fresh.items():
            self._kept.record_value(max(1, min(LONGEST * 1_000_000, micros)), count)
        self._fresh.clear()
        return self._kept


def _is_blurred(seconds: float, at_least: float) -> bool:
    """Whether too much of a figure may be the generator's."""
    return (seconds - at_least) * 1000 > max(BLUR_MS, BLUR * seconds * 1000)


def decoded(encoded: Sequence[str]) -> Latencies:
    """Encoded histograms as one; empty ones are left out."""
    made = Latencies()
    made.add([one for one in encoded if one])
    return made


def counts(encoded: str) -> list[tuple[float, int]]:
    """The latencies of an encoded histogram, ascending: milliseconds, and how many."""
    from hdrh.histogram import HdrHistogram

    recorded = HdrHistogram.decode(encoded).get_recorded_iterator()
    return [(max(each.value_iterated_to, 1) / 1000, each.count_added_in_this_iter_step) for each in recorded]


def needed(quantile: float) -> int:
    """How many samples a quantile needs, so that `BEYOND` of them lie beyond it."""
    return math.ceil(round(BEYOND / (1 - quantile), 6))


def _cell(seconds: float) -> int:
    """The least microseconds that a histogram of three digits does not tell from these."""
    micros = round(seconds * 1_000_000)
    beyond = micros.bit_length() - CELL_BITS
    return micros >> beyond << beyond if beyond > 0 else micros


def _empty() -> HdrHistogram:
    from hdrh.histogram import HdrHistogram

    return HdrHistogram(1, LONGEST * 1_000_000, DIGITS)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def figure(value: float, digits: int = 3) -> str:
    """A number: `5.12`, `81,200`."""
    return f"{value:,.{digits}g}" if abs(value) < 10**digits - 0.5 else f"{value:,.0f}"


def in_ms(value: float, digits: int = 3) -> str:
    """Milliseconds: `5.12 ms`, `1,910 ms`."""
    return f"{figure(value, digits)} ms"


def per_second(value: float, digits: int = 3) -> str:
    """A rate: `3.24/s`, `81,200/s`."""
    return f"{figure(value, digits)}/s"
