"""What every face and report says about a whole run: its verdict in a word, and what went wrong, the gravest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.engine.events import Outcome
from k2run.evidence.wording import Standing, count, counted

if TYPE_CHECKING:
    from k2run.engine.events import RunFinished
    from k2run.evidence.view import RunView, StepView

TROUBLE = (Standing.FAILED, Standing.UNKNOWN, Standing.INTERRUPTED, Standing.WARNING, Standing.IGNORED)
"""What asks for somebody's attention, the gravest first."""


def verdict(view: RunView, finished: RunFinished) -> tuple[str, str]:
    """The verdict's word in capitals (GO, NO-GO, PASSED, FAILED, INTERRUPTED), and the rest of its sentence."""
    go = view.scored.go if view.scored is not None else None
    if finished.outcome is Outcome.INTERRUPTED or go is None:
        word = finished.outcome.value
    else:
        word = "go" if finished.outcome is Outcome.PASSED else "no-go"
    rest = finished.verdict
    if rest.lower().startswith(word):
        rest = rest[len(word) :].lstrip(" ,:;")
    return word.upper(), rest


def trouble(view: RunView) -> list[StepView]:
    """The steps that went wrong, the gravest first, and in the runbook's order among equals."""
    return sorted(
        (step for step in view.leaves() if step.standing in TROUBLE), key=lambda step: TROUBLE.index(step.standing)
    )


def tally(view: RunView) -> str:
    """How many steps ended how, and how many did not: `31 passed, 1 FAILED; 1 cut off, 4 not reached`."""
    standings = [step.standing for step in view.leaves()]
    waiting, running = standings.count(Standing.WAITING), standings.count(Standing.RUNNING)
    ended = counted(standings) or count(0, "step")
    rest = [*([f"{running} cut off"] if running else []), *([f"{waiting} not reached"] if waiting else [])]
    return "; ".join([ended, *([", ".join(rest)] if rest else [])])
