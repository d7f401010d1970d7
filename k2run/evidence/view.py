"""A run as its journal tells it: events are folded, one by one, into what every face and every report shows."""

from __future__ import annotations

import re
from collections import Counter
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from k2run.engine.events import (
    Answered,
    Asked,
    ClockStopped,
    FaultStruck,
    Noted,
    Objected,
    Outcome,
    OutlineSection,
    OutlineStep,
    RunFinished,
    RunResumed,
    RunStarted,
    Scored,
    SectionFinished,
    SectionStarted,
    StackChanged,
    StepFinished,
    StepStarted,
    StepTried,
    UndoFinished,
    UndoPlanned,
    UndoStarted,
)
from k2run.evidence.wording import Standing, standing_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from k2run.engine.events import AnyEvent

_INNER = re.compile(r"(?:\.(?:block|rescue|always|run\.\w+)\[\d+\]|(?<=\])\.steps\[\d+\])(?:#\d+)?$")
_UNLISTED = 1_000_000


def parent_path(path: str) -> str:
    """The path of the block (or runbook) that a step is inside of; empty for a step of a section."""
    inner = _INNER.search(path)
    parent = path[: inner.start()] if inner else ""
    return "" if parent.startswith("sections[") and "." not in parent else parent


def base_path(path: str) -> str:
    """A step's path without the turn of its own loop."""
    head, mark, turn = path.rpartition("#")
    return head if mark and turn.isdigit() else path


class StepView(Struct):
    """One step: what was planned, and the events that tell how it went.

    Attributes:
        base: Its path without the turn of its own loop.
        standing: How it stands now.
        order: Its place among the steps of its section.
    """

    path: str
    section: str
    base: str = ""
    planned: OutlineStep | None = None
    started: StepStarted | None = None
    tries: list[StepTried] = field(default_factory=list)
    asked: Asked | None = None
    answered: Answered | None = None
    fault: FaultStruck | None = None
    finished: StepFinished | None = None
    standing: Standing = Standing.WAITING
    order: tuple[int, int] = (_UNLISTED, 0)

    def __post_init__(self) -> None:
        self.base = base_path(self.path)

    def begin(self, event: StepStarted) -> None:
        """It begins."""
        self.started, self.standing = event, Standing.RUNNING

    def end(self, event: StepFinished) -> None:
        """It is over."""
        self.finished, self.standing = event, standing_of(event)

    @property
    def name(self) -> str:
        """What people call it; the turns of a loop that all have the same name are told apart by their number."""
        events = (self.finished, self.started, self.planned)
        name = next((event.name for event in events if event is not None and event.name), self.action)
        turn = self.path[len(self.base) + 1 :]
        if turn and self.planned is not None and name == (self.planned.name or self.action):
            return f"{name} ({int(turn) + 1})"
        return name

    @property
    def action(self) -> str:
        """The action that it does; `block` for a group of steps."""
        event = self.finished or self.started or self.planned
        return event.action if event is not None else ""

    @property
    def tried(self) -> StepTried | None:
        """The last attempt that was not enough."""
        return self.tries[-1] if self.tries else None

    @property
    def result(self) -> dict[str, Any]:
        """The fields of what its action returned; empty as long as there are none."""
        result = self.finished.result if self.finished is not None else None
        return result if isinstance(result, dict) else {}

    @property
    def is_block(self) -> bool:
        """Whether it only groups other steps, those of a block or of another runbook."""
        return self.action in {"block", "run"}

    @property
    def depth(self) -> int:
        """How many blocks it is inside of."""
        depth, path = 0, parent_path(self.path)
        while path:
            depth, path = depth + 1, parent_path(path)
        return depth

    @property
    def within(self) -> float | None:
        """Its objective, in seconds."""
        event = self.finished or self.started
        return event.within if event is not None else None

    @property
    def began(self) -> float | None:
        """Seconds from the start of the run to its start; None when it was never started."""
        return self.started.t if self.started is not None else None


class SectionView(Struct):
    """One section and its steps."""

    path: str
    name: str
    within: float | None = None
    started: SectionStarted | None = None
    finished: SectionFinished | None = None
    reopened: SectionStarted | None = None
    steps: list[StepView] = field(default_factory=list)
    _leaves: list[StepView] | None = None

    def begin(self, event: SectionStarted) -> None:
        """It begins, or is gone through again by a resumed run."""
        if self.started is None:
            self.started = event
        else:
            self.reopened = event

    def end(self, event: SectionFinished) -> None:
        """It is over; going through it again with nothing left to do changes nothing about how it ended."""
        if self.finished is None or self.reopened is None or self._did_something_since(self.reopened.seq):
            self.finished = event

    def _did_something_since(self, seq: int) -> bool:
        return any(step.finished is not None and step.finished.seq > seq for step in self.steps)

    def add(self, step: StepView) -> None:
        """One more step is known of."""
        self.steps.append(step)
        self._leaves = None

    def drop(self, step: StepView) -> None:
        """A step stands elsewhere from now on."""
        self.steps.remove(step)
        self._leaves = None

    def in_order(self) -> list[StepView]:
        """Its steps as the runbook orders them, the turns of a loop and the steps of a block in their place."""
        return sorted(self.steps, key=attrgetter("order"))

    def leaves(self) -> list[StepView]:
        """Its steps in order, without the blocks that only group them."""
        if self._leaves is None:
            self._leaves = [step for step in self.in_order() if not step.is_block]
        return self._leaves


class UndoView(Struct):
    """One promise to put something back."""

    planned: UndoPlanned
    started: UndoStarted | None = None
    finished: UndoFinished | None = None

    @property
    def pending(self) -> bool:
        """Whether what it would put back may still be broken."""
        return self.finished is None or self.finished.outcome is not Outcome.PASSED


class RunView(Struct):
    """A whole run, as far as its events go. `fold` is its only writer."""

    started: RunStarted | None = None
    finished: RunFinished | None = None
    scored: Scored | None = None
    resumed: list[RunResumed] = field(default_factory=list)
    stack_changes: list[StackChanged] = field(default_factory=list)
    sections: dict[str, SectionView] = field(default_factory=dict)
    undos: dict[str, UndoView] = field(default_factory=dict)
    faults: list[FaultStruck] = field(default_factory=list)
    clocks: list[ClockStopped] = field(default_factory=list)
    objectives: list[Objected] = field(default_factory=list)
    notes: list[Noted] = field(default_factory=list)
    last: AnyEvent | None = None
    _steps: dict[str, StepView] = field(default_factory=dict)
    _ranks: dict[str, int] = field(default_factory=dict)
    _replaced: set[str] = field(default_factory=set)

    # --- what the views ask ------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[StepView]:
        """Every step in the order of the runbook, blocks included."""
        for section in self.sections.values():
            yield from section.in_order()

    def leaves(self) -> Iterator[StepView]:
        """Every step that does something itself."""
        for section in self.sections.values():
            yield from section.leaves()

    def step(self, path: str) -> StepView | None:
        """The latest account of a step."""
        return self._steps.get(path)

    def standings(self) -> Counter[Standing]:
        """How many steps stand how."""
        return Counter(step.standing for step in self.leaves())

    def running(self) -> list[StepView]:
        """The steps that are being done, oldest first."""
        running = [step for step in self._steps.values() if step.standing is Standing.RUNNING and not step.is_block]
        return sorted(running, key=lambda step: step.began or 0.0)

    def pending_undos(self) -> list[UndoView]:
        """What is still to be put back, newest first: the order in which it will be."""
        return [undo for undo in reversed(self.undos.values()) if undo.pending]

    def rescued(self, step: StepView) -> bool:
        """Whether a block around a failed step passed nevertheless."""
        path = parent_path(step.path)
        while path:
            block = self._steps.get(path)
            if block is not None and block.finished is not None and block.finished.outcome is Outcome.PASSED:
                return True
            path = parent_path(path)
        return False

    def recovering_since(self) -> float | None:
        """Seconds into the run at which the recovery clock started; None when it does not run."""
        if not self.faults or any(clock.clock == "rto" for clock in self.clocks) or self.finished is not None:
            return None
        return self.faults[0].began or self.faults[0].t

    @property
    def seconds(self) -> float:
        """How long the run has taken, as far as the journal goes."""
        if self.finished is not None:
            return self.finished.seconds
        return self.last.t if self.last is not None else 0.0

    # --- the one writer -----------------------------------------------------------------------------------------------

    def fold(self, event: AnyEvent) -> None:  # noqa: C901, PLR0912 - one line per kind of event, and nothing else
        """Take in the next event of the journal."""
        self.last = event
        match event:
            case StepStarted():
                self._fresh(event.step, event.section).begin(event)
            case StepFinished():
                self._ending(event).end(event)
            case RunStarted():
                self._begin(event)
            case RunResumed():
                self._resume(event)
            case SectionStarted():
                self._section(event.section, event.name, event.within).begin(event)
            case SectionFinished():
                self._section(event.section, event.name, event.within).end(event)
            case StepTried() | Asked() | Answered() | FaultStruck():
                self._during(event)
            case UndoPlanned() | UndoStarted() | UndoFinished():
                self._undo(event)
            case StackChanged():
                self.stack_changes.append(event)
            case ClockStopped():
                self.clocks.append(event)
            case Noted():
                self.notes.append(event)
            case Objected():
                self._object(event)
            case Scored():
                self.scored = event
            case RunFinished():
                self.finished = event

    def _begin(self, event: RunStarted) -> None:
        self.started = event
        for planned in event.outline:
            self._outline(planned)

    def _outline(self, planned: OutlineSection) -> None:
        section = self._section(planned.path, planned.name, planned.within)
        for step in planned.steps:
            self._ranks[step.path] = len(self._ranks)
            self._add(StepView(path=step.path, section=section.path, planned=step))

    def _resume(self, event: RunResumed) -> None:
        """What the first part of the run said at its end no longer holds."""
        self.resumed.append(event)
        self.finished = self.scored = None
        self.objectives = [each for each in self.objectives if each.step]

    def _object(self, event: Objected) -> None:
        """A step that was done again is judged again."""
        self.objectives = [
            each
            for each in self.objectives
            if not event.step or (each.step, each.objective) != (event.step, event.objective)
        ]
        self.objectives.append(event)

    def _section(self, path: str, name: str, within: float | None) -> SectionView:
        section = self.sections.get(path)
        if section is None:
            section = self.sections[path] = SectionView(path=path, name=name or path, within=within)
        return section

    def _add(self, step: StepView) -> StepView:
        step.order = (self._rank(step.path), len(self._steps))
        self._steps[step.path] = step
        self._section(step.section, "", None).add(step)
        return step

    def _rank(self, path: str) -> int:
        """The place in the outline of a step, or of the nearest block around it that the outline names."""
        while path:
            for candidate in (path, base_path(path)):
                if candidate in self._ranks:
                    return self._ranks[candidate]
            path = parent_path(path)
        return _UNLISTED

    def _fresh(self, path: str, section: str) -> StepView:
        """The account that a starting step writes on: the one still waiting, or a new one when it is done again."""
        step = self._steps.get(path)
        if step is not None and step.standing is Standing.WAITING:
            return step
        fresh = StepView(path=path, section=section)
        fresh.planned = self._take_place_of_base(fresh)
        if step is not None and (step.finished is None or step.finished.outcome is Outcome.INTERRUPTED):
            self.sections[step.section].drop(step)
        return self._add(fresh)

    def _take_place_of_base(self, step: StepView) -> OutlineStep | None:
        """The turns of a loop replace the one step that the outline could show for them."""
        base = self._steps.get(step.base)
        if base is None:
            return None
        if base.path != step.path and base.standing is Standing.WAITING and base.path not in self._replaced:
            self._replaced.add(base.path)
            self.sections[base.section].drop(base)
        return base.planned

    def _ending(self, event: StepFinished) -> StepView:
        step = self._steps.get(event.step)
        return step if step is not None and step.finished is None else self._fresh(event.step, event.section)

    def _during(self, event: StepTried | Asked | Answered | FaultStruck) -> None:
        if isinstance(event, FaultStruck):
            self.faults.append(event)
        step = self._steps.get(event.step)
        if step is None:
            return
        match event:
            case StepTried():
                step.tries.append(event)
            case Asked():
                step.asked = event
            case Answered():
                step.answered = event
            case FaultStruck():
                step.fault = event

    def _undo(self, event: UndoPlanned | UndoStarted | UndoFinished) -> None:
        if isinstance(event, UndoPlanned):
            self.undos[event.undo] = UndoView(planned=event)
        elif event.undo in self.undos:
            if isinstance(event, UndoStarted):
                self.undos[event.undo].started = event
            else:
                self.undos[event.undo].finished = event


def view_of(events: Iterable[AnyEvent]) -> RunView:
    """The view of a run whose events are all there, or of a run that broke off."""
    view = RunView()
    for event in events:
        view.fold(event)
    return view
