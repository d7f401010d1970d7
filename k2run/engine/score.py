"""The score of a run, computed from the steps that were judged; never above 100, never from what was not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.engine.events import Outcome, Scored, ScoreLine, StepFinished
from k2run.engine.outcomes import satisfied

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k2run.language.model import Band, Category, Score


def latest(events: Iterable[object]) -> list[StepFinished]:
    """The last record of each step, in order of first appearance: a resumed run may have repeated some."""
    finished: dict[str, StepFinished] = {}
    for event in events:
        if isinstance(event, StepFinished):
            finished[event.step] = event
    return list(finished.values())


def compute(score: Score, steps: list[StepFinished], critical_failures: list[str]) -> Scored:
    """Add up the points.

    A category of weight P whose steps can bring in M points, of which J were judged and E earned, brings E·P/M of
    J·P/M. The score is the sum of the first over the sum of the second, times 100; the coverage is the sum of the
    second over the sum of all P.

    Args:
        score: What the runbook declares.
        steps: How its steps ended.
        critical_failures: Names of critical steps that failed; with any of them there is no go.
    """
    lines = [_line(category, steps) for category in score.categories]
    judged = sum(line.judged for line in lines)
    total = sum(line.points for line in lines)
    value = min(100.0, 100 * sum(line.earned for line in lines) / judged) if judged else 0.0
    band = _band(score, value, critical=bool(critical_failures))
    go = None if score.go is None else bool(judged) and value >= score.go and not critical_failures
    return Scored(
        score=round(value, 2),
        coverage=round(judged / total, 4) if total else 0.0,
        lines=lines,
        band=band.name if band else "",
        light="red" if critical_failures else band.light if band else "",
        go=go,
        missing=_missing(steps, critical_failures),
        for_a_person=[step.name for step in steps if step.outcome is Outcome.NOT_CONFIRMED],
        not_applicable=[f"{step.name}: {step.message}" for step in steps if step.outcome is Outcome.NOT_APPLICABLE],
    )


def _band(score: Score, value: float, *, critical: bool) -> Band | None:
    """The band of a score; a critical failure leaves only the red ones, whatever the points say."""
    possible = [band for band in score.bands if band.light == "red"] if critical else score.bands
    reached = [band for band in possible if value >= band.at_least]
    return max(reached, key=lambda band: band.at_least, default=None)


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


def _missing(steps: list[StepFinished], critical_failures: list[str]) -> list[str]:
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
