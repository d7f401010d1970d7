"""What an operator is asked: in the name of a step, and by the guide of a guided run before and after each step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from k2run.actions.action import Answer, Effect, Person
from k2run.actions.deadline import Deadline
from k2run.engine.attempt import WORDS, Attempt
from k2run.engine.events import Answered, Asked, Noted, Outcome, satisfied
from k2run.engine.safeguards import said
from k2run.engine.step_record import Turn, expected
from k2run.errors import Interrupted, K2runError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from k2run.engine.execution import Execution
    from k2run.engine.journal import Journal


class Nobody(Person):
    """An unattended run: the declared default is taken, without an operator's name."""

    is_there = False

    def ask(self, question: str, *, choices: Sequence[str], default: str | None, deadline: Deadline) -> Answer | None:  # noqa: ARG002
        """Answer with the default, or not at all."""
        return None if default is None else Answer(text=default)


class Recorded(Person):
    """A person whose questions and answers are journaled under a step.

    Args:
        person: Who is really asked.
        journal: Where it is kept.
        step: Path of the step that asks.
        ending: Set when the run ends: it no longer prompts or waits.
    """

    def __init__(self, person: Person, journal: Journal, step: str, ending: threading.Event) -> None:
        self.is_there = person.is_there
        self._person = person
        self._journal = journal
        self._step = step
        self._ending = ending

    def ask(self, question: str, *, choices: Sequence[str], default: str | None, deadline: Deadline) -> Answer | None:
        """Ask, and keep the record."""
        asked = Asked(
            step=self._step,
            question=question,
            choices=list(choices),
            default=default or "",
            seconds=deadline.seconds,
        )
        self._journal.record(asked)
        answer = Nobody().ask(question, choices=choices, default=default, deadline=deadline)
        if not self._ending.is_set():
            answer = self._heard(asked, deadline, answer)
        if answer is not None:
            self._journal.record(Answered(step=self._step, answer=answer.text, by=answer.by))
        return answer

    def _heard(self, asked: Asked, deadline: Deadline, unanswered: Answer | None) -> Answer | None:
        """The answer; what stands for one when the run ends meanwhile, or when the person cannot be asked.

        Raises:
            Interrupted: The run was asked to end, and so is this step.
        """
        until = Deadline(deadline.remaining(), self._ending, deadline.to_objective())
        person = self._person.about(self._journal.path.parent, asked.seq)
        try:
            return person.ask(
                asked.question, choices=asked.choices, default=asked.default if unanswered else None, deadline=until
            )
        except Interrupted:
            if deadline.stop.is_set():
                raise
        except K2runError:
            raise
        except Exception as error:  # noqa: BLE001 - a closed terminal is no operator
            self._journal.wall.fell("the question", error)
        return unanswered


class Move(StrEnum):
    """What is to happen next."""

    NEXT = "next"  # do the step; after a step: go on
    SKIP = "skip"  # leave the step out
    REDO = "redo"  # before a step: do the one before it again; after a step: do it again
    NOTE = "note"  # keep a note, and ask again
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
    """The steps of one run, each put before its guide."""

    def __init__(self, guide: Guide, execution: Execution) -> None:
        self._guide = guide
        self._run = execution
        self._ending = execution.asks_nobody
        self._previous: Callable[[], Outcome] | None = None

    def act(self, turn: Turn, args: dict[str, Any], do: Callable[[], Outcome]) -> Outcome:
        """Do a step as its guide decides.

        Raises:
            Interrupted: The guide ended the run.
        """
        while True:
            turn.run.check_stop()
            if self._ending.is_set():  # an ending run does not prompt
                return do()
            planned = self._planned(turn, args)
            decision = self._decided(turn, planned, self._guide.before)
            if decision.move is Move.SKIP:
                message = f"skipped by {decision.by}" if decision.by else "skipped by hand"
                return turn.ended(Attempt(outcome=Outcome.SKIPPED, message=message))
            if decision.move is Move.REDO and self._previous is not None:
                self._previous()
                continue
            self._previous = do
            return self._done(turn, planned, do)

    def _done(self, turn: Turn, planned: Planned, do: Callable[[], Outcome]) -> Outcome:
        """Do it, and again for as long as the guide says so."""
        while True:
            outcome = do()
            if satisfied(outcome) or self._ending.is_set():
                return outcome

            def ask(planned: Planned, stop: threading.Event, outcome: Outcome = outcome) -> Decision:
                return self._guide.after(planned, outcome, stop)

            if self._decided(turn, planned, ask).move is not Move.REDO:
                return outcome

    def _decided(self, turn: Turn, planned: Planned, ask: Callable[[Planned, threading.Event], Decision]) -> Decision:
        """Ask the guide, and keep the notes; a guide that is gone (its terminal was closed) has ended the run.

        Raises:
            Interrupted: The run ends; what it runs although it ends goes on without a guide.
        """
        decision = Decision(move=Move.NOTE)
        while decision.move is Move.NOTE:
            try:
                decision = ask(replace(planned, elapsed=self._elapsed()), self._ending)
            except Exception as error:  # noqa: BLE001 - whatever happens to who leads, what was broken is undone
                self._run.journal.wall.fell("the guide", error)
                decision = Decision(move=Move.ABORT, by=f"the loss of its guide ({said(error)})")
            for note in decision.notes:
                by = f"{decision.by}: " if decision.by else ""
                self._run.journal.record(Noted(message=f"{by}{note}", hint=f"noted at: {planned.name}"))
            turn.run.check_stop()
        if decision.move is not Move.ABORT and not self._ending.is_set():
            return decision
        self._ending.set()
        if turn.run.stop is self._ending:
            raise Interrupted(f"ended by {decision.by or 'hand'} before the end of {planned.name!r}")
        return Decision()  # a step of `always`: it runs, and there is no prompt for those after it

    def _elapsed(self) -> float:
        return self._run.journal.elapsed() - (self._run.first_fault or 0.0)

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
            elapsed=self._elapsed(),
            rto=run.runbook.objective.rto,
            can_redo=self._previous is not None,
        )
