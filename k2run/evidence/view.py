"""A run as its journal tells it: events folded, one by one, into what is shown; and its verdict in words."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

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
from k2run.evidence.measurements import Load, Measurements, loads_of
from k2run.evidence.step_view import UNLISTED, SectionView, StepView, UndoView, base_path, parent_path
from k2run.evidence.wording import Standing, count, counted, percent, points

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from k2run.engine.events import AnyEvent

TROUBLE = (Standing.FAILED, Standing.UNKNOWN, Standing.INTERRUPTED, Standing.WARNING, Standing.IGNORED)
"""Standings that need attention, worst first."""


class RunView(Struct):
    """A whole run, as far as its events go. `fold` is its only writer.

    Attributes:
        alive: Its process still does it, so the end of its events is not its end; who reads the journal says so.
    """

    alive: bool = False

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
    measured: Measurements = field(default_factory=Measurements)
    _steps: dict[str, StepView] = field(default_factory=dict)
    _ranks: dict[str, int] = field(default_factory=dict)
    _replaced: set[str] = field(default_factory=set)

    # --- what the views ask ------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[StepView]:
        """Every step in the order of the runbook, blocks included."""
        for section in self.sections.values():
            yield from section.in_order()

    def leaves(self) -> Iterator[StepView]:
        """Every step but the blocks that group them."""
        for section in self.sections.values():
            yield from section.leaves()

    def loads(self) -> list[Load]:
        """The loads of the run, in order."""
        return list(loads_of((step.name, step.finished) for step in self.leaves() if step.finished is not None))

    def step(self, path: str) -> StepView | None:
        """The latest view of a step."""
        return self._steps.get(path)

    def standings(self) -> Counter[Standing]:
        """The number of steps by standing."""
        return Counter(step.standing for step in self.leaves())

    def running(self) -> list[StepView]:
        """The running steps, oldest first."""
        running = [step for step in self._steps.values() if step.standing is Standing.RUNNING and not step.is_block]
        return sorted(running, key=lambda step: step.began or 0.0)

    def current(self) -> SectionView | None:
        """The section that is running."""
        return next((each for each in reversed(self.sections.values()) if each.started and not each.finished), None)

    def following(self) -> StepView | None:
        """The next step of the running section."""
        section = self.current()
        steps = section.leaves() if section is not None else ()
        return next((step for step in steps if step.standing is Standing.WAITING), None)

    def pending_undos(self) -> list[UndoView]:
        """The undos still to run, in that order: newest first."""
        return [undo for undo in reversed(self.undos.values()) if undo.pending]

    def still_broken(self) -> list[str]:
        """What undos have yet to put back: as the end of the run says, before that as the journal does."""
        if self.finished is not None:
            return self.finished.pending_undos
        return [undo.planned.says for undo in self.pending_undos()]

    def progress(self) -> tuple[int, int]:
        """How many steps are done, of how many."""
        standings = self.standings()
        total = sum(standings.values())
        return total - standings[Standing.WAITING] - standings[Standing.RUNNING], total

    def rescued(self, step: StepView) -> bool:
        """Whether a block around a failed step passed."""
        path = parent_path(step.path)
        while path:
            block = self._steps.get(path)
            if block is not None and block.finished is not None and block.finished.outcome is Outcome.PASSED:
                return True
            path = parent_path(path)
        return False

    def recovering_since(self) -> float | None:
        """Seconds into the run at which the recovery clock started; None when it is not running."""
        if not self.faults or any(clock.clock == "rto" for clock in self.clocks) or self.finished is not None:
            return None
        return self.faults[0].began or self.faults[0].t

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken, as far as the journal goes."""
        if self.finished is not None:
            return self.finished.seconds
        return self.last.t if self.last is not None else 0.0

    # --- the one writer -----------------------------------------------------------------------------------------------

    def fold(self, event: AnyEvent) -> None:  # noqa: C901, PLR0912 - one line per kind of event, and nothing else
        """Add the next event of the journal."""
        self.last = event
        match event:
            case StepStarted():
                self._fresh(event.step, event.section).begin(event)
                self.measured.begin(event)
            case StepFinished():
                self._ending(event).end(event)
                self.measured.take(event)
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
        """Drop what the first part of the run said at its end."""
        self.resumed.append(event)
        self.finished = self.scored = None
        self.objectives = [each for each in self.objectives if each.step]

    def _object(self, event: Objected) -> None:
        """Replace the judgement of a step that ran again."""
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
        """The position in the outline of a step, or of the nearest block around it."""
        while path:
            for candidate in (path, base_path(path)):
                if candidate in self._ranks:
                    return self._ranks[candidate]
            path = parent_path(path)
        return UNLISTED

    def _fresh(self, path: str, section: str) -> StepView:
        """The view of a starting step: the waiting one, or a new one when it runs again."""
        step = self._steps.get(path)
        if step is not None and step.standing is Standing.WAITING:
            return step
        fresh = StepView(path=path, section=section)
        fresh.planned = self._take_place_of_base(fresh)
        if step is not None and self._counts_no_more(step):
            self.sections[step.section].drop(step)
        return self._add(fresh)

    def _counts_no_more(self, step: StepView) -> bool:
        """Whether a step that starts again had no end, or ended before the run was resumed."""
        if step.finished is None or step.finished.outcome is Outcome.INTERRUPTED:
            return True
        return bool(self.resumed) and step.finished.seq < self.resumed[-1].seq

    def _take_place_of_base(self, step: StepView) -> OutlineStep | None:
        """Let the first turn of a loop replace the step of the outline."""
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
                self.measured.take(event)
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
    """The view of a run, finished or not."""
    view = RunView()
    for event in events:
        view.fold(event)
    return view


def word_of(finished: RunFinished, scored: Scored | None) -> str:
    """The verdict in a word, in capitals: GO or NO-GO where a score decides, else how the run ended.

    A part of a runbook that passed is PARTIAL: what it left out may be broken. A recovery without effect is no PASSED.
    """
    if finished.partial and finished.outcome is Outcome.PASSED:
        return "PARTIAL"
    if finished.unchanged:
        return "CHANGED NOTHING"
    if finished.outcome in {Outcome.INTERRUPTED, Outcome.NOT_APPLICABLE} or scored is None or scored.go is None:
        return finished.outcome.value.replace("_", " ").upper()
    return "GO" if finished.outcome is Outcome.PASSED else "NO-GO"


def tone_of(finished: RunFinished) -> str:
    """The tone of a verdict: `good` for a whole run that passed alone; `bad` where something failed; else `warn`."""
    if finished.outcome is Outcome.PASSED:
        return "warn" if finished.partial or finished.unchanged else "good"
    return "warn" if finished.outcome in {Outcome.INTERRUPTED, Outcome.NOT_APPLICABLE} else "bad"


def verdict(view: RunView, finished: RunFinished) -> tuple[str, str]:
    """The verdict's word in capitals (GO, NO-GO, PASSED, PARTIAL, FAILED, …), and the rest of its sentence."""
    word = word_of(finished, view.scored).lower()
    rest = finished.verdict
    if rest.lower().startswith(word):
        rest = rest[len(word) :].lstrip(" ,:;")
    return word.upper(), rest


def open_ended(view: RunView) -> tuple[str, str]:
    """The verdict of a run whose journal has no end: a word in capitals, and why."""
    if view.alive:
        return "RUNNING", "this is what it has done so far"
    return "NOT FINISHED", "the journal ends before the run does"


def score_says(scored: Scored) -> list[tuple[str, str]]:
    """The score in the words of every face: points earned of points judged, what share was judged, the band and why."""
    earned, judged = sum(line.earned for line in scored.lines), sum(line.judged for line in scored.lines)
    said = [("Score", f"{points(earned)} of {points(judged)} points judged, {points(scored.score)} of 100")]
    alone = "" if scored.unattended is None else f", {percent(scored.unattended)} of those that need no person"
    said.append(("Judged", f"{percent(scored.coverage)} of all points{alone}"))
    band = ", ".join(filter(None, (scored.band, scored.light)))
    if band:
        said.append(("Band", f"{band}: {scored.why}" if scored.why else band))
    return said


def trouble(view: RunView) -> list[StepView]:
    """The steps that went wrong, worst first, equals in the runbook's order."""
    return sorted(
        (step for step in view.leaves() if step.standing in TROUBLE), key=lambda step: TROUBLE.index(step.standing)
    )


def tally(view: RunView) -> str:
    """Count steps by how they ended, or did not: `31 passed, 1 FAILED; 1 cut off, 4 not reached`."""
    standings = [step.standing for step in view.leaves()]
    waiting, running = standings.count(Standing.WAITING), standings.count(Standing.RUNNING)
    ended = counted(standings) or count(0, "step")
    rest = [*([f"{running} cut off"] if running else []), *([f"{waiting} not reached"] if waiting else [])]
    return "; ".join([ended, *([", ".join(rest)] if rest else [])])
