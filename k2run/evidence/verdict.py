"""The verdict of a run in a word, its score in words, and what went wrong, worst first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.engine.events import Outcome
from k2run.evidence.wording import Standing, count, counted, percent, points

if TYPE_CHECKING:
    from k2run.engine.events import RunFinished, Scored
    from k2run.evidence.step_view import StepView
    from k2run.evidence.view import RunView

TROUBLE = (Standing.FAILED, Standing.UNKNOWN, Standing.INTERRUPTED, Standing.WARNING, Standing.IGNORED)
"""Standings that need attention, worst first."""


def word_of(finished: RunFinished, scored: Scored | None) -> str:
    """The verdict in a word, in capitals: GO or NO-GO where a score decides, else how the run ended.

    A part of a runbook that passed is PARTIAL: what it left out may be broken. A recovery without effect is no PASSED.
    """
    if finished.partial and finished.outcome is Outcome.PASSED:
        return "PARTIAL"
    if finished.unchanged:
        return "CHANGED NOTHING"
    if finished.outcome in {Outcome.INTERRUPTED, Outcome.NOT_APPLICABLE} or scored is None or scored.go is None:
        return finished.outcome.value.replace("_", " ").upper()
    return "GO" if finished.outcome is Outcome.PASSED else "NO-GO"


def tone_of(finished: RunFinished) -> str:
    """The tone of a verdict: `good` for a whole run that passed alone; `bad` where something failed; else `warn`."""
    if finished.outcome is Outcome.PASSED:
        return "warn" if finished.partial or finished.unchanged else "good"
    return "warn" if finished.outcome in {Outcome.INTERRUPTED, Outcome.NOT_APPLICABLE} else "bad"


def verdict(view: RunView, finished: RunFinished) -> tuple[str, str]:
    """The verdict's word in capitals (GO, NO-GO, PASSED, PARTIAL, FAILED, …), and the rest of its sentence."""
    word = word_of(finished, view.scored).lower()
    rest = finished.verdict
    if rest.lower().startswith(word):
        rest = rest[len(word) :].lstrip(" ,:;")
    return word.upper(), rest


def open_ended(view: RunView) -> tuple[str, str]:
    """The verdict of a run whose journal has no end: a word in capitals, and why."""
    if view.alive:
        return "RUNNING", "this is what it has done so far"
    return "NOT FINISHED", "the journal ends before the run does"


def score_says(scored: Scored) -> list[tuple[str, str]]:
    """The score in the words of every face: points earned of points judged, what share was judged, the band and why."""
    earned, judged = sum(line.earned for line in scored.lines), sum(line.judged for line in scored.lines)
    said = [("Score", f"{points(earned)} of {points(judged)} points judged, {points(scored.score)} of 100")]
    alone = "" if scored.unattended is None else f", {percent(scored.unattended)} of those that need no person"
    said.append(("Judged", f"{percent(scored.coverage)} of all points{alone}"))
    band = ", ".join(filter(None, (scored.band, scored.light)))
    if band:
        said.append(("Band", f"{band}: {scored.why}" if scored.why else band))
    return said


def trouble(view: RunView) -> list[StepView]:
    """The steps that went wrong, worst first, equals in the runbook's order."""
    return sorted(
        (step for step in view.leaves() if step.standing in TROUBLE), key=lambda step: TROUBLE.index(step.standing)
    )


def tally(view: RunView) -> str:
    """Count steps by how they ended, or did not: `31 passed, 1 FAILED; 1 cut off, 4 not reached`."""
    standings = [step.standing for step in view.leaves()]
    waiting, running = standings.count(Standing.WAITING), standings.count(Standing.RUNNING)
    ended = counted(standings) or count(0, "step")
    rest = [*([f"{running} cut off"] if running else []), *([f"{waiting} not reached"] if waiting else [])]
    return "; ".join([ended, *([", ".join(rest)] if rest else [])])
