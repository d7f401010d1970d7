"""What every load has in common once it is over: latencies, rate, errors and empty answers, each apart."""

from __future__ import annotations

from typing import Any, Self

from k2run.actions.action import Judged, Result
from k2run.bench.judging import Measure
from k2run.bench.latency import QUANTILES, Latencies, Percentile, Spread
from k2run.bench.plan import Outcome
from k2run.bench.shown import in_ms, per_second
from k2run.errors import Unknown

SATURATED = 0.9
"""Share of a core from which on a generator itself is likely to be the limit."""


class Measured(Result, frozen=True, kw_only=True):
    """The figures of a load.

    Latencies are those of good answers alone. A percentile is None where fewer than ten samples lie beyond it.

    Attributes:
        samples: Good answers: as wanted, and not empty.
        rate: Good answers a second.
        seconds: From the first request that counts to the last answer.
        errors: Requests that failed; `errors_by_class` says how.
        error_ratio: Errors over all requests that count, 0 to 1.
        empty: Answers without content or rows, which are neither good nor errors.
        percentiles: Each percentile with its 95 % confidence interval.
        not_measured: Why some percentiles are missing.
        failed: The latencies of errors.
        histogram: All latencies of good answers (HdrHistogram V2, base64).
        thresholds: What the step promised, each judged, with its margin.
        load: Fingerprint of what was asked and how hard: the same load in another run has the same.
    """

    samples: int
    rate: float
    seconds: float
    p50_ms: float | None
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    mean_ms: float | None
    min_ms: float | None
    max_ms: float | None
    errors: int
    error_ratio: float
    errors_by_class: dict[str, int]
    empty: int
    percentiles: dict[str, Percentile]
    not_measured: str
    failed: Spread
    histogram: str
    thresholds: list[Measure] = []
    load: str = ""

    @classmethod
    def of(cls, outcome: Outcome, source: str, **more: Any) -> Self:
        """The figures of an outcome, with what is particular to its kind of load.

        Raises:
            Unknown: There was no good answer at all.
        """
        good, failed = _spread(outcome.histogram), _spread(outcome.failed)
        errors = sum(outcome.errors.values())
        requests = good.samples + errors + outcome.empty
        if not good.samples:
            raise Unknown(
                f"nothing asked of {source} got a good answer: {_how(outcome, requests)}",
                hint="is it up and well? its address is under services or connections in the stack file",
            )
        p50, p90, p95, p99, p999 = (good.value(name) for name in QUANTILES)
        return cls(
            source=source,
            samples=good.samples,
            rate=round(good.samples / outcome.seconds, 3) if outcome.seconds else 0.0,
            seconds=round(outcome.seconds, 3),
            p50_ms=p50,
            p90_ms=p90,
            p95_ms=p95,
            p99_ms=p99,
            p999_ms=p999,
            mean_ms=good.mean_ms,
            min_ms=good.min_ms,
            max_ms=good.max_ms,
            errors=errors,
            error_ratio=errors / requests,
            errors_by_class=outcome.errors,
            empty=outcome.empty,
            percentiles=good.percentiles,
            not_measured=good.not_measured,
            failed=failed,
            histogram=outcome.histogram,
            **more,
        )

    def judged(self) -> list[Judged]:
        """Its thresholds."""
        return [*self.thresholds]

    def headline(self) -> str:
        """Such as `p50 5.1 ms, p99 7.9 ms (n=8,120), 812/s, no errors`."""
        bad = f"{self.errors:,} errors" if self.errors else "no errors"
        empty = f", {self.empty:,} empty" if self.empty else ""
        shown = ", ".join(self._shown(name) for name in ("p50", "p99"))
        return f"{shown} (n={self.samples:,}), {per_second(self.rate)}, {bad}{empty}"

    def _shown(self, name: str) -> str:
        percentile = self.percentiles[name]
        if percentile.value_ms is None:
            return f"{name} needs {percentile.needs:,} samples"
        return f"{name} {in_ms(percentile.value_ms)}"


def _spread(encoded: str) -> Spread:
    latencies = Latencies()
    latencies.add([encoded])
    return latencies.spread()


def _how(outcome: Outcome, requests: int) -> str:
    ways = [f"{count:,} times {why}" for why, count in outcome.errors.items()]
    if outcome.empty:
        ways.append(f"{outcome.empty:,} times an empty one")
    return ", ".join(ways) or f"{requests} answers"
