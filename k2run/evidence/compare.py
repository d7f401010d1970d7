"""Two runs beside each other: verdicts, figures, times of steps; and a rehearsal beside the one before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.bench.baseline import NO_RUNS, Baselines, earlier
from k2run.bench.latency import figure, in_ms, per_second
from k2run.bench.regression import RATE, change
from k2run.engine.events import Outcome
from k2run.engine.journal import JOURNAL, read_journal
from k2run.engine.store import began
from k2run.errors import K2runError
from k2run.evidence.view import view_of
from k2run.evidence.wording import NOT_DONE, Standing, against, points, span, timed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from k2run.engine.events import StepFinished
    from k2run.evidence.step_view import StepView
    from k2run.evidence.view import RunView

MUCH = 0.25
"""Share by which the time of a step must differ to be listed; single times of short steps vary too much."""
MANY = 5
"""Times from which on a multiple reads better than per cent."""
LONG = 0.1
"""Seconds below which the time of a step is not compared."""
REHEARSAL = "rehearsal"


class Row(Struct, frozen=True, kw_only=True):
    """One thing that both runs, or only one of them, have.

    Attributes:
        kind: `run`, `objective`, `outcome`, `latency`, `rate`, `figure` or `time`.
        one: What the first run says, with its journal line; empty when it has none.
        says: What the difference comes to; empty when there is nothing to add.
    """

    kind: str
    name: str
    one: str
    other: str
    says: str = ""


def compare(one: RunView, other: RunView, runs: Baselines = NO_RUNS) -> list[Row]:
    """What differs between two runs, the verdict first.

    Args:
        one: The earlier run.
        other: The later one.
        runs: Those on the first one's stack, which tell how far runs differ by themselves.
    """
    return [
        *_whole(one, other),
        *_objectives(one, other),
        *_outcomes(one, other),
        *_figures(one, other),
        *_loads(one, other, runs),
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
    if view.finished is None:
        return "running" if view.alive else "did not end"
    return _cited(view.finished.verdict, view.finished)


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


def _loads(one: RunView, other: RunView, runs: Baselines) -> Iterator[Row]:
    """Percentiles and rates of loads: they differ where the spread between runs does not explain it."""
    for name, a, b in _pairs(one, other):
        mine, theirs = _percentiles(a), _percentiles(b)
        common = [key for key in mine if key in theirs]
        if a is None or b is None or not common:
            continue
        told = _changes(one, other, (a, b), [*common, RATE], runs)
        for each in common:
            yield Row(
                kind="latency",
                name=f"{name}: {each}",
                one=_cited(_interval(mine[each]), a.finished),
                other=_cited(_interval(theirs[each]), b.finished),
                says=told.get(each, ""),
            )
        yield Row(
            kind="rate",
            name=f"{name}: {RATE}",
            one=_cited(_rate(a), a.finished),
            other=_cited(_rate(b), b.finished),
            says=told.get(RATE, ""),
        )


def _changes(
    one: RunView, other: RunView, steps: tuple[StepView, StepView], names: list[str], runs: Baselines
) -> dict[str, str]:
    """By figure, what its difference comes to; the same test that judges a regression, for all of a load at once."""
    loads = {str(step.result.get("load") or "") for step in steps}
    if len(loads) > 1:
        return dict.fromkeys(names, "not the same load")
    (load,) = loads
    before, after = (
        earlier(view.started.run, step.finished) if view.started and step.finished else None
        for view, step in zip((one, other), steps, strict=True)
    )
    if before is None or after is None:
        return {}
    spread = runs.at(steps[0].path).beside([before], load, before=after.run) if load else [before]
    pairs = {name: (before.sample(name), after.sample(name)) for name in names}
    known = {name: (a, b) for name, (a, b) in pairs.items() if a is not None and b is not None}
    alike = {name: [each for run in spread if (each := run.sample(name))] for name in known}
    return {name: change(name, [a], b, alike[name], among=len(known)).says() for name, (a, b) in known.items()}


def _rate(step: StepView) -> str:
    rate = step.result.get("rate")
    return "not measured" if rate is None else per_second(rate, 4)


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
    return f"{text} #{event.seq}" if event is not None else text


def last_rehearsal(folder: Path, view: RunView) -> RunView | None:
    """The newest rehearsal of the same runbook on the same stack that ended before this one; None for other runs.

    One that was attended as this one is, or was not, comes before a newer one that cannot be compared with it.
    """
    begun = view.started
    if begun is None or begun.kind != REHEARSAL:
        return None
    earlier = (other for other in folder.parent.glob(f"*-{begun.name}-*") if began(other.name) < began(folder.name))
    newest = None
    for other in sorted(earlier, key=lambda run: began(run.name), reverse=True):
        found = _ended(other)
        before = found.started if found is not None else None
        if before is None or (before.name, before.stack) != (begun.name, begun.stack):
            continue
        if before.attended == begun.attended:
            return found
        newest = newest or found
    return newest


def against_last(view: RunView, last: RunView) -> list[Row]:
    """How long each section took, this time (`other`) and last time (`one`)."""
    return [*_whole_time(view, last), *_sections(view, last), *_clocks(view, last)]


def wished(last: RunView) -> list[str]:
    """The answers of people at the last rehearsal; defaults taken without an operator do not count."""
    steps = (step for step in last.leaves() if step.action == "manual.input")
    return [step.answered.answer for step in steps if step.answered is not None and step.answered.by]


def attendance(view: RunView, last: RunView) -> str:
    """A warning when only one of two rehearsals was attended; else empty."""
    if view.started is None or last.started is None or view.started.attended == last.started.attended:
        return ""
    with_people = "this time" if view.started.attended else "the last time"
    return f"Attended only {with_people}: the times of sections that wait for an operator cannot be compared."


def _ended(folder: Path) -> RunView | None:
    """A run that was not broken off; None also for what cannot be read."""
    if not (folder / JOURNAL).is_file():
        return None
    try:
        view = view_of(read_journal(folder))
    except K2runError:
        return None
    return view if view.finished is not None and view.finished.outcome is not Outcome.INTERRUPTED else None


def _whole_time(view: RunView, last: RunView) -> Iterator[Row]:
    if view.finished is None or last.finished is None:
        return
    yield Row(kind="run", name="verdict", one=last.finished.verdict, other=view.finished.verdict)
    yield Row(
        kind="run",
        name="all of it",
        one=against(last.seconds, last.started.within if last.started is not None else None),
        other=against(view.seconds, view.started.within if view.started is not None else None),
        says=change_of(last.seconds, view.seconds),
    )


def _sections(view: RunView, last: RunView) -> Iterator[Row]:
    """Every section of either, by its name."""
    now, then = ({each.name: each.finished for each in one.sections.values()} for one in (view, last))
    for name in {**now, **then}:
        a, b = then.get(name), now.get(name)
        if a is None and b is None:
            continue
        yield Row(
            kind="section",
            name=name,
            one=against(a.seconds, a.within, a.objective) if a is not None else "",
            other=against(b.seconds, b.within, b.objective) if b is not None else "",
            says=change_of(a.seconds, b.seconds) if a is not None and b is not None else "",
        )


def _clocks(view: RunView, last: RunView) -> Iterator[Row]:
    now, then = ({each.clock: each for each in one.clocks} for one in (view, last))
    for name in {**now, **then}:
        a, b = then.get(name), now.get(name)
        yield Row(
            kind="clock",
            name=name.upper() if name == "rto" else name,
            one=timed(a.seconds, a.error) if a is not None else "",
            other=timed(b.seconds, b.error) if b is not None else "",
            says=change_of(a.seconds, b.seconds) if a is not None and b is not None else "",
        )
