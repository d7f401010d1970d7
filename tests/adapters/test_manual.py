"""What is brought to an operator's screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k2run.actions.action import Answer, Person
from k2run.actions.deadline import Deadline
from k2run.adapters import manual
from k2run.errors import AuthorError, NotConfirmed, Refused, Unknown

if TYPE_CHECKING:
    from pathlib import Path

TESTED_ON = {"manual": "the terminal"}


class Operator(Person):
    """One who gives the same answer to everything.

    Args:
        says: The answer.
        is_there: Whether there is one.
    """

    def __init__(self, says: str, *, is_there: bool = True) -> None:
        self.says = says
        self.is_there = is_there
        self.asked: list[str] = []

    def ask(self, question: str, **_: object) -> Answer:  # type: ignore[override]
        self.asked.append(question)
        return Answer(text=self.says, by="ada")


@pytest.fixture(autouse=True)
def without_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


def test_without_a_desktop_the_operator_is_told_what_to_open(tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    page.write_text("x")
    operator = Operator("yes")
    found = manual.show(operator, Deadline(5), file=str(page))
    assert operator.asked == [f"Open {page.as_uri()}: is it on the screen?"]
    assert (found.url, found.opened, found.by) == (page.as_uri(), False, "ada")


def test_what_is_not_on_the_screen_is_a_failure_and_without_an_operator_not_confirmed() -> None:
    with pytest.raises(Refused, match="ada answered no"):
        manual.show(Operator("no"), Deadline(5), url="http://127.0.0.1:9/")
    with pytest.raises(NotConfirmed, match="no operator was there to see it"):
        manual.show(Operator("yes", is_there=False), Deadline(5), url="http://127.0.0.1:9/")


def test_a_backup_that_was_never_made_cannot_be_shown(tmp_path: Path) -> None:
    with pytest.raises(Unknown, match="there is nothing at"):
        manual.show(Operator("yes"), Deadline(5), file=str(tmp_path / "b.html"))
    with pytest.raises(AuthorError, match="either a url or a file"):
        manual.show(Operator("yes"), Deadline(5))
