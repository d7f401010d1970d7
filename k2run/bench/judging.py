"""Holds the figures of a load against its thresholds."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from msgspec import structs

from k2run.actions.action import Judged
from k2run.bench.baseline import NoBaseline
from k2run.bench.formatting import figure, in_ms, per_second
from k2run.bench.regression import change, drift, sample_of
from k2run.bench.thresholds import METRICS, REGRESSION, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from k2run.bench.baseline import Baselines
    from k2run.bench.latency import Percentile
    from k2run.bench.plan import Outcome
    from k2run.bench.result import Measured
    from k2run.bench.thresholds import Threshold

M = TypeVar("M", bound="Measured")
DIGITS = 4
"""Of a figure that is judged."""


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
    """The same figures, with every threshold judged.

    Args:
        measured: What the load met.
        thresholds: What was promised.
        outcome: The same load as it came in: whether a threshold ended it before its time.
        baselines: Where regressions are measured from.
    """
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
