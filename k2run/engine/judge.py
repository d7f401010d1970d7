"""Judges a whole run from its own events: objectives, score, verdict, exit code.

Long because everything that a run is judged by is on this page.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.engine.events import (
    NO_LENGTH,
    NOT_ALL_SEEN,
    NOT_PLAYED,
    Answered,
    Asked,
    Bound,
    Objected,
    Outcome,
    RunFinished,
    Scored,
    ScoreLine,
    StepFinished,
    bound_of,
    satisfied,
    went_wrong,
)
from k2run.engine.outline import BEFORE, LEFT_OUT
from k2run.engine.replay import latest, unmet_clocks
from k2run.errors import ExpressionFailed, Interrupted, JournalLost, K2runError
from k2run.language.model import Kind
from k2run.language.quantities import Duration
from k2run.language.vocabulary import RUN, SET, SKIP_SECTION, STOP, WAIT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from k2run.engine.events import AnyEvent
    from k2run.language.model import Band, Category, Runbook, Score

CHANGED_NOTHING = "changed nothing"
_INSIDE = re.compile(r"\.(?:block|rescue|always)\[")
NOT_APPLICABLE_CODE = 7
"""Exit code of a run that does not apply to its stack: it has not passed, and nothing has failed."""
_JUDGED = frozenset({Outcome.PASSED, Outcome.FAILED, Outcome.UNKNOWN})
_NO_CHECKS = frozenset({"block", "manual.note", *(word.name for word in (RUN, SET, SKIP_SECTION, STOP, WAIT))})
"""Actions that say nothing about the stack by themselves; the steps inside a block or a runbook speak for it."""


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
    lacking: str = "",
    changed: bool = True,
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
        lacking: Why a fault or a change of it, and what builds on that, does not apply; empty when all do.
        changed: Whether a step may have changed the stack.
    """
    everything = latest(events)
    steps = [step for step in everything if ".run." not in step.step]
    broken = top_level([step for step in steps if critical_failure(step)])
    critical = {step.name: went_wrong(step.name, step.outcome) for step in broken}
    not_stopped = unmet_clocks(events)
    length = no_length(runbook, everything) or seconds
    objectives = [] if stopped else judge_objectives(runbook, length, figures, not_stopped)
    missed = not_kept(objectives, lacking)
    part = part_of(runbook, everything)
    scored = _scored(runbook, steps, events, critical) if runbook.score and not part else None
    failed = [went_wrong(step.name, step.outcome) for step in broken]
    against = [
        *([str(stopped)] if stopped is not None and not isinstance(stopped, Interrupted) else []),
        *failed,
        *missed,
        *(f"not recovered: {why}" for why in not_stopped.values() if not missed),
        *(reason for reason in reasons if reason not in failed),  # a step that ended the run is told once
        *(f"still broken: {says}" for says in pending),
    ]
    pointless = bool(lacking) and (runbook.kind is Kind.SCENARIO or (runbook.kind is Kind.RECOVERY and not changed))
    if scored is not None and scored.go is False and not critical and not pointless:
        against += _short_of(runbook.score, scored)  # type: ignore[arg-type]
    outcome, code = _outcome(stopped, against)
    if outcome is Outcome.PASSED and (pointless or (not remark and nothing_judged(everything))):
        outcome, code, objectives = Outcome.NOT_APPLICABLE, NOT_APPLICABLE_CODE, []
        against = [lacking if pointless else _nothing(everything)]
    unchanged = outcome is Outcome.PASSED and runbook.kind is Kind.RECOVERY and not changed
    remark = "; ".join(filter(None, [CHANGED_NOTHING if unchanged else "", remark]))
    aside = f"not applicable: {lacking}" if lacking and outcome is not Outcome.NOT_APPLICABLE else ""
    return Judgement(
        objectives=objectives,
        scored=scored,
        finished=RunFinished(
            outcome=outcome,
            verdict="; ".join(filter(None, (_verdict(outcome, against, everything, scored, remark), part, aside))),
            exit_code=code,
            seconds=round(seconds, 3),
            reasons=against,
            pending_undos=pending,
            partial=bool(part),
            unchanged=unchanged,
        ),
    )


def part_of(runbook: Runbook, steps: Sequence[StepFinished]) -> str:
    """What a run of a part left out, for its verdict: a part has no score and is no go; empty for a whole run."""
    left = (step for step in steps if step.outcome is Outcome.SKIPPED)
    out = {step.step: step.message for step in left if step.message.startswith((BEFORE, LEFT_OUT))}
    if not out:
        return ""
    whole = [step.path for section in runbook.sections for step in section.steps]
    why = ", ".join(sorted({message.removeprefix(LEFT_OUT.removesuffix("--")) for message in out.values()}))
    done = sum(path not in out for path in whole)
    return f"only a part: {done} of {len(whole)} steps, the others were not checked ({why})"


def _scored(
    runbook: Runbook, steps: list[StepFinished], events: Sequence[AnyEvent], critical: dict[str, str]
) -> Scored | None:
    """The score over all steps with points: one that the run did not reach is not judged."""
    if runbook.score is None:
        return None
    asked = {event.step for event in events if isinstance(event, Asked | Answered)}
    paths = [step.step for step in steps]
    missed = [
        StepFinished(
            step=step.path,
            section=section.path,
            name=str(step.name),
            action=step.action,
            outcome=Outcome.SKIPPED,
            seconds=0.0,
            message="not reached",
            maximum=step.points.maximum,
            category=step.points.category or section.category,
        )
        for section in runbook.sections
        for step in section.steps
        if step.points is not None and not any(path == step.path or path.startswith(f"{step.path}#") for path in paths)
    ]
    return compute(runbook.score, [*steps, *missed], critical, asked)


def _short_of(score: Score, scored: Scored) -> list[str]:
    """What keeps a run without critical failures from a go."""
    value = (
        [f"score {scored.score:g} is below {score.go:g}"] if score.go is not None and scored.score < score.go else []
    )
    lacking = [scored.why] if score.coverage is not None and scored.why in scored.missing else []
    return [*value, *lacking] or ["no points were judged"]


def _nothing(steps: Sequence[StepFinished]) -> str:
    """Why a run has no verdict: what became of its steps instead of a check."""
    counts = Counter(step.outcome for step in top_level(steps))
    became = ", ".join(
        f"{counts[outcome]} {words}"
        for outcome, words in (
            (Outcome.NOT_APPLICABLE, "not applicable"),
            (Outcome.NOT_CONFIRMED, "waiting for a person"),
            (Outcome.SKIPPED, "skipped"),
        )
        if counts[outcome]
    )
    return "nothing was checked" + (f" (steps: {became})" if became else "")


def critical_failure(step: StepFinished) -> bool:
    """Whether this step alone fails the run."""
    cut_off = step.outcome is Outcome.INTERRUPTED  # the run has been ended: that speaks for itself
    return step.severity == "critical" and not step.ignored and not satisfied(step.outcome) and not cut_off


def top_level(steps: Sequence[StepFinished]) -> list[StepFinished]:
    """Steps that are not inside a block or a section of a runbook that is run: those speak for themselves."""
    return [step for step in steps if _INSIDE.search(step.step) is None]


def _outcome(stopped: K2runError | None, against: list[str]) -> tuple[Outcome, int]:
    if isinstance(stopped, Interrupted):
        return Outcome.INTERRUPTED, Interrupted.exit_code
    if stopped is not None:
        return Outcome.FAILED, 1 if isinstance(stopped, JournalLost) else stopped.exit_code
    return (Outcome.FAILED, 1) if against else (Outcome.PASSED, 0)


def _verdict(
    outcome: Outcome, against: list[str], steps: Sequence[StepFinished], scored: Scored | None, remark: str
) -> str:
    """One sentence: go or no-go where a score decides, passed or failed elsewhere."""
    decides = scored is not None and scored.go is not None
    if outcome is Outcome.INTERRUPTED:
        return "interrupted"
    if outcome is Outcome.NOT_APPLICABLE:
        return f"not applicable: {against[0]}"
    if outcome is Outcome.FAILED:
        return f"{'no-go' if decides else 'failed'}: {'; '.join(against[:3])}" + (
            f" and {len(against) - 3} more" if len(against) > 3 else ""  # noqa: PLR2004 - three reasons fit a line
        )
    persons = sum(step.outcome is Outcome.NOT_CONFIRMED for step in steps)
    word = "go" if decides else "passed"
    if remark.startswith(CHANGED_NOTHING):
        word = remark
    elif remark:
        word = f"{word}: {remark}"
    return f"{word}, subject to {persons} item{'s' if persons != 1 else ''} for a person" if persons else word


def nothing_judged(steps: Iterable[StepFinished]) -> bool:
    """Whether no step has looked at anything: all were left out, do not apply, or check nothing."""
    return not any(step.outcome in _JUDGED and _is_check(step) for step in steps)


def _is_check(step: StepFinished) -> bool:
    timed = step.objective not in {None, Bound.NOT_MEASURED}
    return timed or bool(step.expected) or step.action not in _NO_CHECKS


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
