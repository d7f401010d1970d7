"""Answers that come from another process: files in the run's own folder, one for each question."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from k2run.actions.person import Answer, Person
from k2run.atomic_write import created
from k2run.errors import TimedOut, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from k2run.actions.deadline import Deadline

POLL_S = 0.1
"""Seconds between two looks into the inbox; no more than a person notices."""
_decoder = msgspec.json.Decoder(Answer)


class Inbox:
    """Where the answers to the questions of one run arrive.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "inbox"

    def put(self, question: int, answer: Answer) -> None:
        """Leave an answer; the first one counts.

        Args:
            question: The line of the journal with the question.
            answer: The answer.

        Raises:
            UsageError: The question is already answered.
        """
        self._folder.mkdir(exist_ok=True)
        target = self._place(question)
        if not created(target, msgspec.json.encode(answer)):
            earlier = self.take(question)
            who = f"{earlier.by} answered {earlier.text!r}" if earlier else "it was answered"
            raise UsageError(f"too late: {who} before", hint="the first answer counts")

    def take(self, question: int) -> Answer | None:
        """The answer to a question, if there is one; what is no answer counts as none."""
        try:
            return _decoder.decode(self._place(question).read_bytes())
        except (OSError, msgspec.DecodeError):
            return None

    def _place(self, question: int) -> Path:
        return self._folder / f"answer-{question}.json"


class InboxPerson(Person):
    """A person who answers through the inbox of a run, on a web page for example.

    Args:
        folder: The run's folder, once there is a question.
        question: The line of its journal with the question.
    """

    def __init__(self, folder: Path | None = None, question: int = 0) -> None:
        self._folder = folder
        self._question = question

    def about(self, folder: Path, question: int) -> Person:
        """The same person, asked this question."""
        return InboxPerson(folder, question)

    def ask(self, question: str, *, choices: Sequence[str], default: str | None, deadline: Deadline) -> Answer | None:  # noqa: ARG002 - the journal shows the question
        """Wait for an answer; on timeout the default is taken, without an operator's name."""
        if self._folder is None:
            raise UsageError("a question without a run has no inbox")
        inbox = Inbox(self._folder)
        while True:
            answer = inbox.take(self._question)
            if answer is not None and (not choices or answer.text in choices):
                return answer
            try:
                deadline.sleep(POLL_S)
            except TimedOut:
                return None if default is None else Answer(text=default)
