"""What a journal says about a run that did not end: what is finished, what is still broken, what must be done again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.engine.events import (
    AnyEvent,
    ClockStopped,
    FaultStruck,
    RunFinished,
    RunStarted,
    SectionFinished,
    StepFinished,
    UndoFinished,
    UndoPlanned,
)
from k2run.engine.outline import ALWAYS, STEADY_AFTER, STEADY_BEFORE
from k2run.errors import UsageError
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOOKED_AT_AGAIN = frozenset({STEADY_BEFORE, STEADY_AFTER, ALWAYS})
_NESTED = ".run."
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


class Past(Struct, frozen=True, kw_only=True):
    """What an earlier part of a run has done, and need not be repeated.

    Attributes:
        steps: The finished steps, by path.
        sections: The finished sections, by path.
        clocks: The clocks that were stopped, by the path of the step that ran their runbook.
        faults: When each fault that counts was let go, in seconds since the run started, by path.
        prefix: What stands before all these paths.
    """

    steps: dict[str, StepFinished] = {}
    sections: dict[str, SectionFinished] = {}
    clocks: dict[str, ClockStopped] = {}
    faults: dict[str, float] = {}
    prefix: str = ""

    @property
    def first_fault(self) -> float | None:
        """When the first fault was let go."""
        return min(self.faults.values(), default=None)

    def figures(self) -> dict[str, Any]:
        """The figures that were recorded, but not by runbooks that steps run: those have their own."""
        own = [step for path, step in self.steps.items() if _NESTED not in path[len(self.prefix) :]]
        recorded = {name: value for step in own for name, value in step.figures.items()}
        clock = self.clocks.get(self.prefix.removesuffix(_NESTED))
        return recorded if clock is None else {**recorded, clock.clock: Duration(clock.seconds)}

    def below(self, prefix: str) -> Past:
        """What the runbook that a step runs has done."""
        return Past(
            steps={path: step for path, step in self.steps.items() if path.startswith(prefix)},
            clocks=self.clocks,
            faults={path: began for path, began in self.faults.items() if path.startswith(prefix)},
            prefix=prefix,
        )


def past_of(events: Sequence[AnyEvent]) -> Past:
    """What a resumed run finds done.

    A fault that k2run (rather than the runbook) has put back is no longer in force: its step, and everything that ran
    after it, is done again. Steady state and `always` are looked at again in any case.
    """
    again = _first_undone_fault(events)
    counts = [event for event in events if (again is None or event.seq < again) and not _is_looked_at_again(event)]
    return Past(
        steps={event.step: event for event in counts if isinstance(event, StepFinished)},
        sections={event.section: event for event in counts if isinstance(event, SectionFinished)},
        clocks={event.step: event for event in counts if isinstance(event, ClockStopped) and not event.message},
        faults={event.step: event.began for event in counts if isinstance(event, FaultStruck)},
    )


def _is_looked_at_again(event: AnyEvent) -> bool:
    if isinstance(event, StepFinished) and _NESTED in event.step:
        return event.step.rpartition(_NESTED)[2].partition("[")[0] in _LOOKED_AT_AGAIN
    return isinstance(event, StepFinished | SectionFinished) and event.section in _LOOKED_AT_AGAIN


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
