"""Several steps (or turns of a loop) in order or at once: how they weigh together, and what leaves out the others."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from k2run.engine.attempt import Attempt
from k2run.engine.events import Outcome
from k2run.engine.outcomes import of_all, satisfied
from k2run.language.expressions import render
from k2run.language.model import Severity
from k2run.language.vocabulary import SKIP_SECTION, STOP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from k2run.engine.execution import Execution
    from k2run.language.model import Step


LEAPS = frozenset({STOP.name, SKIP_SECTION.name})


class Leap(Exception):
    """The steps that follow are left out; no error: blocks, loops and sections hand it on to where it is meant for.

    Attributes:
        because: Why, for people.
        outcome: How the step ended that hands it on: a leap out of a block that failed hides nothing.
        strength: Of several leaps at once the strongest counts.
    """

    strength = 0

    def __init__(self, because: str) -> None:
        super().__init__(because)
        self.because = because
        self.outcome = Outcome.PASSED

    @property
    def says(self) -> str:
        """Why a step that follows was left out."""
        return f"left out: {self.because}" if self.because else "left out by skip_section"

    def written(self) -> dict[str, Any]:
        """As the record of a step that hands it on keeps it."""
        return {"action": SKIP_SECTION.name, "because": self.because}


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
        self.strength = 1 if passed else 2

    @property
    def says(self) -> str:
        """Why a step that follows was left out."""
        return f"not reached: the run was stopped: {self.because}"

    def written(self) -> dict[str, Any]:
        """As the record of a step that hands it on keeps it."""
        return {"action": STOP.name, "because": self.because, "passed": self.passed}


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
    """The leap of a `stop` or `skip_section`, from its arguments, filled in."""
    because = str(given.get("because", ""))
    if action == STOP.name:
        return RunStopped(because, passed=bool(given.get("passed", False)))
    return SectionSkipped(because)


def stronger(one: Leap | None, other: Leap | None) -> Leap | None:
    """Of two leaps the one that counts: it ends more, or was first."""
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda each: each.strength)


def handing_on(leap: Leap | None, outcome: Outcome) -> Outcome:
    """The outcome; or else the leap is handed on, and with it how the step ended that it leaves.

    Raises:
        Leap: There is one.
    """
    if leap is None:
        return outcome
    leap.outcome = outcome
    raise leap


T = TypeVar("T")


class Several(Generic[T]):
    """Runs several items by one rule, in order or at once.

    An item that leaps, or after which `after` gives a reason, leaves out those that have not begun. What had failed
    before a leap stays failed.

    Args:
        execution: The run.
        do: Runs one item.
        weigh: An item's outcome as it counts here.
        after: Why an item's outcome, as weighed and as it was, leaves out those that follow; empty when it does not.
        lacks: Why those that follow an item that does not apply do not apply either; empty when they do.
        leave: Records an item that is left out, as what and why.

    Attributes:
        leap: The leap that is to be handed on, if there was one.
        failed: The first item that counts as failed.
        failed_as: How that one ended: what could not be seen counts as failed, and is told as what it is.
        lacking: Why those that followed did not apply; empty when they did.
        outcome: How they ended together.
    """

    def __init__(  # noqa: PLR0913 - how several weigh together, rule by rule
        self,
        execution: Execution,
        do: Callable[[T], Outcome],
        *,
        weigh: Callable[[T, Outcome], Outcome] = lambda _item, outcome: outcome,
        after: Callable[[T, Outcome, Outcome], str] = lambda _item, _outcome, _was: "",
        lacks: Callable[[T], str] = lambda _item: "",
        leave: Callable[[T, Outcome, str], object] = lambda _item, _outcome, _why: None,
    ) -> None:
        self._run = execution
        self._do = do
        self._weigh = weigh
        self._after = after
        self._lacks = lacks
        self._leave = leave
        self._lock = threading.Lock()
        self._outcomes: list[Outcome] = []
        self._left: tuple[Outcome, str] | None = None
        self.lacking = ""
        self.leap: Leap | None = None
        self.failed: T | None = None
        self.failed_as = Outcome.FAILED
        self.outcome = Outcome.SKIPPED

    def run(self, items: Sequence[T], *, at_once: int = 1) -> Outcome:
        """Run them all; gives how they ended together.

        Raises:
            Interrupted: The run was asked to end.
            JournalLost: The journal cannot be written any more.
        """
        self._run.each(items, self._one, at_once=at_once)
        together = of_all(self._outcomes)
        self.outcome = Outcome.NOT_APPLICABLE if self.lacking and satisfied(together) else together
        return self.outcome

    def _one(self, item: T) -> None:
        if self._left is not None:
            self._leave(item, *self._left)
            return
        try:
            was, leap = self._do(item), None
        except Leap as caught:
            was, leap = caught.outcome, caught
        outcome = self._weigh(item, was)
        with self._lock:
            self._outcomes.append(outcome)
            if self.failed is None and outcome is Outcome.FAILED:
                self.failed, self.failed_as = item, was
            why = self._after(item, outcome, was)
            if leap is not None:
                self.leap = stronger(self.leap, leap)
                why = why or leap.says
            if was is Outcome.NOT_APPLICABLE:
                self.lacking = self.lacking or self._lacks(item)
            if why or self.lacking:
                left = (Outcome.SKIPPED, why) if why else (Outcome.NOT_APPLICABLE, _depends_on(self.lacking))
                self._left = self._left or left


def _depends_on(lacking: str) -> str:
    """What is said of a step that depends on one that does not apply: the reason stands with that one."""
    name, does_not, why = lacking.partition(" does not apply: ")
    return f"depends on {name}, which does not apply" if does_not else why or name


def weigh(step: Step, outcome: Outcome) -> Outcome:
    """A step's outcome as those around it count it: only a critical one that is not ignored can fail them."""
    if satisfied(outcome):
        return outcome
    if step.ignore_failure or step.severity is not Severity.CRITICAL:
        return Outcome.PASSED
    return Outcome.FAILED
