"""How outcomes add up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.engine.events import Bound, Outcome
from k2run.language.vocabulary import RUN, SET, SKIP_SECTION, STOP, WAIT

NOT_APPLICABLE_CODE = 7
"""Exit code of a run that does not apply to its stack: it has not passed, and nothing has failed."""

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k2run.engine.events import StepFinished

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


def _is_check(step: StepFinished) -> bool:
    timed = step.objective not in {None, Bound.NOT_MEASURED}
    return timed or bool(step.expected) or step.action not in _NO_CHECKS


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
