"""What the metrics say about runs: counted from the ends of all journals, measured from the newest of each runbook."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from k2run.engine.events import (
    Bound,
    ClockStopped,
    Objected,
    Outcome,
    RunStarted,
    Scored,
    SectionFinished,
    StepFinished,
)
from k2run.engine.journal import ends_of, read_journal
from k2run.engine.store import holder
from k2run.engine.undo import pending_undos
from k2run.errors import K2runError
from k2run.language.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from k2run.engine.events import AnyEvent, RunFinished
    from k2run.engine.store import Store


class Subject(Struct, frozen=True, order=True):
    """What figures are about: a runbook on a stack."""

    runbook: str
    stack: str


class Newest(Struct, frozen=True, kw_only=True):
    """Figures of the newest run that has ended.

    Attributes:
        began: Seconds since 1970.
        margins: Seconds that were left of each time objective, by its name; negative when it was missed.
        bounds: How many objectives were met, missed and not measured.
    """

    run: str
    began: float
    passed: bool
    seconds: float
    margins: dict[str, float]
    bounds: Counter[str]
    score: float | None


class RunCounts(Struct):
    """Figures of all runs of one home.

    Attributes:
        ended: Runs by subject, kind and outcome; one that died counts as `died`.
        seconds: Time that runs took together, by subject.
        unrecovered: Whether the newest run of a subject failed, and nothing has proven its stack well since.
        going: Runs that go on now.
        pending: Undos that are still to be played, by stack.
    """

    ended: Counter[tuple[Subject, str, str]] = field(default_factory=Counter)
    seconds: Counter[Subject] = field(default_factory=Counter)
    newest: dict[Subject, Newest] = field(default_factory=dict)
    unrecovered: dict[Subject, bool] = field(default_factory=dict)
    going: int = 0
    pending: dict[str, int] = field(default_factory=dict)


class RunMetrics:
    """Makes tallies; what has ended is read once.

    Args:
        store: The k2run home.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ends: dict[str, tuple[RunStarted, RunFinished]] = {}
        self._newest: dict[str, Newest] = {}

    def tally(self) -> RunCounts:
        """The figures as they are now."""
        made = RunCounts()
        last: dict[Subject, Path] = {}
        ends: dict[Subject, RunFinished] = {}
        proven: dict[str, str] = {}
        for folder, begun, over in self._runs():
            subject = Subject(begun.name, begun.stack)
            if over is None:
                self._open(made, subject, folder, begun)
                continue
            made.ended[subject, begun.kind, over.outcome.value] += 1
            made.seconds[subject] += over.seconds  # type: ignore[assignment] # a counter of seconds
            last[subject], ends[subject] = folder, over
            if over.exit_code == 0 and not over.partial and begun.kind != Kind.BENCHMARK:
                proven[begun.stack] = max(over.at, proven.get(begun.stack, ""))
        made.newest = {subject: self._read(folder) for subject, folder in last.items()}
        for subject, over in ends.items():
            well = proven.get(subject.stack, "") > over.at or self._store.well_since(subject.stack, over.at)
            made.unrecovered[subject] = _is_outage(over) and not well
        for stack in self._store.open_stacks():
            made.pending[stack] = self._pending(stack)
        return made

    def _runs(self) -> Iterator[tuple[Path, RunStarted, RunFinished | None]]:
        for folder in self._store.runs():
            if folder.name in self._ends:
                yield folder, *self._ends[folder.name]
                continue
            begun, over = ends_of(folder)
            if begun is None:
                continue
            if over is not None and over.outcome is not Outcome.INTERRUPTED:
                self._ends[folder.name] = (begun, over)
            yield folder, begun, over

    def _open(self, made: RunCounts, subject: Subject, folder: Path, begun: RunStarted) -> None:
        if folder.name in holder(self._store.stack_folder(begun.stack)):
            made.going += 1
        else:
            made.ended[subject, begun.kind, "died"] += 1

    def _pending(self, stack: str) -> int:
        folder = self._store.open_run(stack)
        try:
            return len(pending_undos(read_journal(folder))) if folder is not None else 0
        except K2runError:
            return 0

    def _read(self, folder: Path) -> Newest:
        if folder.name not in self._newest:
            self._newest[folder.name] = newest_of(read_journal(folder))
        return self._newest[folder.name]


def _is_outage(over: RunFinished) -> bool:
    """Whether the end of a run says that something is broken; a no-go is a decision, and an interruption a wish."""
    return over.outcome is Outcome.FAILED and not over.verdict.startswith("no-go")


def newest_of(events: list[AnyEvent]) -> Newest:
    """The figures of a run that has ended."""
    from datetime import datetime

    begun, over = events[0], events[-1]
    assert isinstance(begun, RunStarted)  # noqa: S101 - the caller knows both ends
    bounds = Counter(bound.value for event in _judged(events) if (bound := _bound(event)) is not None)
    scored = next((event for event in reversed(events) if isinstance(event, Scored)), None)
    return Newest(
        run=begun.run,
        began=datetime.fromisoformat(begun.at).timestamp(),
        passed=getattr(over, "exit_code", 1) == 0,
        seconds=getattr(over, "seconds", 0.0),
        margins=dict(_margins(begun, events, getattr(over, "seconds", 0.0))),
        bounds=bounds,
        score=scored.score if scored is not None else None,
    )


def _judged(events: Iterable[AnyEvent]) -> Iterable[AnyEvent]:
    """The last word on each step, section, objective and clock: a resumed run judges some of them again."""
    last: dict[tuple[str, ...], AnyEvent] = {}
    for event in events:
        match event:
            case StepFinished():
                last["step", event.step] = event
            case SectionFinished():
                last["section", event.section] = event
            case Objected():
                last["objective", event.step, event.objective] = event
            case ClockStopped():
                last["clock", event.step, event.clock] = event
    return last.values()


def _bound(event: AnyEvent) -> Bound | None:
    found: Any = getattr(event, "bound", None) or getattr(event, "objective", None)
    return found if isinstance(found, Bound) else None


def _margins(begun: RunStarted, events: list[AnyEvent], seconds: float) -> Iterator[tuple[str, float]]:
    """Time objectives of the run, of its sections and of its clocks."""
    if begun.within is not None:
        yield "within", round(begun.within - seconds, 3)
    for event in events:
        if isinstance(event, SectionFinished) and event.within is not None:
            yield f"section {event.name}", round(event.within - event.seconds, 3)
        elif isinstance(event, ClockStopped) and event.within is not None:
            yield event.clock, round(event.within - event.seconds, 3)
