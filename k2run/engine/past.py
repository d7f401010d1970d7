"""What a journal says about a run that did not end: what is finished, what is still broken, what must be done again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k2run.engine.events import AnyEvent, RunFinished, RunStarted, StepFinished, UndoFinished, UndoPlanned
from k2run.engine.sections import ALWAYS, STEADY_AFTER, STEADY_BEFORE
from k2run.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

ENGINE, COMMAND = "engine", "k2run undo"


def started(events: Sequence[AnyEvent]) -> RunStarted:
    """The first event of a run.

    Raises:
        UsageError: The run never got that far.
    """
    if not events or not isinstance(events[0], RunStarted):
        raise UsageError("the run had not begun when it ended", hint="start it again with `k2run run`")
    return events[0]


def ended(events: Sequence[AnyEvent]) -> RunFinished | None:
    """How the run ended, unless it was interrupted or died."""
    last = events[-1] if events else None
    return last if isinstance(last, RunFinished) and last.outcome != "interrupted" else None


def finished_steps(events: Sequence[AnyEvent]) -> dict[str, StepFinished]:
    """The steps that a resumed run need not repeat.

    A fault that k2run (rather than the runbook) has put back is no longer in force: its step, and everything that ran
    after it, is done again. Steady state and `always` are looked at again in any case.
    """
    again = _first_undone_fault(events)
    return {
        event.step: event
        for event in events
        if isinstance(event, StepFinished)
        and (again is None or event.seq < again)
        and event.section not in {STEADY_BEFORE, STEADY_AFTER, ALWAYS}
    }


def figures_of(finished: dict[str, StepFinished]) -> dict[str, Any]:
    """The figures that the finished steps recorded."""
    return {name: value for step in finished.values() for name, value in step.figures.items()}


def _first_undone_fault(events: Sequence[AnyEvent]) -> int | None:
    """The place in the journal of the earliest fault that has been put back by k2run."""
    planned: dict[str, int] = {}
    undone: list[int] = []
    for event in events:
        if isinstance(event, UndoPlanned):
            planned[event.undo] = event.seq
        elif isinstance(event, UndoFinished) and event.by in {ENGINE, COMMAND} and event.undo in planned:
            undone.append(planned[event.undo])
    return min(undone, default=None)
