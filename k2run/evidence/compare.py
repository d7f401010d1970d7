"""Two runs beside each other: verdicts, figures, times of steps, and what only one of them did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.bench.shown import figure, in_ms
from k2run.evidence.wording import NOT_DONE, Standing, against, points, span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.bench.regression import Change
    from k2run.engine.events import StepFinished
    from k2run.evidence.view import RunView, StepView

MUCH = 0.25
"""Share by which the time of a step must differ to be told; single times of short steps tell nothing."""
MANY = 5
"""Times from which on a multiple reads better than per cent."""
LONG = 0.1
"""Seconds below which the time of a step is not compared."""


class Row(Struct, frozen=True, kw_only=True):
    """One thing that both runs, or only one of them, have.

    Attributes:
        kind: `run`, `objective`, `outcome`, `latency`, `figure` or `time`.
        one: What the first run says, with its journal line; empty when it has none.
        says: What the difference comes to; empty when there is nothing to add.
    """

    kind: str
    name: str
    one: str
    other: str
    says: str = ""


def compare(one: RunView, other: RunView) -> list[Row]:
    """What differs between two runs, the verdict first."""
    return [
        *_whole(one, other),
        *_objectives(one, other),
        *_outcomes(one, other),
        *_figures(one, other),
        *_latencies(one, other),
        *_times(one, other),
    ]


def _whole(one: RunView, other: RunView) -> Iterator[Row]:
    yield Row(kind="run", name="verdict", one=_verdict(one), other=_verdict(other))
    yield Row(
        kind="run",
        name="time",
        one=_cited(span(one.seconds), one.finished),
        other=_cited(span(other.seconds), other.finished),
        says=change_of(one.seconds, other.seconds),
    )
    if one.scored is not None and other.scored is not None:
        yield Row(
            kind="run",
            name="score",
            one=_cited(points(one.scored.score), one.scored),
            other=_cited(points(other.scored.score), other.scored),
            says=f"{other.scored.score - one.scored.score:+.1f} points",
        )
    if one.started is not None and other.started is not None and one.started.digest != other.started.digest:
        yield Row(
            kind="run", name="runbook", one=one.started.digest[:12], other=other.started.digest[:12], says="differs"
        )


def _verdict(view: RunView) -> str:
    return _cited(view.finished.verdict if view.finished is not None else "did not end", view.finished)


def _objectives(one: RunView, other: RunView) -> Iterator[Row]:
    mine = {each.objective: each for each in one.objectives}
    theirs = {each.objective: each for each in other.objectives}
    for name in {**mine, **theirs}:
        a, b = mine.get(name), theirs.get(name)
        says = "" if a is None or b is None or a.bound is b.bound else f"{a.bound.value} → {b.bound.value}"
        yield Row(
            kind="objective",
            name=name,
            one=_cited(a.value, a) if a is not None else "",
            other=_cited(b.value, b) if b is not None else "",
            says=says,
        )


def _pairs(one: RunView, other: RunView) -> Iterator[tuple[str, StepView | None, StepView | None]]:
    """The steps of both runs, by section and name."""
    mine, theirs = _named(one), _named(other)
    for name in {**mine, **theirs}:
        yield name[1], mine.get(name), theirs.get(name)


def _named(view: RunView) -> dict[tuple[str, str], StepView]:
    return {(view.sections[step.section].name, step.name): step for step in view.leaves()}


def _outcomes(one: RunView, other: RunView) -> Iterator[Row]:
    for name, a, b in _pairs(one, other):
        if a is None or b is None:
            only = _outcome(a) if a is not None else _outcome(b)
            yield Row(kind="outcome", name=name, one=only if a is not None else "", other=only if b is not None else "")
        elif a.standing is not b.standing:
            says = "worse" if a.standing is Standing.PASSED else "better" if b.standing is Standing.PASSED else ""
            yield Row(kind="outcome", name=name, one=_outcome(a), other=_outcome(b), says=says)


def _outcome(step: StepView | None) -> str:
    return _cited(step.standing.lower(), step.finished) if step is not None else ""


def _figures(one: RunView, other: RunView) -> Iterator[Row]:
    mine, theirs = _all_figures(one), _all_figures(other)
    for name in {**mine, **theirs}:
        a, b = mine.get(name), theirs.get(name)
        yield Row(
            kind="figure",
            name=name,
            one=_cited(figure(a[0], 4), a[1]) if a else "",
            other=_cited(figure(b[0], 4), b[1]) if b else "",
            says=change_of(a[0], b[0]) if a and b else "",
        )


def _all_figures(view: RunView) -> dict[str, tuple[float, StepFinished]]:
    return {
        name: (float(value), step.finished)
        for step in view.leaves()
        if step.finished is not None
        for name, value in step.finished.figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _latencies(one: RunView, other: RunView) -> Iterator[Row]:
    """Percentiles of benchmarks: a difference is shown where chance among the samples does not explain it."""
    for name, a, b in _pairs(one, other):
        mine, theirs = _percentiles(a), _percentiles(b)
        common = [key for key in mine if key in theirs]
        found = {each.name: each for each in _changes(a, b, common)}
        for each in common:
            change = found.get(each)
            yield Row(
                kind="latency",
                name=f"{name}: {each}",
                one=_cited(_interval(mine[each]), a.finished if a else None),
                other=_cited(_interval(theirs[each]), b.finished if b else None),
                says=change.says().removeprefix(f"{each}:").removeprefix(each).strip() if change else "",
            )


def _changes(one: StepView | None, other: StepView | None, names: list[str]) -> list[Change]:
    """The same test that judges a regression."""
    histograms = [step.result.get("histogram") if step is not None else None for step in (one, other)]
    if not names or not all(histograms):
        return []
    from k2run.bench.regression import changes

    try:
        return changes(str(histograms[0]), str(histograms[1]), names)
    except Exception:  # noqa: BLE001 - whatever a decoder makes of a damaged text, the rest can still be compared
        return []


def _percentiles(step: StepView | None) -> dict[str, Any]:
    found = (step.result.get("percentiles") if step is not None else None) or {}
    return {name: each for name, each in found.items() if each.get("high_ms") is not None}


def _interval(each: dict[str, Any]) -> str:
    return f"{in_ms(each['value_ms'])} ({figure(each['low_ms'])} to {figure(each['high_ms'])})"


def _times(one: RunView, other: RunView) -> Iterator[Row]:
    for name, a, b in _pairs(one, other):
        first, second = _done(a), _done(b)
        if first is None or second is None or max(first.seconds, second.seconds) < LONG:
            continue
        if abs(first.seconds - second.seconds) >= MUCH * max(first.seconds, second.seconds):
            yield Row(
                kind="time",
                name=name,
                one=_cited(against(first.seconds, first.within, first.objective), first),
                other=_cited(against(second.seconds, second.within, second.objective), second),
                says=change_of(first.seconds, second.seconds),
            )


def _done(step: StepView | None) -> StepFinished | None:
    return step.finished if step is not None and step.standing not in NOT_DONE else None


def change_of(one: float, other: float) -> str:
    """By how much the second value differs from the first: `+12 %`, `7 times as much`."""
    if not one:
        return ""
    ratio = other / one
    return f"{100 * (ratio - 1):+.0f} %" if ratio < MANY else f"{ratio:,.0f} times as much"


def _cited(text: str, event: Any) -> str:
    """A value with the line of its run's journal."""
    return f"{text} #{event.seq}" if event is not None else text
