"""The repairs of one stack, one after the other: whose turn it is, and what its repair can prove by then."""

from __future__ import annotations

import time
from itertools import dropwhile, takewhile
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from k2run.engine.events import (
    Bound,
    ClockStopped,
    Outcome,
    RunFinished,
    SectionFinished,
    SectionStarted,
    StepFinished,
    StepStarted,
    bound_of,
    satisfied,
)
from k2run.engine.outline import steps_within
from k2run.engine.step_record import did_change, expected
from k2run.language.expressions import Expression, Template
from k2run.language.quantities import Duration
from k2run.language.vocabulary import ONLY_LOOKS
from k2run.recovery.account import REPAIRED, Tries
from k2run.recovery.diagnosis import Order
from k2run.recovery.looks import suspicion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from k2run.actions.catalogue import Catalogue
    from k2run.engine.events import AnyEvent
    from k2run.engine.execution import Execution
    from k2run.engine.request import Request
    from k2run.engine.safeguards import StopRequest
    from k2run.language.model import Runbook, Section, Step
    from k2run.recovery.diagnosis import Diagnosis, Suspect, Why
    from k2run.stack.stack import Stack

LIMIT_S = 20.0
PERIOD_S = 0.1
SECTION, NAME = "repaired", "Its own symptoms are gone"
STEP, LOOK = f"{SECTION}.symptoms", "Look at its symptoms"


def prove_alone(runbook: Runbook) -> Callable[[Execution, StopRequest], None]:
    """What a run does after its sections: look at the symptoms of its failure until they are gone, and stop a clock."""

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


class Waiting(Struct, frozen=True, kw_only=True):
    """A failure that waits for its turn; its clock goes on.

    Attributes:
        name: Its recovery.
        known: When it was recognised first, in seconds of the monotonic clock.
        rto: Seconds within which it is to be recovered; None where nothing is promised.
    """

    name: str
    known: float
    rto: float | None


class Repair(Struct, frozen=True, kw_only=True):
    """One recovery whose turn has come.

    Attributes:
        runbook: The recovery, as it is written.
        suspect: The failure, where a diagnosis named it.
        only_proof: It was repaired before; what is left is the proof that was owed.
        beside: Failures that are still to be repaired and that its steady state would trip over. While there are any,
            the repair is proven by its own symptoms, which have to be gone, and its steady state is owed.
        ahead_of: The likelier failure that waits for this one; empty when this is the likeliest.
        known: When the failure was recognised first, in seconds of the monotonic clock.
        causes: Why services fail, as it is written.
        pause: Seconds to wait before it: it is tried again, and what stood in its way may have ended by then.
        waiting: The other failures.
    """

    runbook: Runbook
    suspect: Suspect | None = None
    only_proof: bool = False
    beside: tuple[str, ...] = ()
    ahead_of: str = ""
    known: float
    pause: float = 0.0
    waiting: tuple[Waiting, ...] = ()
    causes: tuple[Why, ...] = ()

    @property
    def says(self) -> str:
        """What is special about it, for people; empty when nothing is."""
        name = self.runbook.name
        if self.pause:
            return f"{name} is tried again in {self.pause:.0f}s: its failure is still recognised, its time is not over"
        if self.only_proof:
            return f"{name} was proven by its own symptoms alone; now the whole steady state is"
        if not self.beside:
            return ""
        others = ", ".join(self.beside)
        return f"{name} is proven by its own symptoms; its steady state comes after {others}"

    def request(self, request: Request) -> Request:
        """The run that does it; its clocks run from the moment in which the failure was known.

        Args:
            request: All but the runbook of that run.
        """
        options = replace(request.options, known_for=round(time.monotonic() - self.known, 3))
        if self.only_proof:
            sections = tuple(dropwhile(_repairs, self.runbook.sections))
            proof = replace(self.runbook, title=f"{self.runbook.title}: proof", sections=sections)
            return replace(request, runbook=proof, options=options)
        if not self.beside:
            return replace(request, runbook=self.runbook, options=options)
        return replace(
            request,
            runbook=_narrowed(self.runbook),
            inside=prove_alone(self.runbook),
            options=options,
        )


class Clocks:
    """Notes when the clocks of a recovery stopped, in the time of whoever looks on, and how the recovery ended.

    Args:
        read: The time, in seconds.

    Attributes:
        stopped: When each clock stopped by its condition.
        passed: Whether the run passed.
        changed: Whether a step of it may have changed the stack.
    """

    def __init__(self, read: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._failed = False
        self.stopped: dict[str, float] = {}
        self.passed = self.changed = False

    def see(self, event: AnyEvent) -> None:
        """Take note of an event."""
        if isinstance(event, ClockStopped) and not event.message:
            self.stopped[event.clock] = self._read()
        elif isinstance(event, SectionFinished) and not satisfied(event.outcome):
            self._failed = True
        elif isinstance(event, StepFinished):
            self.changed = self.changed or did_change(event)
        elif isinstance(event, RunFinished):
            self.passed = event.outcome is Outcome.PASSED
            self.changed = self.changed and not event.unchanged

    @property
    def proven(self) -> bool:
        """Whether the steady state came back, and nothing that was checked beside it failed."""
        return "rto" in self.stopped and not self._failed


class Repairs:
    """Plans the repairs of one stack from diagnosis to diagnosis.

    Args:
        runbooks: The recoveries.
        stack: The stack they repair.
        catalogue: The actions of their steps.
        at_most: Consecutive recoveries before an operator has to decide.

    Attributes:
        tries: What was run so far, and what it did. A recovery is tried again only while its own objective lasts.
    """

    def __init__(self, runbooks: Sequence[Runbook], stack: Stack, catalogue: Catalogue, at_most: int) -> None:
        self._runbooks = {runbook.name: runbook for runbook in runbooks}
        self._order = Order(runbooks, stack, catalogue)
        self._at_most = at_most
        self._known: dict[str, float] = {}
        self._owed: list[str] = []
        self.tries = Tries()

    def next(self, found: Diagnosis) -> Repair | None:
        """What is to be done after this diagnosis; None when the stack is proven well, or nothing is left to try."""
        now = time.monotonic()
        for suspect in found.matches:
            self._known.setdefault(suspect.runbook, now)
        self.tries.judge(found)
        if found.healthy:
            return self._proof()
        tried = self.tries.names
        left = [suspect for suspect in found.matches if suspect.runbook not in tried]
        if len(tried) == self._at_most:
            left = []
        pause = 0.0
        if not left:
            left, pause = self._again(found, now)
        first = self._order.first(left)
        if first is None:
            return None
        self.tries.begin(first.runbook, found)
        runbook = self._runbooks[first.runbook]
        return Repair(
            runbook=runbook,
            suspect=first,
            beside=tuple(
                other.runbook
                for other in found.matches
                if other is not first and _share_a_state(runbook, self._runbooks[other.runbook])
            ),
            ahead_of="" if first is left[0] else left[0].runbook,
            known=self._known[first.runbook],
            pause=pause,
            waiting=tuple(self._waiting(other.runbook) for other in found.matches if other is not first),
            causes=tuple(found.causes),
        )

    def _waiting(self, name: str) -> Waiting:
        return Waiting(name=name, known=self._known[name], rto=self._runbooks[name].objective.rto)

    def _again(self, found: Diagnosis, now: float) -> tuple[list[Suspect], float]:
        """The failure whose recovery is worth another try soonest, and in how many seconds; an empty list for none."""
        tried = self.tries.names
        pauses = {
            suspect.runbook: self.tries.pause(suspect, self._known[suspect.runbook], now)
            for suspect in found.matches
            if suspect.runbook in tried
        }
        worth = [suspect for suspect in found.matches if pauses.get(suspect.runbook) is not None]
        first = min(worth, key=lambda suspect: pauses[suspect.runbook] or 0.0, default=None)
        return ([], 0.0) if first is None else ([first], pauses[first.runbook] or 0.0)

    def _proof(self) -> Repair | None:
        """The proof that is owed longest."""
        if not self._owed:
            return None
        name = self._owed[0]
        return Repair(runbook=self._runbooks[name], only_proof=True, known=self._known[name])

    def done(self, repair: Repair, clocks: Clocks) -> None:
        """Take note of how a repair ended."""
        if not repair.only_proof:
            self.tries.end(time.monotonic(), passed=clocks.passed, changed=clocks.changed)
        if repair.beside:
            self._owed += [repair.runbook.name] if repair.runbook.name not in self._owed else []
        elif clocks.proven:
            self._owed = [name for name in self._owed if not _covers(repair.runbook, self._runbooks[name])]


def _narrowed(runbook: Runbook) -> Runbook:
    """A recovery without the proof that only a stack without other failures can give, and with a promise of its own."""
    promised = runbook.objective
    figures = () if promised.rto is None else (Expression(f"{REPAIRED} <= {float(promised.rto):g}"),)
    return replace(
        runbook,
        sections=_repairing(runbook.sections),
        steady_state=(),
        objective=replace(promised, rto=None, rpo=None, figures=figures),
    )


def _repairing(sections: Sequence[Section]) -> tuple[Section, ...]:
    """The sections before the proof; all of them, without a clock, where those before it repair nothing."""
    first = tuple(takewhile(_repairs, sections))
    steps = (step for section in first for step in steps_within(section.steps))
    if any(step.effect not in ONLY_LOOKS for step in steps):
        return first
    return tuple(replace(section, clock="") for section in sections)


def _repairs(section: Section) -> bool:
    """Whether a section comes before the one that proves the recovery."""
    return section.clock != "rto"


def _share_a_state(runbook: Runbook, other: Runbook) -> bool:
    """Whether two recoveries want the same of the stack: as long as the one is not done the other cannot have it."""
    return bool(_state(runbook) & _state(other))


def _covers(runbook: Runbook, other: Runbook) -> bool:
    """Whether what proves one recovery proves the other too."""
    return _state(other) <= _state(runbook)


def _state(runbook: Runbook) -> set[str]:
    return {_key(step) for step in runbook.steady_state}


def _key(step: Step) -> str:
    return f"{step.action} {_written(step.args)} {expected(step)}"


def _written(value: object) -> str:
    """Arguments as they are written in the runbook."""
    if isinstance(value, Template):
        return value.text
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_written(each)}" for key, each in sorted(value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_written, value)) + "]"
    return str(value)
