"""Asks people in the name of a step, and keeps question and answer in the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.actions.deadline import Deadline
from k2run.actions.person import Answer, Person
from k2run.engine.events import Answered, Asked
from k2run.errors import Interrupted, K2runError

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from k2run.engine.journal import Journal


class Nobody(Person):
    """An unattended run: the declared default is taken, without an operator's name."""

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
