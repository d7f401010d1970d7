"""A person in the loop: confirm, choose, type, note. Without one the default is taken, and the result says so."""

from __future__ import annotations

from pathlib import Path

from k2run.actions.action import Answer, Person, Result, action, open_on_desktop
from k2run.actions.deadline import Deadline
from k2run.errors import AuthorError, NotConfirmed, Refused, Unknown

YES, NO = "yes", "no"


class Reply(Result, frozen=True, kw_only=True):
    """What a person answered.

    Attributes:
        answer: The answer.
        by: Who gave it; empty when no operator answered and the default was taken.
    """

    answer: str
    by: str = ""

    def headline(self) -> str:
        """The answer and who gave it."""
        return f"{self.answer} ({self.by or 'default, no operator'})"


def _ask(
    person: Person, deadline: Deadline, question: str, choices: list[str], default: str | None, assignee: str
) -> Answer:
    question = f"{question} (for {assignee})" if assignee else question
    answer = person.ask(question, choices=choices, default=default, deadline=deadline)
    if answer is None:
        raise NotConfirmed("no operator was there to answer", hint="run it on a terminal, or declare a default")
    return answer


@action("manual.confirm")
def confirm(person: Person, deadline: Deadline, that: str, default: str | None = None, assignee: str = "") -> Reply:
    """A person confirms that something is so.

    Args:
        that: What is to be confirmed, as a statement: "The quick reference is printed".
        default: `yes` or `no`, taken when no operator answers; without it the step is recorded as not confirmed.
        assignee: Who should answer; shown with the question.
    """
    answer = _ask(person, deadline, that, [YES, NO], default, assignee)
    if answer.text != YES:
        raise Refused(f"{answer.by or 'the default'} answered {answer.text}")
    return Reply(answer=answer.text, by=answer.by, source="a person")


@action("manual.choose")
def choose(
    person: Person,
    deadline: Deadline,
    question: str,
    choices: list[str],
    default: str | None = None,
    assignee: str = "",
) -> Reply:
    """A person chooses one of several ways.

    Args:
        question: What to decide.
        choices: The possible answers.
        default: The one taken when no operator answers; without it the step is recorded as not confirmed.
        assignee: Who should answer; shown with the question.
    """
    answer = _ask(person, deadline, question, choices, default, assignee)
    return Reply(answer=answer.text, by=answer.by, source="a person")


@action("manual.input")
def input_(person: Person, deadline: Deadline, question: str, default: str | None = None, assignee: str = "") -> Reply:
    """A person types a value.

    Args:
        question: What to ask for.
        default: Taken when no operator answers; without it the step is recorded as not confirmed.
        assignee: Who should answer; shown with the question.
    """
    answer = _ask(person, deadline, question, [], default, assignee)
    return Reply(answer=answer.text, by=answer.by, source="a person")


@action("manual.note")
def note(person: Person, deadline: Deadline, text: str, assignee: str = "") -> Reply:
    """Show a note and wait until it was read; without an operator it is recorded as not confirmed.

    Args:
        text: What to show.
        assignee: Who should read it; shown with the note.
    """
    answer = _ask(person, deadline, text, ["ok"], "ok", assignee)
    if not answer.by:
        raise NotConfirmed("no operator was there to read it", hint="run it on a terminal")
    return Reply(answer=answer.text, by=answer.by, source="a person")


class Shown(Result, frozen=True, kw_only=True):
    """A page that was brought to a screen.

    Attributes:
        url: The page.
        opened: It was opened here; otherwise the operator opened it.
        by: Who saw it.
    """

    url: str
    opened: bool
    by: str

    def headline(self) -> str:
        """What was opened, and who saw it."""
        return f"{self.url} ({self.by})"


@action("manual.show")
def show(person: Person, deadline: Deadline, url: str = "", file: str = "", assignee: str = "") -> Shown:
    """Open a page or a file on the operator's screen, and wait until they see it; `within` times the switch.

    It is opened where this machine has a desktop; elsewhere the operator is told what to open.

    Args:
        url: The page.
        file: A file, instead of a page.
        assignee: Who should see it; shown with the question.
    """
    if bool(url) == bool(file):
        raise AuthorError("manual.show needs either a url or a file")
    place = Path(file).expanduser().absolute() if file else None
    if place is not None and not place.exists():
        raise Unknown(f"there is nothing at {place}")
    address = place.as_uri() if place is not None else url
    if not person.is_there:
        raise NotConfirmed("no operator was there to see it", hint="run it on a terminal")
    opened = open_on_desktop(address)
    question = f"{address} is opened: is it on the screen?" if opened else f"Open {address}: is it on the screen?"
    answer = _ask(person, deadline, question, [YES, NO], None, assignee)
    if answer.text != YES:
        raise Refused(f"{answer.by} answered {answer.text}")
    return Shown(url=address, opened=opened, by=answer.by, source="a person")
