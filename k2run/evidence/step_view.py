"""One step, one section, one undo of a run, as their events tell them; long loops folded to a row."""

from __future__ import annotations

import re
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from k2run.engine.events import (
    Answered,
    Asked,
    FaultStruck,
    Outcome,
    OutlineStep,
    SectionFinished,
    SectionStarted,
    StepFinished,
    StepStarted,
    StepTried,
    UndoFinished,
    UndoPlanned,
    UndoStarted,
)
from k2run.evidence.wording import Standing, span, standing_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_INNER = re.compile(r"(?:\.(?:block|rescue|always|run\.\w+)\[\d+\]|(?<=\])\.steps\[\d+\])(?:#\d+)?$")
UNLISTED = 1_000_000
SHOWN_TURNS = 25
"""Passed turns of one loop that a report shows one by one; turns that did not pass are all shown."""


def parent_path(path: str) -> str:
    """The path of the block (or runbook) that a step is inside of; empty for a step of a section."""
    inner = _INNER.search(path)
    parent = path[: inner.start()] if inner else ""
    return "" if parent.startswith("sections[") and "." not in parent else parent


def base_path(path: str) -> str:
    """A step's path without the turn of its loop."""
    head, mark, turn = path.rpartition("#")
    return head if mark and turn.isdigit() else path


class StepView(Struct):
    """One step: what was planned, and the events that tell how it went.

    Attributes:
        base: Its path without the turn of its loop.
        order: Its position in its section.
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
    order: tuple[int, int] = (UNLISTED, 0)

    def __post_init__(self) -> None:
        self.base = base_path(self.path)

    def begin(self, event: StepStarted) -> None:
        """Record the start."""
        self.started, self.standing = event, Standing.RUNNING

    def end(self, event: StepFinished) -> None:
        """Record the end."""
        self.finished, self.standing = event, standing_of(event)

    @property
    def name(self) -> str:
        """Its name, with the number of the turn where all turns of a loop have the same."""
        events = (self.finished, self.started, self.planned)
        name = next((event.name for event in events if event is not None and event.name), self.action)
        turn = self.path[len(self.base) + 1 :]
        if turn and self.planned is not None and name == (self.planned.name or self.action):
            return f"{name} ({int(turn) + 1})"
        return name

    @property
    def action(self) -> str:
        """Its action; `block` for a group of steps."""
        event = self.finished or self.started or self.planned
        return event.action if event is not None else ""

    @property
    def tried(self) -> StepTried | None:
        """The last attempt that did not meet the condition."""
        return self.tries[-1] if self.tries else None

    @property
    def result(self) -> dict[str, Any]:
        """The result of its action; empty before there is one."""
        result = self.finished.result if self.finished is not None else None
        return result if isinstance(result, dict) else {}

    @property
    def is_block(self) -> bool:
        """Whether it groups other steps: a block, or another runbook."""
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
        """Seconds into the run at which it started; None before."""
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
        """Record the start, or that a resumed run goes through it again."""
        if self.started is None:
            self.started = event
        else:
            self.reopened = event

    def end(self, event: SectionFinished) -> None:
        """Record the end; a resumed run that found nothing left to do does not change it."""
        if self.finished is None or self.reopened is None or self._did_something_since(self.reopened.seq):
            self.finished = event

    def _did_something_since(self, seq: int) -> bool:
        return any(step.finished is not None and step.finished.seq > seq for step in self.steps)

    def add(self, step: StepView) -> None:
        """Add a step."""
        self.steps.append(step)
        self._leaves = None

    def drop(self, step: StepView) -> None:
        """Remove a step."""
        self.steps.remove(step)
        self._leaves = None

    def in_order(self) -> list[StepView]:
        """Its steps in the runbook's order, with turns of loops and steps of blocks in place."""
        return sorted(self.steps, key=attrgetter("order"))

    def leaves(self) -> list[StepView]:
        """Its steps in order, without the blocks that only group them."""
        if self._leaves is None:
            self._leaves = [step for step in self.in_order() if not step.is_block]
        return self._leaves


class UndoView(Struct):
    """One undo of a fault."""

    planned: UndoPlanned
    started: UndoStarted | None = None
    finished: UndoFinished | None = None

    @property
    def pending(self) -> bool:
        """Whether its fault may still be active."""
        return self.finished is None or self.finished.outcome is not Outcome.PASSED


class MoreTurns(Struct, frozen=True, kw_only=True):
    """The folded turns of one loop; all passed.

    Attributes:
        shortest: Seconds that the shortest took.
        longest: Seconds that the longest took.
        first: Line of the journal on which the first of them ended.
        last: Line of the journal on which the last of them ended.
    """

    count: int
    shortest: float
    longest: float
    first: int
    last: int

    @property
    def says(self) -> str:
        """`901 more turns passed, each in <1ms to 3ms`."""
        return f"{self.count:,} more turns passed, each in {span(self.shortest)} to {span(self.longest)}"


def listed(steps: Iterable[StepView]) -> Iterator[StepView | MoreTurns]:
    """Steps in order; of a long loop the first turns, all that did not pass, and the rest as one."""
    for _, group in groupby(steps, key=attrgetter("base")):
        turns = list(group)
        if len(turns) <= SHOWN_TURNS + 1 or turns[0].is_block:
            yield from turns
            continue
        left, more = SHOWN_TURNS, []
        for turn in turns:
            if turn.standing is not Standing.PASSED:
                yield turn
            elif left:
                left -= 1
                yield turn
            else:
                more.append(turn)
        if more:
            yield _folded(more)


def _folded(turns: list[StepView]) -> MoreTurns:
    ends = [turn.finished for turn in turns if turn.finished is not None]
    seconds = [end.seconds for end in ends]
    return MoreTurns(
        count=len(ends), shortest=min(seconds), longest=max(seconds), first=ends[0].seq, last=max(e.seq for e in ends)
    )
