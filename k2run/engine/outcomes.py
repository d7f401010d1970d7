"""How outcomes add up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.engine.events import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

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


def satisfied(outcome: Outcome) -> bool:
    """Whether nothing went wrong: passed, or there was nothing to do."""
    return outcome not in _WRONG


def of_all(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of several together: the worst; nothing at all is skipped."""
    found = set(outcomes)
    return next((outcome for outcome in _WORST_FIRST if outcome in found), Outcome.SKIPPED)
