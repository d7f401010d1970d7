"""How outcomes add up: to the worst of several, to a bound that is met, to the score of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.engine.events import (
    Bound,
    Outcome,
    Scored,
    ScoreLine,
    StepFinished,
)
from k2run.engine.replay import without_tries_before
from k2run.language.vocabulary import RUN, SET, SKIP_SECTION, STOP, WAIT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from k2run.engine.events import AnyEvent
    from k2run.language.model import Band, Category, Score

NOT_APPLICABLE_CODE = 7
"""Exit code of a run that does not apply to its stack: it has not passed, and nothing has failed."""
_WORST_FIRST = (
    Outcome.INTERRUPTED,
    Outcome.FAILED,
    Outcome.UNKNOWN,
    Outcome.PASSED,
    Outcome.NOT_CONFIRMED,
    Outcome.NOT_APPLICABLE,
    Outcome.SKIPPED,
)
_WRONG = frozenset({Outcome.FAILED, Outcome.UNKNOWN, Outcome.INTERRUPTED})
_JUDGED = frozenset({Outcome.PASSED, Outcome.FAILED, Outcome.UNKNOWN})
_NO_CHECKS = frozenset({"block", "manual.note", *(word.name for word in (RUN, SET, SKIP_SECTION, STOP, WAIT))})
"""Actions that say nothing about the stack by themselves; the steps inside a block or a runbook speak for it."""


def nothing_judged(steps: Iterable[StepFinished]) -> bool:
    """Whether no step has looked at anything: all were left out, do not apply, or check nothing."""
    return not any(step.outcome in _JUDGED and _is_check(step) for step in steps)


def satisfied(outcome: Outcome) -> bool:
    """Whether nothing went wrong: passed, or there was nothing to do."""
    return outcome not in _WRONG


def went_wrong(name: object, outcome: Outcome) -> str:
    """What is said of a step that went wrong: `"Level is NORMAL" failed`, or that it `could not be checked`."""
    return f'"{name}" {"could not be checked" if outcome is Outcome.UNKNOWN else "failed"}'


def of_all(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of several together: the worst; nothing at all is skipped."""
    found = set(outcomes)
    return next((outcome for outcome in _WORST_FIRST if outcome in found), Outcome.SKIPPED)


def _is_check(step: StepFinished) -> bool:
    timed = step.objective not in {None, Bound.NOT_MEASURED}
    return timed or bool(step.expected) or step.action not in _NO_CHECKS


def latest(events: Sequence[AnyEvent]) -> list[StepFinished]:
    """The last record of each step, in order of first appearance: a resumed run may have repeated some.

    Of what was tried several times only the last try counts.
    """
    finished: dict[str, StepFinished] = {}
    for event in without_tries_before(events):
        if isinstance(event, StepFinished):
            finished[event.step] = event
    return list(finished.values())


def compute(
    score: Score, steps: list[StepFinished], critical_failures: dict[str, str], asked: Collection[str] = ()
) -> Scored:
    """Add up the points.

    A category of weight P whose steps can bring in M points, of which J were judged and E earned, brings E·P/M of
    J·P/M. The score is the sum of the first over the sum of the second, times 100; the coverage is the sum of the
    second over the sum of all P.

    Args:
        score: What the runbook declares.
        steps: How its steps ended.
        critical_failures: By the names of critical steps that went wrong, what is said of each; with any of them there
            is no go.
        asked: Paths of steps that asked a person; what was not confirmed needs one too.
    """
    lines = [_line(category, steps) for category in score.categories]
    judged = sum(line.judged for line in lines)
    total = sum(line.points for line in lines)
    value = min(100.0, 100 * sum(line.earned for line in lines) / judged) if judged else 0.0
    alone = [step for step in steps if step.step not in asked and step.outcome is not Outcome.NOT_CONFIRMED]
    unattended = _share(score, steps, alone)
    lacking = _lacking(score, unattended)
    band, why = _banding(score, value, critical_failures, lacking)
    go = None if score.go is None else bool(judged) and value >= score.go and not critical_failures and not lacking
    return Scored(
        score=round(value, 2),
        coverage=round(judged / total, 4) if total else 0.0,
        lines=lines,
        band=band.name if band else "",
        unattended=None if unattended is None else round(unattended, 4),
        light="red" if critical_failures else band.light if band else "",
        why=why,
        go=go,
        missing=[*_missing(steps, critical_failures), *([lacking] if lacking else [])],
        for_a_person=[step.name for step in steps if step.outcome is Outcome.NOT_CONFIRMED],
        not_applicable=[f"{step.name}: {step.message}" for step in steps if step.outcome is Outcome.NOT_APPLICABLE],
    )


def _banding(score: Score, value: float, critical: dict[str, str], lacking: str) -> tuple[Band | None, str]:
    """The band of a score and why it is that one: a critical failure leaves only red ones, too little judged no green.

    No points judged are no band at all.
    """
    by_points = _band(score.bands, value)
    if critical:
        first, *others = critical.values()
        more = f" (and {len(others)} more)" if others else ""
        red = [band for band in score.bands if band.light == "red"]
        return _band(red, value), f"{first}{more}, which is critical"
    if lacking:
        return _band([band for band in score.bands if band.light != "green"], value), lacking
    return by_points, f"{value:.4g} is at least {by_points.at_least:g}" if by_points else ""


def _band(bands: Iterable[Band], value: float) -> Band | None:
    return max((band for band in bands if value >= band.at_least), key=lambda band: band.at_least, default=None)


def _share(score: Score, steps: list[StepFinished], alone: list[StepFinished]) -> float | None:
    """How much was judged of the points that need no person, weighed by category; None where there are none."""
    names = {category.name: category.points for category in score.categories}
    reachable = {name: sum(step.maximum or 0 for step in steps if step.category == name) for name in names}
    weighed = [
        ((step.maximum or 0) * names[step.category] / reachable[step.category], step.points is not None)
        for step in alone
        if step.category in names and step.maximum
    ]
    total = sum(points for points, _ in weighed)
    return sum(points for points, judged in weighed if judged) / total if total else None


def _lacking(score: Score, unattended: float | None) -> str:
    """What a go misses of the share that has to be judged; empty when nothing, or where none is declared."""
    if score.coverage is None or unattended is None or 100 * unattended >= score.coverage:
        return ""
    return f"{100 * unattended:.0f} % of the points that need no person were judged, {score.coverage:g} % are needed"


def _line(category: Category, steps: list[StepFinished]) -> ScoreLine:
    mine = [step for step in steps if step.category == category.name and step.maximum]
    reachable = sum(step.maximum or 0 for step in mine)
    scale = category.points / reachable if reachable else 0.0
    return ScoreLine(
        category=category.name,
        title=category.title,
        earned=round(scale * sum(step.points or 0 for step in mine), 4),
        judged=round(scale * sum(step.maximum or 0 for step in mine if step.points is not None), 4),
        points=category.points,
    )


def _missing(steps: list[StepFinished], critical_failures: dict[str, str]) -> list[str]:
    """What would have to change for a go: critical failures first, then what lost most points."""
    lost = sorted(
        (step for step in steps if step.points is not None and (step.maximum or 0) > step.points),
        key=lambda step: step.points - (step.maximum or 0),  # type: ignore[operator]
    )
    critical = [
        f"{step.name}: {step.message}"
        for step in steps
        if step.name in critical_failures and not satisfied(step.outcome)
    ]
    others = [
        f"{step.name}: {step.message or step.headline} ({step.points:g} of {step.maximum:g} points)"
        for step in lost
        if step.name not in critical_failures
    ]
    return critical + others


def bound_of(within: float | None, seconds: float, *, measured: bool) -> Bound | None:
    """Whether a time was met; None when none was promised."""
    if within is None:
        return None
    if not measured:
        return Bound.NOT_MEASURED
    return Bound.MET if seconds <= within else Bound.MISSED
