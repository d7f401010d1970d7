"""What a journal says about a run that did not end, and the undo of its faults, from memory or from that journal.

Long because an undo decides what is finished, what is still broken and what must be done again.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

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
    UndoStarted,
    ValueKept,
)
from k2run.engine.journal import read_lines
from k2run.engine.outline import ALWAYS, STEADY_AFTER, STEADY_BEFORE
from k2run.engine.safeguards import said
from k2run.errors import UsageError
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from k2run.actions.action import Undo
    from k2run.engine.journal import Journal
    from k2run.engine.store import Store

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
        return replace(
            self,
            steps={path: step for path, step in list(self.steps.items()) if path.startswith(prefix)},
            sections={},
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


class Pending(Struct, frozen=True, kw_only=True):
    """One undo that has not been played."""

    undo: str
    step: str
    action: str
    args: dict[str, Any]
    says: str
    secrets: dict[str, tuple[str, str]] = {}


def pending_undos(events: Iterable[AnyEvent]) -> list[Pending]:
    """What a journal says is still broken, oldest first."""
    open_: dict[str, Pending] = {}
    for event in events:
        if isinstance(event, UndoPlanned):
            open_[event.undo] = Pending(
                undo=event.undo,
                step=event.step,
                action=event.action,
                args=event.args,
                says=event.says,
                secrets=event.secrets,
            )
        elif isinstance(event, UndoFinished) and event.outcome is Outcome.PASSED:
            open_.pop(event.undo, None)
    return list(open_.values())


class UndoStack:
    """The undos of one run that are still to be played.

    Args:
        journal: Where they are planned and settled.
        play: Runs the action of an undo; raises when it fails.
        pending: What an earlier part of the run left.
        planned: How many undos that part has numbered.
    """

    def __init__(
        self,
        journal: Journal,
        play: Callable[[Pending], Any],
        pending: Iterable[Pending] = (),
        *,
        planned: int = 0,
    ) -> None:
        self._journal = journal
        self._play = play
        self._pending = list(pending)
        self._lock = threading.Lock()
        self._count = planned

    def __bool__(self) -> bool:
        return bool(self._pending)

    @property
    def says(self) -> list[str]:
        """What is still to be undone, newest first, for people."""
        return [entry.says for entry in reversed(self._pending)]

    def plan(self, step: str, undo: Undo) -> None:
        """Put an undo on disk and on the stack; only then may the fault be injected.

        Raises:
            JournalLost: It could not be kept, so the fault must not happen.
        """
        with self._lock:
            self._count += 1
            entry = Pending(undo=f"undo-{self._count}", step=step, action=undo.action, args=undo.args, says=undo.says)
            # Before it is kept: when the journal breaks at this very line, the line may stand in it, and is played.
            self._pending.append(entry)
            self._journal.record(
                UndoPlanned(undo=entry.undo, step=step, action=entry.action, args=entry.args, says=entry.says),
                durable=True,
            )

    def settle_by_step(self, step: str, action: str, args: dict[str, Any]) -> None:
        """A step of the runbook did what an undo would do: settle that undo."""
        with self._lock:
            for entry in reversed(self._pending):
                if entry.action == action and all(args.get(name) == value for name, value in entry.args.items()):
                    self._close(entry, UndoFinished(undo=entry.undo, says=entry.says, outcome=Outcome.PASSED, by=step))
                    return

    def play_all(self, by: str = "engine", inside: str = "") -> list[str]:
        """Play every pending undo, newest first; one that fails does not keep the others from being played.

        Args:
            by: Who undoes.
            inside: Only what steps below this path broke.

        Returns:
            What could not be undone, for people; empty when all is back.
        """
        failed: list[str] = []
        mine = [entry for entry in self._pending if entry.step.startswith(inside)]
        if not mine:
            return failed
        self._journal.reserve.release()  # an undo may need room itself: a service that is started writes pid and log
        for entry in reversed(mine):
            message = self._undo(entry, by)
            failed += [f"{entry.says}: {message}"] if message else []
        self._journal.reserve.keep()
        return failed

    def _undo(self, entry: Pending, by: str) -> str:
        """Play one undo, and settle it when it is done; why it could not be done, or ""."""
        self._tell(UndoStarted(undo=entry.undo, says=entry.says))
        began, message = self._journal.elapsed(), ""
        try:
            self._play(entry)
        except Exception as error:  # noqa: BLE001 - whatever happens, the other undos must be played
            message = said(error)
        outcome = Outcome.FAILED if message else Outcome.PASSED
        seconds = round(self._journal.elapsed() - began, 3)
        finished = UndoFinished(
            undo=entry.undo, says=entry.says, outcome=outcome, message=message, by=by, seconds=seconds
        )
        if message:
            self._tell(finished)
        else:
            self._close(entry, finished)
        return message

    def _close(self, entry: Pending, finished: UndoFinished) -> None:
        self._pending.remove(entry)
        self._tell(finished)

    def _tell(self, event: UndoStarted | UndoFinished) -> None:
        """An undo goes on whatever becomes of its record: the stack comes first."""
        with suppress(Exception), self._journal.unbound():
            self._journal.record(event, durable=True)


class Leftover(Struct, frozen=True, kw_only=True):
    """A run that is marked as under way on a stack.

    Attributes:
        stack: The stack's name.
        run: The run's id.
        folder: The run's folder; None when nothing is left of it.
        events: Its events, as far as they can be read, and what the stack's folder keeps of its undos beside it.
        unread: Numbers of the lines of its journal that cannot be read.
        copied: The undos are all known, from what the stack's folder keeps.
    """

    stack: str
    run: str
    folder: Path | None = None
    events: tuple[AnyEvent, ...] = ()
    unread: tuple[int, ...] = ()
    copied: bool = False

    @property
    def begun(self) -> RunStarted | None:
        """Its first event."""
        return next((event for event in self.events if isinstance(event, RunStarted)), None)

    @property
    def pending(self) -> list[Pending]:
        """What is still to be undone, newest first."""
        return pending_undos(self.events)[::-1]

    @property
    def unknown(self) -> str:
        """What can no longer be known, for people; empty when all is known."""
        if self.folder is None:
            return f"{self.run} was under way on {self.stack!r} and its folder is gone: what it broke is not known"
        if not self.unread or self.copied:
            return ""
        lines = f"line{'s' if len(self.unread) > 1 else ''} {', '.join(map(str, self.unread))}"
        planned = {event.step for event in self.pending}
        struck = [event for event in self.events if isinstance(event, FaultStruck) and event.step not in planned]
        faults = f"; these faults may still be in force: {', '.join(f.name for f in struck)}" if struck else ""
        return f"{lines} of the journal of {self.run} cannot be read: a fault that stood there is not known{faults}"

    def __bool__(self) -> bool:
        return bool(self.pending or self.unknown)


def leftover(store: Store, stack: str) -> Leftover | None:
    """What the run that is marked on a stack has left there; None when no run is."""
    run = store.marked(stack)
    if not run:
        return None
    folder = store.open_run(stack)
    if folder is None:
        return Leftover(stack=stack, run=run)
    events, unread = read_lines(folder)
    copy = store.undo_copy(stack)
    copied, torn = read_lines(copy) if copy.is_file() else ([], [])
    known = {event.seq: event for event in (*copied, *events)}
    return Leftover(
        stack=stack,
        run=run,
        folder=folder,
        events=tuple(known[seq] for seq in sorted(known)),
        unread=tuple(unread),
        copied=copy.is_file() and not torn,
    )
