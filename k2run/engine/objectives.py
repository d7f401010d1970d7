"""Compares a run with what its runbook promises: times, losses and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k2run.engine.events import NO_LENGTH, NOT_ALL_SEEN, NOT_PLAYED, Bound, Objected, Outcome, StepFinished, bound_of
from k2run.errors import ExpressionFailed
from k2run.language.model import Kind
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from k2run.language.model import Runbook

NO_CLOCKS: dict[str, str] = {}


def no_length(runbook: Runbook, steps: Sequence[StepFinished]) -> str:
    """Why the length of a run says nothing of it; empty when it does."""
    if runbook.kind is Kind.REHEARSAL and any(step.outcome is Outcome.NOT_CONFIRMED for step in steps):
        return NOT_PLAYED
    mended = tuple(f"{step.step}." for step in steps if step.action == "block" and step.outcome is Outcome.PASSED)
    unseen = (step for step in steps if step.outcome is Outcome.UNKNOWN and not step.ignored)
    rescued = (step.severity == "critical" and step.step.startswith(mended) for step in unseen)
    return "" if all(rescued) else NOT_ALL_SEEN


def judge_objectives(
    runbook: Runbook, seconds: float | str, figures: dict[str, Any], not_stopped: Mapping[str, str] = NO_CLOCKS
) -> list[Objected]:
    """Compare with what is promised; a clock that did not stop by its condition missed it.

    Args:
        runbook: What was promised.
        seconds: How long it took, or why that says nothing of it.
        figures: The recorded figures.
        not_stopped: Why clocks did not stop, by their names.
    """
    promised = runbook.objective
    found: list[Objected] = []
    if promised.within is not None:
        timed = not isinstance(seconds, str)
        value = str(Duration(seconds)) if timed else str(seconds)
        met = bound_of(promised.within, float(seconds) if timed else 0.0, measured=timed) or Bound.MET
        found.append(Objected(objective=f"whole run within {promised.within}", value=value, bound=met))
    for name, limit in (("rto", promised.rto), ("rpo", promised.rpo)):
        if limit is not None:
            found.append(_limit(name, limit, figures.get(name), not_stopped.get(name, "")))
    for expression in promised.figures:
        open_clocks = [not_stopped[name] for name in sorted(expression.names & not_stopped.keys())]
        if open_clocks:
            found.append(Objected(objective=expression.text, value="; ".join(open_clocks), bound=Bound.MISSED))
            continue
        try:
            bound = Bound.MET if expression.evaluate({**figures, "figures": figures}) else Bound.MISSED
            value = ", ".join(f"{name} = {figures[name]}" for name in sorted(expression.names & figures.keys()))
        except ExpressionFailed as error:
            bound, value = Bound.NOT_MEASURED, error.message
        found.append(Objected(objective=expression.text, value=value, bound=bound))
    return found


def not_kept(objectives: Sequence[Objected], lacking: str) -> list[str]:
    """The promises that were not kept; one that was not measured is none, unless something does not apply."""
    kept = {Bound.MET, Bound.NOT_MEASURED} if lacking else {Bound.MET}
    return [
        f"objective missed: {each.objective} ({each.value})"
        if each.bound is Bound.MISSED
        else f"objective not measured: {each.objective}"
        for each in objectives
        if each.bound not in kept and each.value not in NO_LENGTH
    ]


def _limit(name: str, limit: float, value: Any, why_not: str = "") -> Objected:
    text = f"{name} within {limit}" if isinstance(limit, Duration) else f"{name} at most {limit:g}"
    if why_not:
        return Objected(objective=text, value=why_not, bound=Bound.MISSED)
    if not isinstance(value, int | float):
        return Objected(objective=text, value="not measured", bound=Bound.NOT_MEASURED)
    return Objected(objective=text, value=str(value), bound=Bound.MET if value <= limit else Bound.MISSED)
