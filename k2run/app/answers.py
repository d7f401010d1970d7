"""What an operator gives to a run: values of its inputs, and answers to its questions from another process.

Inputs come from a file, from `-e`, and from the terminal when a required one is missing. Answers of another process are
files in the run's own folder, one for each question.
"""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.actions.action import Answer, Person
from k2run.engine.variables import convert, recorded_input
from k2run.errors import TimedOut, UsageError
from k2run.files import created
from k2run.language.document import read_file
from k2run.stack.secrets import as_written

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TextIO

    from k2run.actions.deadline import Deadline
    from k2run.language.model import Input, Runbook


POLL_S = 0.1
"""Seconds between two looks into the inbox; no more than a person notices."""
_decoder = msgspec.json.Decoder(Answer)


def read_inputs(path: str) -> dict[str, Any]:
    """The values in a file of inputs: a mapping in YAML (or JSON).

    Raises:
        UsageError: The file is missing, cannot be read, or is not a mapping.
    """
    document = read_file(Path(path))
    if document.problems or not isinstance(document.data, dict):
        reason = document.problems[0].message if document.problems else "it is not a mapping of names to values"
        raise UsageError(f"{path} has no inputs: {reason}", hint="write one `name: value` per line")
    return {str(name): value for name, value in document.data.items()}


def ask_missing(
    runbook: Runbook,
    given: Mapping[str, Any],
    *,
    reads: TextIO | None = None,
    writes: TextIO | None = None,
    hidden: Callable[[str], str] = getpass.getpass,
) -> dict[str, Any]:
    """The given values, and those of missing required inputs, asked for one by one until they are valid.

    `hidden` asks for a secret without showing what is typed.
    """
    values = dict(given)
    for entry in runbook.inputs:
        if entry.required and entry.name not in values:
            values[entry.name] = _ask(entry, reads or sys.stdin, writes or sys.stderr, hidden)
    return values


def given_again(runbook: Runbook, recorded: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values given to a resumed run: its secrets, and nothing that it has kept and computed with.

    Args:
        runbook: Declares the inputs.
        recorded: The inputs as the run's journal has them.
        given: With `-e` or in a file, which may repeat the inputs of the run.

    Raises:
        UsageError: An input would change in the middle of the run.
    """
    declared = {entry.name: entry for entry in runbook.inputs}
    for name, value in given.items():
        entry = declared.get(name)
        if entry is None or not _is_again(entry, value, recorded.get(name)):
            kept = f", where {name} is {recorded[name]}" if name in recorded else ""
            raise UsageError(
                f"{name} cannot be given to a resumed run",
                hint=f"it keeps the inputs it started with{kept}; only secret inputs can be given again",
            )
    return {name: value for name, value in given.items() if declared[name].type == "secret"}


def _is_again(entry: Input, value: Any, recorded: Any) -> bool:
    """Whether a value is a secret, which no journal keeps, or the one the run started with."""
    return entry.type == "secret" or convert(entry, value) == recorded_input(entry, recorded)


def ask_again(
    runbook: Runbook,
    recorded: Mapping[str, Any],
    given: Mapping[str, Any],
    *,
    hidden: Callable[[str], str] = getpass.getpass,
) -> dict[str, Any]:
    """The given values, and the secrets that a run had but does not keep, asked for."""
    values = dict(given)
    for entry in runbook.inputs:
        lost = entry.type == "secret" and entry.default is None and recorded.get(entry.name) is not None
        if lost and entry.name not in values:
            values[entry.name] = _ask(entry, sys.stdin, sys.stderr, hidden)
    return values


def _ask(entry: Input, reads: TextIO, writes: TextIO, hidden: Callable[[str], str]) -> Any:
    kind = "/".join(entry.choices) or entry.type
    question = f"{entry.name} ({kind}){f', {entry.help}' if entry.help else ''}: "
    while True:
        if entry.type == "secret":
            typed = hidden(question)
        else:
            print(question, end="", file=writes, flush=True)
            typed = reads.readline()
        if not typed:
            raise UsageError(f"the input {entry.name!r} has no value", hint=f"give it with -e {entry.name}=…")
        try:
            convert(entry, typed.strip())
        except UsageError as error:
            print(f"  {error.message}", file=writes)
        else:
            return as_written(typed.strip())


class Inbox:
    """Where the answers to the questions of one run arrive."""

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
        """The answer to a question, if there is one; an invalid answer counts as none."""
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
