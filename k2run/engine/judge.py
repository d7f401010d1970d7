"""Judges a whole run from its own events: objectives, score, verdict, exit code."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.engine.events import Bound, Objected, Outcome, RunFinished, Scored, StepFinished
from k2run.engine.outcomes import satisfied
from k2run.engine.score import compute, latest
from k2run.errors import ExpressionFailed, Interrupted, K2runError
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.engine.events import AnyEvent
    from k2run.language.model import Runbook

_INSIDE = re.compile(r"\.(?:block|rescue|always)\[")


class Judgement(Struct, frozen=True, kw_only=True):
    """What is recorded at the end of a run."""

    objectives: list[Objected]
    scored: Scored | None
    finished: RunFinished


def judge_run(  # noqa: PLR0913 - the end of a run looks at all of it
    runbook: Runbook,
    events: Sequence[AnyEvent],
    *,
    seconds: float,
    figures: dict[str, Any],
    stopped: K2runError | None,
    reasons: list[str],
    pending: list[str],
    remark: str = "",
) -> Judgement:
    """Judge a run.

    Args:
        runbook: What was promised.
        events: What happened.
        seconds: How long it took.
        figures: The recorded figures, `rto` and `rpo` among them.
        stopped: What ended the run before its time, if anything did.
        reasons: Further reasons against it: undos that failed, sections that were not reached.
        pending: What is still broken.
        remark: What else belongs into the verdict of a run that passed.
    """
    everything = latest(events)
    steps = [step for step in everything if ".run." not in step.step]
    critical = [step.name for step in top_level([step for step in steps if critical_failure(step)])]
    objectives = [] if isinstance(stopped, Interrupted) else list(judge_objectives(runbook, seconds, figures))
    missed = [_against(entry) for entry in objectives if entry.bound is not Bound.MET]
    scored = compute(runbook.score, steps, critical) if runbook.score else None
    ended = [str(stopped)] if stopped is not None and not isinstance(stopped, Interrupted) else []
    if ended:
        objectives, missed = [], []
    failed = [f"{name} failed" for name in critical]
    against = [
        *ended,
        *failed,
        *missed,
        *(reason for reason in reasons if reason not in failed),  # a step that ended the run is told once
        *(f"still broken: {says}" for says in pending),
    ]
    if scored is not None and scored.go is False and not critical:
        against.append(f"score {scored.score:g} is below {runbook.score.go:g}")  # type: ignore[union-attr]
    outcome, code = _outcome(stopped, against)
    return Judgement(
        objectives=objectives,
        scored=scored,
        finished=RunFinished(
            outcome=outcome,
            verdict=_verdict(outcome, against, everything, scored, remark),
            exit_code=code,
            seconds=round(seconds, 3),
            reasons=against,
            pending_undos=pending,
        ),
    )


def critical_failure(step: StepFinished) -> bool:
    """Whether this step alone fails the run."""
    return step.severity == "critical" and not step.ignored and not satisfied(step.outcome)


def top_level(steps: Sequence[StepFinished]) -> list[StepFinished]:
    """Steps that are not inside a block or a section of a runbook that is run: those speak for themselves."""
    return [step for step in steps if _INSIDE.search(step.step) is None]


def judge_objectives(runbook: Runbook, seconds: float, figures: dict[str, Any]) -> list[Objected]:
    """Hold the run against what the runbook promises."""
    promised = runbook.objective
    found: list[Objected] = []
    if promised.within is not None:
        bound = Bound.MET if seconds <= promised.within else Bound.MISSED
        found.append(
            Objected(objective=f"whole run within {promised.within}", value=str(Duration(seconds)), bound=bound)
        )
    for name, limit in (("rto", promised.rto), ("rpo", promised.rpo)):
        if limit is not None:
            found.append(_limit(name, limit, figures.get(name)))
    for expression in promised.figures:
        try:
            bound = Bound.MET if expression.evaluate({**figures, "figures": figures}) else Bound.MISSED
            value = ", ".join(f"{name} = {figures[name]}" for name in sorted(expression.names & figures.keys()))
        except ExpressionFailed as error:
            bound, value = Bound.NOT_MEASURED, error.message
        found.append(Objected(objective=expression.text, value=value, bound=bound))
    return found


def _against(entry: Objected) -> str:
    """A promise that was not measured is not kept."""
    if entry.bound is Bound.MISSED:
        return f"objective missed: {entry.objective} ({entry.value})"
    return f"objective not measured: {entry.objective}"


def _limit(name: str, limit: float, value: Any) -> Objected:
    text = f"{name} within {limit}" if isinstance(limit, Duration) else f"{name} at most {limit:g}"
    if not isinstance(value, int | float):
        return Objected(objective=text, value="not measured", bound=Bound.NOT_MEASURED)
    return Objected(objective=text, value=str(value), bound=Bound.MET if value <= limit else Bound.MISSED)


def _outcome(stopped: K2runError | None, against: list[str]) -> tuple[Outcome, int]:
    if isinstance(stopped, Interrupted):
        return Outcome.INTERRUPTED, Interrupted.exit_code
    if stopped is not None:
        return Outcome.FAILED, stopped.exit_code
    return (Outcome.FAILED, 1) if against else (Outcome.PASSED, 0)


def _verdict(
    outcome: Outcome, against: list[str], steps: Sequence[StepFinished], scored: Scored | None, remark: str
) -> str:
    """One sentence: go or no-go where a score decides, passed or failed elsewhere."""
    decides = scored is not None and scored.go is not None
    if outcome is Outcome.INTERRUPTED:
        return "interrupted"
    if outcome is Outcome.FAILED:
        return f"{'no-go' if decides else 'failed'}: {'; '.join(against[:3])}" + (
            f" and {len(against) - 3} more" if len(against) > 3 else ""  # noqa: PLR2004 - three reasons fit a line
        )
    persons = sum(step.outcome is Outcome.NOT_CONFIRMED for step in steps)
    word = "go" if decides else "passed"
    word = f"{word}: {remark}" if remark else word
    return f"{word}, subject to {persons} item{'s' if persons != 1 else ''} for a person" if persons else word
