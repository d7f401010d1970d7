"""What every finished load has in common: its figures, and whether they meet its thresholds."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

from msgspec import Struct, structs

from k2run.actions.action import Judged, Result
from k2run.actions.deadline import Deadline
from k2run.bench.baseline import NoBaseline
from k2run.bench.latency import QUANTILES, Latencies, Percentile, Spread, decoded, figure, in_ms, per_second
from k2run.bench.plan import Outcome
from k2run.bench.regression import change, drift, sample_of
from k2run.bench.thresholds import METRICS, REGRESSION, Kind
from k2run.errors import K2runError, Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from k2run.bench.baseline import Baselines
    from k2run.bench.thresholds import Threshold
    from k2run.stack.services import Services


TOGETHER = 0.95
"""Share of the window in which all generators have to measure, for their answers to be one rate."""
SATURATED = 0.9
"""Share of a core from which on a generator itself is likely to be the limit."""
M = TypeVar("M", bound="Measured")
DIGITS = 4
"""Of a figure that is judged."""
USE_SLICE = 0.5
"""Seconds of one measurement; the memory is the highest of them, the processor time their mean."""


class Measured(Result, frozen=True, kw_only=True):
    """The figures of a load.

    Latencies are those of good answers alone. A percentile is None where fewer than ten samples lie beyond it.

    Attributes:
        samples: Good answers: as wanted, and not empty.
        rate: Good answers a second within the window; None where several generators did not measure at the same
            time, or one of them died.
        seconds: The window of the rate: the time that was planned, or from the first request to the last one's start.
        late_answers: Good answers that came after the window; they count as samples, not towards the rate.
        errors: Requests that failed; `errors_by_class` says how.
        own_errors: Requests that the generator itself could not send, and how often; they say nothing of the service.
        error_ratio: Errors over all requests that count, 0 to 1.
        empty: Answers without content or rows, which are neither good nor errors.
        percentiles: Each percentile with its 95 % confidence interval.
        not_measured: Why some percentiles are missing.
        lateness: How late the generator sent the requests; None where it cannot be late.
        tardy: Good answers whose request was sent so late that their latency is not the service's alone.
        generator: What is to be said of the generator where it was late; else empty.
        overlap: Of several generators: the share of the window in which all of them measured, 0 to 1.
        from_send: Latencies from the moment a request was really sent. A service that stands still is forgiven the
            requests that had to wait for it, so this is no measure of what users wait.
        failed: The latencies of errors.
        histogram: All latencies of good answers (HdrHistogram V2, base64).
        thresholds: What the step promised, each judged, with its margin.
        load: Fingerprint of what was asked and how hard: the same load in another run has the same.
    """

    samples: int
    rate: float | None
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
    late_answers: int = 0
    own_errors: dict[str, int] = {}
    lateness: Spread | None = None
    tardy: int = 0
    generator: str = ""
    overlap: float = 1.0
    from_send: Spread | None = None
    thresholds: list[Measure] = []
    load: str = ""

    @classmethod
    def of(cls, outcome: Outcome, source: str, **more: Any) -> Self:
        """The figures of an outcome, with what is particular to its kind of load.

        Raises:
            Unknown: There was no good answer at all.
        """
        late, sent = decoded([outcome.lateness]), decoded([outcome.from_send])
        sure = decoded([outcome.sure]) if outcome.sure else None
        latencies = decoded([outcome.histogram])
        generator = _late(outcome, late, len(latencies))
        good = latencies.spread(sure=sure, late=generator)
        failed = decoded([outcome.failed]).spread()
        answered = good.samples if outcome.answered is None else outcome.answered
        errors = sum(outcome.errors.values())
        requests = good.samples + errors + outcome.empty
        if not good.samples:
            raise Unknown(
                f"nothing asked of {source} got a good answer: {_how(outcome, requests)}",
                hint="is it up and healthy? its address is under services or connections in the stack file",
            )
        p50, p90, p95, p99, p999 = (good.value(name) for name in QUANTILES)
        return cls(
            source=source,
            samples=good.samples,
            rate=_rate_of_all(answered, outcome),
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
            late_answers=max(0, good.samples - answered),
            own_errors=outcome.own_errors,
            lateness=late.spread() if len(late) else None,
            tardy=outcome.tardy,
            generator=generator,
            overlap=round(outcome.overlap, 4),
            from_send=sent.spread() if len(sent) else None,
            **more,
        )

    def judged(self) -> list[Judged]:
        """Its thresholds."""
        return [*self.thresholds]

    def headline(self) -> str:
        """Such as `p50 5.1 ms, p99 7.9 ms (n=8,120), 812/s, no errors`."""
        bad = f"{self.errors:,} errors" if self.errors else "no errors"
        empty = f", {self.empty:,} empty" if self.empty else ""
        shown = ", ".join([*(self._shown(name) for name in ("p50", "p99")), *self._longest()])
        rate = "rate not measured" if self.rate is None else per_second(self.rate)
        return f"{shown} (n={self.samples:,}), {rate}, {bad}{empty}{self._own()}"

    def _longest(self) -> list[str]:
        """The longest latency, where the percentiles do not tell of it: in a closed loop a stall is one sample."""
        return []

    def _shown(self, name: str) -> str:
        percentile = self.percentiles[name]
        if percentile.blurred:
            return f"{name} not measured"
        if percentile.value_ms is None:
            return f"{name} needs {percentile.needs:,} samples"
        return f"{name} {in_ms(percentile.value_ms)}"

    def _own(self) -> str:
        """What is the generator's own, and not the service's."""
        parts = [f"{count:,} requests not sent by the generator: {why}" for why, count in self.own_errors.items()]
        if self.overlap < TOGETHER:
            parts.append(f"the generators measured at once for only {self.overlap:.0%} of the time")
        if any(percentile.blurred for percentile in self.percentiles.values()):
            parts.append(self.generator)
        return "".join(f", {part}" for part in parts)


def _rate_of_all(answered: int, outcome: Outcome) -> float | None:
    if outcome.overlap < TOGETHER or outcome.missing:
        return None
    return round(answered / outcome.seconds, 3) if outcome.seconds else 0.0


def _late(outcome: Outcome, late: Latencies, answers: int) -> str:
    """Such as `the generator was late by up to 541 ms, too late for 12 % of the answers`."""
    if not outcome.tardy:
        return ""
    how = f"was late by up to {in_ms(late.most * 1000)}, too late for" if len(late) else "stood still, too long for"
    return f"the generator {how} {figure(100 * outcome.tardy / max(1, answers))} % of the answers"


def _how(outcome: Outcome, requests: int) -> str:
    ways = [f"{count:,} times {why}" for why, count in outcome.errors.items()]
    if outcome.empty:
        ways.append(f"{outcome.empty:,} times an empty one")
    return ", ".join(ways) or f"{requests} answers"


class Measure(Judged, frozen=True, kw_only=True):
    """A threshold, judged.

    Attributes:
        value: What was measured: seconds, a rate a second, a number, or a share from 0 to 1.
        bound: What it was compared with, in the same unit.
        margin: What is left of the bound, as a share of it; negative when it was missed.
    """

    value: float | None = None
    bound: float = 0.0
    margin: float | None = None


def judge(measured: M, thresholds: Sequence[Threshold], outcome: Outcome, baselines: Baselines) -> M:
    """The same figures, with every threshold judged; `outcome` says whether one ended the load before its time."""
    lost = getattr(measured, "lost_processes", 0)
    whole = [Measure(objective="no generator is lost", met=False, says=f"{lost} died")] if lost else []
    judged = [_early(_judge(measured, each, baselines), outcome.lost) for each in thresholds]
    return structs.replace(measured, thresholds=[*whole, *judged])


def _early(judged: Measure, lost: Mapping[str, str]) -> Measure:
    """What holds of a load that ended before its time: what was lost is missed, what was kept is not measured."""
    if judged.objective in lost:
        return structs.replace(judged, met=False, says=lost[judged.objective])
    if lost and judged.met is not False:
        return structs.replace(judged, met=None, says="the load ended early")
    return judged


def _judge(measured: Measured, threshold: Threshold, baselines: Baselines) -> Measure:
    if threshold.metric == REGRESSION:
        return _regression(measured, threshold, baselines)
    match METRICS[threshold.metric]:
        case Kind.TIME:
            return _time(measured, threshold)
        case Kind.PART:
            return _part(measured, threshold)
        case Kind.RATE:
            return _rate(measured, threshold)
        case _:
            return _plain(threshold, measured.samples, f"{measured.samples:,}")


def _rate(measured: Measured, threshold: Threshold) -> Measure:
    if measured.rate is None:
        apart = f"all generators measured at once for only {measured.overlap:.0%} of the time"
        return _unmeasured(threshold, "a generator died" if getattr(measured, "lost_processes", 0) else apart)
    return _plain(threshold, measured.rate, per_second(measured.rate, DIGITS))


def _time(measured: Measured, threshold: Threshold) -> Measure:
    percentile = measured.percentiles.get(threshold.metric)
    value = percentile.value_ms if percentile else getattr(measured, f"{threshold.metric}_ms")
    if value is None and measured.tardy and (percentile is None or percentile.blurred):
        return _unmeasured(threshold, measured.generator)
    if value is None:
        needs = f"it needs {percentile.needs:,} samples, and there were {measured.samples:,}" if percentile else ""
        return _unmeasured(threshold, needs or "there were no samples")
    return _plain(threshold, value / 1000, in_ms(value, DIGITS) + _interval(percentile, threshold))


def _interval(percentile: Percentile | None, threshold: Threshold) -> str:
    """The 95 % interval, and a word when the bound lies inside of it."""
    if percentile is None or percentile.low_ms is None or percentile.high_ms is None:
        return ""
    open_ = percentile.low_ms <= threshold.bound.value * 1000 <= percentile.high_ms
    low, high = figure(percentile.low_ms, DIGITS), figure(percentile.high_ms, DIGITS)
    return f" ({low} to {high}{', not certain' if open_ else ''})"


def _part(measured: Measured, threshold: Threshold) -> Measure:
    """Errors or empty answers; a share smaller than one request can show is not measured."""
    found, requests = getattr(measured, threshold.metric), measured.samples + measured.errors + measured.empty
    if not threshold.bound.is_share:
        return _plain(threshold, found, f"{found:,}")
    share, least = found / requests, threshold.bound.value
    if threshold.holds(share) and least and requests * least < 1:
        return _unmeasured(threshold, f"it needs {1 / least:,.0f} requests, and there were {requests:,}")
    return _plain(threshold, share, f"{100 * share:.3g} % ({found:,} of {requests:,})")


def _plain(threshold: Threshold, value: float, shown: str) -> Measure:
    met, bound = threshold.holds(value), threshold.bound.value
    room = bound - value if threshold.operator in {"<", "<="} else value - bound
    margin = room / bound if bound and threshold.operator != "==" else None
    words = ""
    if margin is not None:
        beyond = "over" if threshold.operator in {"<", "<="} else "short"
        words = f", {100 * abs(margin):.3g} % {'to spare' if met else beyond}"
    return Measure(objective=threshold.text, met=met, says=shown + words, value=value, bound=bound, margin=margin)


def _unmeasured(threshold: Threshold, why: str, *, excused: bool = False) -> Measure:
    return Measure(objective=threshold.text, met=None, says=why, bound=threshold.bound.value, excused=excused)


def _regression(measured: Measured, threshold: Threshold, baselines: Baselines) -> Measure:
    """A change that is within the spread of earlier runs is no regression; a drift of those that passed is one."""
    try:
        baseline = baselines.find(threshold.baseline, measured.load)
    except NoBaseline as none:
        return _unmeasured(threshold, str(none), excused=none.excused)
    name = threshold.quantile
    percentile = measured.percentiles[name]
    now = sample_of(percentile)
    before, spread = ([one for run in runs if (one := run.sample(name))] for runs in (baseline.runs, baseline.spread))
    if now is None and percentile.blurred:
        return _unmeasured(threshold, measured.generator)
    if now is None or not before:
        return _unmeasured(threshold, f"too few samples for {name}, here or {baseline.says()}")
    found = change(name, before, now, spread)
    value, bound, says = found.ratio - 1 if found.shown else 0.0, threshold.bound.value, f"{name}: {found.says()}"
    if baseline.can_drift and (drifting := drift([*(one.value for one in before), now.value])):
        value, says = max(value, drifting.whole - 1), f"{says}; {drifting.says()}"
    says = f"{says}; {baseline.says()}"
    if found.is_weak and not found.shown and not threshold.holds(found.high - 1):
        return _unmeasured(threshold, says, excused=True)
    margin = (bound - value) / bound if bound else None
    return Measure(
        objective=threshold.text, met=threshold.holds(value), says=says, value=value, bound=bound, margin=margin
    )


class Used(Struct, frozen=True, kw_only=True):
    """What one service used.

    Attributes:
        cores: Processor time over time: 1.5 is one core and a half.
        memory_bytes: The most memory in use, caches of files left out.
        unknown: Why it could not be seen; empty when it could.
    """

    cores: float | None = None
    memory_bytes: int | None = None
    unknown: str = ""


class Watch:
    """Looks at services for as long as its block lasts; one thread each."""

    def __init__(self, services: Services, names: list[str]) -> None:
        self._services = services
        self._seen: dict[str, list[tuple[float, int]]] = {name: [] for name in names}
        self._unknown: dict[str, str] = {}
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._look, args=(name,), name=f"watch {name}", daemon=True) for name in names
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2 * USE_SLICE)

    def used(self) -> dict[str, Used]:
        """By service; afterwards."""
        return {name: self._sum_up(name) for name in self._seen}

    def _look(self, name: str) -> None:
        try:
            backend = self._services.backend(name)
            while not self._over.is_set():
                usage = backend.usage(USE_SLICE, Deadline(10 * USE_SLICE, self._over))
                self._seen[name].append((usage.cpu_percent / 100, usage.rss_bytes))
        except K2runError as error:
            if not self._over.is_set():
                self._unknown[name] = error.message

    def _sum_up(self, name: str) -> Used:
        seen = self._seen[name]
        if not seen:
            return Used(unknown=self._unknown.get(name, f"the load was over in less than {USE_SLICE:g}s"))
        cores = sum(cores for cores, _ in seen) / len(seen)
        return Used(
            cores=round(cores, 2), memory_bytes=max(memory for _, memory in seen), unknown=self._unknown.get(name, "")
        )
