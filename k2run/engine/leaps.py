"""`stop` and `skip_section`: steps after which the next one is not the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k2run.engine.attempt import Attempt
from k2run.language.expressions import render
from k2run.language.vocabulary import SKIP_SECTION, STOP

if TYPE_CHECKING:
    from collections.abc import Mapping

LEAPS = frozenset({STOP.name, SKIP_SECTION.name})


class Leap(Exception):
    """The steps that follow are left out; no error: blocks, loops and sections hand it on to where it is meant for.

    Attributes:
        because: Why, for people.
    """

    def __init__(self, because: str) -> None:
        super().__init__(because)
        self.because = because


class SectionSkipped(Leap):
    """What is left of the section is left out."""


class RunStopped(Leap):
    """What is left of the runbook is left out.

    Attributes:
        passed: It does not speak against the run.
    """

    def __init__(self, because: str, *, passed: bool) -> None:
        super().__init__(because)
        self.passed = passed


def look(action: str, args: Mapping[str, Any], names: dict[str, Any]) -> Attempt:
    """What the record tells of such a step.

    Raises:
        ExpressionFailed: The reason could not be filled in.
    """
    given = render(dict(args), names)
    word = "stopped" if action == STOP.name else "the rest of the section is left out"
    because = str(given.get("because", ""))
    return Attempt(result=given, headline=f"{word}: {because}" if because else word)


def leap_of(action: str, given: Mapping[str, Any]) -> Leap:
    """The leap of a step that is recorded.

    Args:
        action: `stop` or `skip_section`.
        given: Its arguments, filled in.
    """
    because = str(given.get("because", ""))
    if action == STOP.name:
        return RunStopped(because, passed=bool(given.get("passed", False)))
    return SectionSkipped(because)
