"""Somebody who leads a run step by step: asked before each step, and after one that failed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.actions.action import Effect
from k2run.engine.attempt import Attempt
from k2run.engine.events import Noted, Outcome
from k2run.engine.outcomes import satisfied
from k2run.engine.turn import Turn, expected
from k2run.engine.words import WORDS
from k2run.errors import Interrupted

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from k2run.engine.execution import Execution


class Move(StrEnum):
    """What is to happen next."""

    NEXT = "next"  # do the step; after a step: go on
    SKIP = "skip"  # leave the step out
    REDO = "redo"  # before a step: do the one before it again; after a step: do it again
    ABORT = "abort"  # end the run: what it broke is undone


class Decision(Struct, frozen=True, kw_only=True):
    """What was decided, and by whom.

    Attributes:
        notes: What was noted at this step, for the record.
    """

    move: Move = Move.NEXT
    by: str = ""
    notes: tuple[str, ...] = ()


class Planned(Struct, frozen=True, kw_only=True):
    """The step that comes next.

    Attributes:
        effect: What its action does to the stack: observes, changes, destroys, breaks.
        says: What the action does, in a sentence.
        elapsed: Seconds since the run (or the failure it recovers from) began.
        rto: The recovery time objective of the run, in seconds.
        can_redo: Whether there is a step before it that can be done again.
    """

    path: str
    name: str
    action: str
    args: dict[str, Any]
    effect: str
    says: str
    expected: str
    within: float | None
    hint: str
    elapsed: float
    rto: float | None
    can_redo: bool


class Guide(ABC):
    """Decides, step by step."""

    @abstractmethod
    def before(self, planned: Planned, stop: threading.Event) -> Decision:
        """What to do with the next step; once `stop` is set, the run ends whatever is decided."""

    @abstractmethod
    def after(self, planned: Planned, outcome: Outcome, stop: threading.Event) -> Decision:
        """What to do after a step that did not pass; `skip` means the same as `next` here."""


class Guided:
    """The steps of one run, each put before its guide.

    Args:
        guide: Who decides.
        execution: The run.
    """

    def __init__(self, guide: Guide, execution: Execution) -> None:
        self._guide = guide
        self._run = execution
        self._previous: Callable[[], Outcome] | None = None

    def act(self, turn: Turn, args: dict[str, Any], do: Callable[[], Outcome]) -> Outcome:
        """Do a step as its guide decides.

        Raises:
            Interrupted: The guide ended the run.
        """
        while True:
            planned = self._planned(turn, args)
            decision = self._heard(self._guide.before(planned, self._run.stop), planned)
            if decision.move is Move.SKIP:
                message = f"skipped by {decision.by}" if decision.by else "skipped by hand"
                return turn.ended(Attempt(outcome=Outcome.SKIPPED, message=message))
            if decision.move is Move.REDO and self._previous is not None:
                self._previous()
                continue
            self._previous = do
            return self._done(planned, do)

    def _done(self, planned: Planned, do: Callable[[], Outcome]) -> Outcome:
        """Do it, and again for as long as the guide says so."""
        while True:
            outcome = do()
            if satisfied(outcome):
                return outcome
            if self._heard(self._guide.after(planned, outcome, self._run.stop), planned).move is not Move.REDO:
                return outcome

    def _heard(self, decision: Decision, planned: Planned) -> Decision:
        """Keep the notes; end the run when that was decided."""
        for note in decision.notes:
            by = f"{decision.by}: " if decision.by else ""
            self._run.journal.record(Noted(message=f"{by}{note}", hint=f"noted at: {planned.name}"))
        self._run.check_stop()
        if decision.move is Move.ABORT:
            self._run.stop.set()
            raise Interrupted(f"ended by {decision.by or 'hand'} before the end of {planned.name!r}")
        return decision

    def _planned(self, turn: Turn, args: dict[str, Any]) -> Planned:
        run, step = self._run, turn.step
        action = None if step.action in WORDS else run.caller.action(step.action)
        return Planned(
            path=turn.path,
            name=turn.name,
            action=step.action,
            args={} if step.no_log or action is None else args,
            effect=step.effect or Effect.OBSERVES,
            says=action.summary if action else "",
            expected=expected(step),
            within=step.within,
            hint=step.on_failure,
            elapsed=run.journal.elapsed() - (run.first_fault or 0.0),
            rto=run.runbook.objective.rto,
            can_redo=self._previous is not None,
        )
