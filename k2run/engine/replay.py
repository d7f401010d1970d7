"""What a journal says about a run that did not end: what is finished, what is still broken, what must be done again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.engine.events import (
    AnyEvent,
    ClockStopped,
    FaultStruck,
    Outcome,
    RunFinished,
    RunStarted,
    SectionFinished,
    StackChanged,
    StepFinished,
    StepTried,
    UndoFinished,
    UndoPlanned,
    ValueKept,
)
from k2run.engine.outline import ALWAYS, STEADY_AFTER, STEADY_BEFORE
from k2run.engine.undo import pending_undos
from k2run.errors import UsageError
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOOKED_AT_AGAIN = frozenset({STEADY_BEFORE, STEADY_AFTER, ALWAYS})
_NESTED = ".run."
ENGINE, COMMAND, DOWN = "engine", "k2run undo", "k2run down"
RUNS_AGAIN = frozenset({"service.start", "service.resume"})
"""Undos that have a service run again."""


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
        clocks: The clocks that stopped by their condition, by path of the step that ran their runbook, and name.
        kept: Values that stay as the first start computed them, by path.
        faults: When each fault that counts was injected, in seconds since the run started, by path.
        tried: How many tries of a block, or of a runbook that is run, are over, by path.
        handed: What the steps of those tries handed on, by path.
        prefix: What stands before all these paths.
    """

    steps: dict[str, StepFinished] = {}
    sections: dict[str, SectionFinished] = {}
    clocks: dict[tuple[str, str], ClockStopped] = {}
    kept: dict[str, Any] = {}
    faults: dict[str, float] = {}
    tried: dict[str, int] = {}
    handed: dict[str, dict[str, Any]] = {}
    prefix: str = ""

    @property
    def first_fault(self) -> float | None:
        """When the first fault was injected."""
        return min(self.faults.values(), default=None)

    def figures(self) -> dict[str, Any]:
        """The figures that were recorded, but not by runbooks that steps run: those have their own."""
        own = [step for path, step in list(self.steps.items()) if _NESTED not in path[len(self.prefix) :]]
        recorded = {name: value for step in own for name, value in step.figures.items()}
        read = {name: Duration(clock.seconds) for (step, name), clock in self.clocks.items() if step == self._runner}
        return {**recorded, **read}

    @property
    def recovered(self) -> bool:
        """Whether the recovery clock of this runbook was stopped by its condition."""
        return (self._runner, "rto") in self.clocks

    @property
    def _runner(self) -> str:
        return self.prefix.removesuffix(_NESTED)

    def below(self, prefix: str) -> Past:
        """What the runbook that a step runs has done."""
        return Past(
            steps={path: step for path, step in list(self.steps.items()) if path.startswith(prefix)},
            clocks=self.clocks,
            kept=self.kept,
            tried=self.tried,
            handed=self.handed,
            faults={path: began for path, began in self.faults.items() if path.startswith(prefix)},
            prefix=prefix,
        )

    def forget(self, path: str) -> None:
        """What is below this path is done again."""
        for known in (self.steps, self.kept, self.tried, self.handed):
            for each in [each for each in list(known) if each.startswith(f"{path}.")]:
                known.pop(each, None)
        for each in [each for each in list(self.faults) if each.startswith(f"{path}.")]:
            self.faults.setdefault(path, self.faults.pop(each))
        for clock in [clock for clock in list(self.clocks) if f"{clock[0]}.".startswith(f"{path}.")]:
            self.clocks.pop(clock, None)


def without_tries_before(events: Sequence[AnyEvent]) -> list[AnyEvent]:
    """The events without what belongs to tries (of blocks, and of runbooks that are run) after which another came."""
    last = _last_tries(events)
    return [event for event in events if not _tried_again(event, last)] if last else list(events)


def _last_tries(events: Sequence[AnyEvent]) -> dict[str, int]:
    """The place in the journal where the newest try of each step that is tried again began, by its path."""
    return {event.step: event.seq for event in events if isinstance(event, StepTried)}


def _tried_again(event: AnyEvent, last: dict[str, int]) -> str:
    """The path of the (outermost) step inside of which an event stands whose try another one followed; "" when none."""
    match event:
        case ValueKept():
            path = event.of
        case ClockStopped():
            path = f"{event.step}{_NESTED}"  # of the runbook that this step runs
        case StepFinished() | StepTried() | FaultStruck():
            path = event.step
        case _:
            return ""
    around = (path[:at] for at, sign in enumerate(path) if sign == ".")
    return next((each for each in around if event.seq < last.get(each, 0)), "")


def _tries(events: Sequence[AnyEvent]) -> tuple[dict[str, int], dict[str, dict[str, Any]]]:
    """How many tries of each step are over, and what the steps in them handed on."""
    tried: dict[str, int] = {}
    handed: dict[str, dict[str, Any]] = {}
    for event in without_tries_before(events):
        if isinstance(event, StepTried):
            tried[event.step] = max(event.attempt, tried.get(event.step, 0))
    for event in events:
        if not isinstance(event, StepFinished) or not event.variables or "#" in event.step.rpartition(".")[2]:
            continue
        for path in tried:
            if event.step.startswith(f"{path}.") and _NESTED not in event.step[len(path) :]:
                handed.setdefault(path, {}).update(event.variables)
    return tried, handed


def past_of(events: Sequence[AnyEvent]) -> Past:
    """What a resumed run finds done.

    A fault that k2run (rather than the runbook) has put back is no longer in force: its step, and everything that ran
    after it, is done again. So is everything when the stack was stopped since: what steps found there holds no more.
    Steady state and `always` run again in any case.
    """
    stopped = stopped_at(events)
    events = [event for event in events if event.seq > stopped]
    again = _first_undone_fault(events)
    before = [event for event in events if again is None or event.seq < again]
    tried, handed = _tries(before)
    counts = [event for event in without_tries_before(before) if not _is_done_again(event)]
    last, faults = _last_tries(before), dict[str, float]()
    for event in before:
        if isinstance(event, FaultStruck):  # one of a finished try counts for what is around that
            faults.setdefault(_tried_again(event, last) or event.step, event.began)
    return Past(
        steps={event.step: event for event in counts if isinstance(event, StepFinished)},
        sections={event.section: event for event in counts if isinstance(event, SectionFinished)},
        clocks={
            (event.step, event.clock): event
            for event in counts
            if isinstance(event, ClockStopped) and not event.message
        },
        kept={event.of: event.value for event in counts if isinstance(event, ValueKept)},
        faults=faults,
        tried=tried,
        handed=handed,
    )


def stopped_at(events: Sequence[AnyEvent]) -> int:
    """The place in the journal where the stack was stopped for the last time; 0 when it was not."""
    return max(
        (event.seq for event in events if isinstance(event, StackChanged) and event.verb == "stopped"), default=0
    )


def own_services(events: Sequence[AnyEvent]) -> list[str]:
    """The services that an earlier part of a run has started, and neither stopped nor left up on purpose since."""
    started: list[str] = []
    for event in events:
        if isinstance(event, StackChanged):
            started = [*started, *event.services] if event.verb == "started" else []
    return list(dict.fromkeys(started))


def since_down(events: Sequence[AnyEvent], stopped: Sequence[str]) -> list[StackChanged | UndoFinished]:
    """What a journal lacks of a stack that `k2run down` has stopped since.

    It was stopped, and its services need not run again: an undo would start one of them alone.

    Args:
        events: The journal.
        stopped: The services that were stopped.
    """
    settled = [
        UndoFinished(undo=entry.undo, says=entry.says, outcome=Outcome.PASSED, by=DOWN, message="the stack is down")
        for entry in pending_undos(events)
        if entry.action in RUNS_AGAIN
    ]
    return [StackChanged(verb="stopped", services=list(stopped)), *settled]


def _is_done_again(event: AnyEvent) -> bool:
    """Whether it says nothing about what need not be repeated: it was cut off, or is checked again in any case."""
    if isinstance(event, StepFinished | SectionFinished) and event.outcome is Outcome.INTERRUPTED:
        return True
    if isinstance(event, ValueKept):
        return event.of.rpartition(_NESTED)[2].partition("[")[0] in _LOOKED_AT_AGAIN
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


def latest(events: Sequence[AnyEvent]) -> list[StepFinished]:
    """The last record of each step, in order of first appearance: a resumed run may have repeated some.

    Of what was tried several times only the last try counts.
    """
    finished: dict[str, StepFinished] = {}
    for event in without_tries_before(events):
        if isinstance(event, StepFinished):
            finished[event.step] = event
    return list(finished.values())


def unmet_clocks(events: Sequence[AnyEvent]) -> dict[str, str]:
    """Why the clocks of the run that did not stop by their condition did not, by their names."""
    read = {event.clock: event.message for event in events if isinstance(event, ClockStopped) and not event.step}
    return {clock: why for clock, why in read.items() if why}
