"""Drills: a fault is injected in secret; diagnosis and recovery have to find and repair it, against the clock."""

from __future__ import annotations

import random
from itertools import chain, repeat
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct
from msgspec.structs import replace

from k2run.actions.deadline import Deadline
from k2run.engine.events import Outcome, SectionFinished, SectionStarted, StepFinished, StepStarted, of_all, satisfied
from k2run.engine.run import run_inside
from k2run.engine.step_record import title
from k2run.engine.steps import StepRunner
from k2run.errors import Interrupted, K2runError, UsageError
from k2run.language.model import Section
from k2run.recovery.diagnosis import Diagnosis, Verdict
from k2run.recovery.looks import diagnose, diagnose_settled
from k2run.recovery.repairs import Clocks, Repair, Repairs

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2run.engine.dispatch import Caller
    from k2run.engine.execution import Execution
    from k2run.engine.request import Request
    from k2run.engine.safeguards import StopRequest
    from k2run.language.model import Runbook, Step

DETECT_S = 45.0
"""Seconds that a fault may be in force before it counts as not detected."""
WELL_S = 90.0
"""Seconds that the stack may take to be healthy before a round."""
PERIOD_S = 0.25
COUNT_S = 45.0
AT_MOST = 3
"""Recoveries after another in one round."""


class Cost(Struct, frozen=True, kw_only=True):
    """What became of the probe messages of a round.

    Attributes:
        acked: Acknowledged by the broker.
        lost: Acknowledged, and not in the table.
        doubled: In the table more than once.
    """

    acked: int
    lost: int
    doubled: int


class Ledger(Protocol):
    """Counts what a round loses: sends probe messages until its end, and looks for those that were acknowledged."""

    def begin(self) -> None:
        """Start sending."""
        ...

    def end(self) -> None:
        """Stop sending."""
        ...

    def settle(self, deadline: Deadline) -> Cost:
        """Wait until all that was acknowledged has arrived, or the deadline; then count.

        Raises:
            K2runError: What arrived could not be read.
            Interrupted: The run was asked to end.
        """
        ...


class Round(Struct, kw_only=True):
    """One fault and what became of it. Times are in seconds, from the moment the fault was injected.

    Attributes:
        expected: The recovery runbook that the drill names for this fault.
        struck: When the fault was injected, in seconds of the run around it.
        in_force: Until the fault was in force: a backlog takes time to build, a service to restart.
        detected: Until the first diagnosis that recognised something was finished; None when none did.
        looking: How long that diagnosis took: the error of `detected`.
        diagnosed: The runbooks it recognised, first the one to recover with.
        recovered: Whether the stack was healthy again by recovery alone, before anything was undone.
        rto: Until the data path was proven to work.
        within: The objective of that.
        applies: Whether this fault can be made here; one that cannot is neither found nor missed.
    """

    number: int
    fault: str
    expected: str
    struck: float = 0.0
    in_force: float = 0.0
    detected: float | None = None
    looking: float = 0.0
    diagnosed: list[str] = []
    recovered: bool = False
    rto: float | None = None
    within: float | None = None
    cost: Cost | None = None
    applies: bool = True
    message: str = ""

    @property
    def diagnosis(self) -> float | None:
        """Seconds from the fault in force to the end of the diagnosis that recognised something."""
        return None if self.detected is None else round(self.detected - self.in_force, 3)

    @property
    def right(self) -> bool:
        """Whether the runbook that was expected stood first."""
        return self.diagnosed[:1] == [self.expected]

    @property
    def in_time(self) -> bool:
        """Whether the data path was proven within the objective, where there is one."""
        return self.rto is None or self.within is None or self.rto <= self.within


class Choice(Struct, frozen=True, kw_only=True):
    """Which faults a drill lets go.

    Attributes:
        seed: The same seed makes the same choice.
        rounds: How many; with `every`: how often each.
        every: Each fault there is.
    """

    seed: int = 1
    rounds: int = 1
    every: bool = False


def choose(pool: Runbook, choice: Choice) -> list[Step]:
    """The faults of a drill, in their order: steps of the pool, as the choice says.

    Raises:
        UsageError: The runbook has no step that names the recovery of its fault.
    """
    faults = [step for section in pool.sections for step in section.steps if step.recovery]
    if not faults:
        raise UsageError(
            f"{pool.name} has no faults to drill", hint="a step needs `on_failure: {recovery: RUNBOOK}` to be one"
        )
    dice = random.Random(choice.seed)  # noqa: S311 - a game, not a secret
    if choice.every:
        chosen = faults * choice.rounds
        dice.shuffle(chosen)
        return chosen
    turns = chain.from_iterable(dice.sample(faults, len(faults)) for _ in repeat(None))
    return [next(turns) for _ in range(choice.rounds)]


class Plan(Struct, frozen=True, kw_only=True):
    """What a drill is to do.

    Attributes:
        faults: What is injected, round by round.
        recoveries: The recovery runbooks.
        ledger: Makes what counts the cost of a round; None when nothing here can.
        say: Told how it goes, without naming the fault.
    """

    faults: list[Step]
    recoveries: list[Runbook]
    ledger: Callable[[Caller, str], Ledger] | None
    say: Callable[[str], None]


class Drill:
    """Plays the rounds of one drill inside a run, which keeps the undos of its faults."""

    def __init__(self, plan: Plan, request: Request, execution: Execution, signals: StopRequest) -> None:
        self._plan = plan
        self._request = request
        self._execution = execution
        self._signals = signals

    def play(self, rounds: list[Round]) -> None:
        """All rounds; each begins on a healthy stack.

        Args:
            rounds: Takes up each round as it begins, so that a drill that breaks off can still be shown.

        Raises:
            K2runError: The stack did not get healthy, so nothing more was broken.
            Interrupted: It was asked to end.
        """
        for number, fault in enumerate(self._plan.faults, start=1):
            self._await_health()
            entry = Round(number=number, fault=title(self._execution, fault, {}), expected=_name(fault.recovery))
            rounds.append(entry)
            self._round(entry, fault)

    def _round(self, entry: Round, fault: Step) -> None:
        """Break, recognise, recover, put back, count."""
        section = Section(path=f"rounds[{entry.number}]", name=f"Round {entry.number}", place=fault.place, steps=())
        journal = self._execution.journal
        began = journal.elapsed()
        journal.record(SectionStarted(section=section.path, name=section.name))
        ledger = self._ledger(entry)
        try:
            struck = self._strike(fault, section)
            if struck is None:
                entry.applies, entry.message = False, "not applicable here: the report says why"
                self._plan.say(f"round {entry.number}: its fault does not apply here")
            else:
                self._answer(entry, section, struck)
        finally:
            self._execution.undos.play_all()
            if ledger is not None:
                ledger.end()
        if ledger is not None and entry.applies:
            entry.cost = self._count(ledger, entry)
        judged = (entry.right, entry.recovered, entry.in_time) if entry.applies else ()
        outcome = of_all(map(_outcome, judged)) if judged else Outcome.NOT_APPLICABLE
        seconds = round(journal.elapsed() - began, 3)
        journal.record(SectionFinished(section=section.path, name=section.name, outcome=outcome, seconds=seconds))

    def _answer(self, entry: Round, section: Section, struck: float) -> None:
        """Recognise the fault and recover from it."""
        entry.struck = struck
        entry.in_force = round(self._execution.journal.elapsed() - struck, 3)
        found = self._recognise(entry, section)
        if found is not None:
            self._recover(entry, section, found)

    def _strike(self, fault: Step, section: Section) -> float | None:
        """Inject the fault; returns when, in the run's time, or None where it does not apply.

        Raises:
            K2runError: It applies, and could not be injected.
        """
        execution = self._execution
        execution.first_fault = None
        step = replace(fault, path=f"{section.path}.fault", recovery="", on_failure="")
        outcome = StepRunner(execution, section).run(step)
        if outcome is Outcome.NOT_APPLICABLE:
            return None
        if not satisfied(outcome) or execution.first_fault is None:
            raise K2runError(f"the fault {title(execution, fault, {})!r} could not be injected")
        return execution.first_fault

    def _recognise(self, entry: Round, section: Section) -> Diagnosis | None:
        """Look until something is recognised."""
        journal = self._execution.journal
        journal.record(_started(section, "diagnose"))
        found: Diagnosis | None = None
        gives_up = journal.elapsed() + DETECT_S
        while found is None and journal.elapsed() < gives_up:
            looked = self._diagnose()
            if looked.matches:
                found = looked
                entry.detected = round(journal.elapsed() - entry.struck, 3)
                entry.looking = looked.seconds
                entry.diagnosed = [suspect.runbook for suspect in looked.matches]
            else:
                self._execution.stop.wait(PERIOD_S)
        headline = f"recognised {', '.join(entry.diagnosed)}" if found else "recognised nothing"
        seconds = journal.elapsed() - entry.struck
        self._plan.say(f"round {entry.number}: {headline} after {seconds:.1f}s")
        journal.record(_finished(section, "diagnose", headline, seconds=seconds, good=entry.right))
        return found

    def _recover(self, entry: Round, section: Section, found: Diagnosis) -> None:
        """Recover with what the diagnosis names, and diagnose again, until the stack is healthy."""
        journal = self._execution.journal
        journal.record(_started(section, "recover"))
        entry.within = found.matches[0].rto
        request = self._request
        repairs = Repairs(self._plan.recoveries, request.stack, request.catalogue, AT_MOST)
        while (repair := repairs.next(found)) is not None:
            self._execution.stop.wait(repair.pause)
            clocks = self._run(repair, entry)
            repairs.done(repair, clocks)
            found = diagnose_settled(self._plan.recoveries, request.stack, request.catalogue, self._execution.stop)
            if repair.only_proof and not clocks.proven:
                break
        entry.recovered = found.healthy
        if not found.healthy:
            entry.message = f"still not healthy: {_ill(found)}"
        headline = f"{'healthy' if found.healthy else 'not healthy'} after {', '.join(repairs.tries.names)}"
        self._plan.say(f"round {entry.number}: {headline}" + (f", RTO {entry.rto:.1f}s" if entry.rto else ""))
        seconds = journal.elapsed() - entry.struck
        journal.record(_finished(section, "recover", headline, seconds=seconds, good=found.healthy))

    def _run(self, repair: Repair, entry: Round) -> Clocks:
        """Run one recovery, unattended, with a journal of its own."""
        clocks = Clocks(self._execution.journal.elapsed)
        inner = repair.request(replace(self._request, observers=(clocks,), inside=None))
        finished = run_inside(inner, self._signals)
        if finished.exit_code == Interrupted.exit_code:
            raise Interrupted("the run was asked to end")
        if "rto" in clocks.stopped:
            entry.rto = round(clocks.stopped["rto"] - entry.struck, 3)
        if finished.exit_code:
            entry.message = finished.verdict
        return clocks

    def _diagnose(self) -> Diagnosis:
        self._execution.check_stop()
        request = self._request
        return diagnose(self._plan.recoveries, request.stack, request.catalogue, self._execution.stop)

    def _await_health(self) -> None:
        """Wait until the stack is healthy: what is broken already would be taken for the fault."""
        ends = self._execution.journal.elapsed() + WELL_S
        while True:
            looked = self._diagnose()
            if looked.healthy:
                return
            if self._execution.journal.elapsed() > ends:
                raise K2runError(
                    f"the stack is not healthy: {_ill(looked)}; nothing more was broken",
                    hint="`k2run diagnose` shows it",
                )
            self._execution.stop.wait(PERIOD_S)

    def _ledger(self, entry: Round) -> Ledger | None:
        """Count the cost of a round, when something here can."""
        if self._plan.ledger is None:
            return None
        tag = f"drill{entry.number}-{self._execution.folder.name[-4:]}"
        ledger = self._plan.ledger(self._execution.caller, tag)
        ledger.begin()
        return ledger

    def _count(self, ledger: Ledger, entry: Round) -> Cost | None:
        try:
            return ledger.settle(Deadline(COUNT_S, self._execution.stop))
        except Interrupted:
            raise
        except K2runError as error:
            entry.message = f"cost not measured: {error.message}"
            return None


def _ill(found: Diagnosis) -> str:
    """What keeps a stack from being healthy."""
    unseen = [f"{one.runbook} could not be seen" for one in found.having(Verdict.UNSEEN)]
    failures = [one.runbook for one in found.matches]
    return ", ".join([*failures, *(f"{one.service} {one.state} {one.detail}" for one in found.ailing), *unseen])


def _started(section: Section, verb: str) -> StepStarted:
    return StepStarted(step=f"{section.path}.{verb}", section=section.path, name=verb.capitalize(), action=verb)


def _finished(section: Section, verb: str, headline: str, *, seconds: float, good: bool) -> StepFinished:
    return StepFinished(
        step=f"{section.path}.{verb}",
        section=section.path,
        name=verb.capitalize(),
        action=verb,
        outcome=_outcome(good),
        seconds=round(seconds, 3),
        headline=headline,
    )


def _outcome(good: bool) -> Outcome:
    return Outcome.PASSED if good else Outcome.FAILED


def _name(reference: str) -> str:
    """The name of a runbook that stands in a file of the same name."""
    return reference.rpartition("/")[2].removesuffix(".yaml")
