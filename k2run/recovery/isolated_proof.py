"""Proves a repair by its own symptoms, while other failures keep the stack from its steady state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.engine.events import (
    Bound,
    ClockStopped,
    Outcome,
    SectionFinished,
    SectionStarted,
    StepFinished,
    StepStarted,
    bound_of,
)
from k2run.language.quantities import Duration
from k2run.recovery.looks import suspicion

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2run.engine.execution import Execution
    from k2run.engine.interrupts import StopRequest
    from k2run.language.model import Runbook

REPAIRED = "repaired"
"""The clock of a repair that is proven by its own symptoms; `rto` is the one of the whole steady state."""
LIMIT_S = 20.0
PERIOD_S = 0.1
SECTION, NAME = "repaired", "Its own symptoms are gone"
STEP, LOOK = f"{SECTION}.symptoms", "Look at its symptoms"


def prove_alone(runbook: Runbook) -> Callable[[Execution, StopRequest], None]:
    """What a run does after its sections: look at the symptoms of its failure until they are gone, and stop a clock.

    Args:
        runbook: The recovery, with its symptoms.
    """

    def prove(execution: Execution, _signals: StopRequest) -> None:
        journal = execution.journal
        began = journal.elapsed()
        journal.record(SectionStarted(section=SECTION, name=NAME))
        journal.record(StepStarted(step=STEP, section=SECTION, name=LOOK, action="diagnose"))
        gone, looking = _await_gone(runbook, execution)
        proven = gone and not execution.unproven
        outcome = Outcome.PASSED if proven else Outcome.FAILED
        headline = f"{runbook.name} is {'ruled out' if gone else 'still recognised'}"
        if gone and not proven:
            headline += f", and the repair is not proven: {execution.unproven}"
        seconds = round(journal.elapsed() - began, 3)
        journal.record(
            StepFinished(
                step=STEP,
                section=SECTION,
                name=LOOK,
                action="diagnose",
                outcome=outcome,
                seconds=seconds,
                headline=headline,
            )
        )
        journal.record(SectionFinished(section=SECTION, name=NAME, outcome=outcome, seconds=seconds))
        _stop_clock(runbook, execution, looking, "" if proven else headline)

    return prove


def _await_gone(runbook: Runbook, execution: Execution) -> tuple[bool, float]:
    """Whether the failure is ruled out in time, and how long the look took that saw it."""
    journal = execution.journal
    ends = journal.elapsed() + LIMIT_S
    while True:
        execution.check_stop()
        began = journal.elapsed()
        suspect = suspicion(runbook, execution.stack, execution.caller.catalogue, execution.stop)
        gone = suspect.gone
        if gone or journal.elapsed() > ends:
            return gone, journal.elapsed() - began
        execution.stop.wait(PERIOD_S)


def _stop_clock(runbook: Runbook, execution: Execution, looking: float, why_not: str) -> None:
    began = execution.first_fault or 0.0
    seconds = round(execution.journal.elapsed() - began, 3)
    promised = runbook.objective.rto
    if not why_not:
        execution.figures[REPAIRED] = Duration(seconds)
    execution.journal.record(
        ClockStopped(
            clock=REPAIRED,
            seconds=seconds,
            error=round(looking + PERIOD_S, 3),
            within=promised,
            objective=Bound.MISSED if why_not else bound_of(promised, seconds, measured=True),
            message=why_not,
        )
    )
