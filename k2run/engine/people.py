"""Asks people in the name of a step, and keeps question and answer in the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.actions.person import Answer, Person
from k2run.engine.events import Answered, Asked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.actions.deadline import Deadline
    from k2run.engine.journal import Journal


class Nobody(Person):
    """An unattended run: the declared default is taken, in nobody's name."""

    def ask(self, question: str, *, choices: Sequence[str], default: str | None, deadline: Deadline) -> Answer | None:  # noqa: ARG002
        """Answer with the default, or not at all."""
        return None if default is None else Answer(text=default)


class Recorded(Person):
    """A person whose questions and answers are journaled under a step.

    Args:
        person: Who is really asked.
        journal: Where it is kept.
        step: Path of the step that asks.
    """

    def __init__(self, person: Person, journal: Journal, step: str) -> None:
        self._person = person
        self._journal = journal
        self._step = step

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
        person = self._person.about(self._journal.path.parent, asked.seq)
        answer = person.ask(question, choices=choices, default=default, deadline=deadline)
        if answer is not None:
            self._journal.record(Answered(step=self._step, answer=answer.text, by=answer.by))
        return answer
