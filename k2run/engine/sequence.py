"""Runs steps together: several (or turns of a loop) in order or at once, and a block with `rescue` and `always`."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec.structs import replace

from k2run.engine.attempt import Attempt
from k2run.engine.events import Outcome, of_all, satisfied, went_wrong
from k2run.engine.execution import OutOfTime
from k2run.engine.retry import Tries
from k2run.engine.step_record import UNJUDGED, title
from k2run.language.expressions import render
from k2run.language.model import Severity
from k2run.language.vocabulary import SKIP_SECTION, STOP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from k2run.engine.execution import Execution
    from k2run.engine.step_record import Turn
    from k2run.engine.steps import StepRunner
    from k2run.language.model import Step


LEAPS = frozenset({STOP.name, SKIP_SECTION.name})
T = TypeVar("T")


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


class Block:
    """One turn of a block."""

    def __init__(self, runner: StepRunner, turn: Turn) -> None:
        self._runner = runner
        self._run = runner.execution
        self._turn = turn

    def run(self) -> Outcome:
        """Run its steps until one fails, then `rescue`, and `always` whatever happened.

        Raises:
            Interrupted: The run was asked to end.
            JournalLost: The journal cannot be written any more.
            Leap: A step of it leaves out what follows the block, too.
        """
        turn = self._turn
        began = time.monotonic()
        turn.begun({})
        with turn.in_any_case(began):
            try:
                attempt, leap, tries = self._tried_and_rescued()
            except BaseException:
                self._last()
                raise
            last = self._last()
        if last.failed is not None:
            attempt = attempt.failing(f"{self._says(last)} in `always`")
        leap = stronger(leap, last.leap)
        outcome = turn.ended(attempt, seconds=time.monotonic() - began, attempts=tries, leap=leap)
        return handing_on(leap, outcome)

    def _tried_and_rescued(self) -> tuple[Attempt, Leap | None, int]:
        """The first two parts of a block: how it ended, the leap out of it, its tries; a leap leaves out the rescue."""
        first, attempt, tries = self._first()
        if first is None:
            known = {"name": self._turn.name, "step": self._turn.path, "message": attempt.message}
            return *self._rescued(attempt, known, None), tries
        if first.failed is None:
            return attempt, first.leap, tries
        known = self._run.failures.get(f"{self._turn.path}.block{_place(first.failed)}", {})
        return *self._rescued(attempt, known, first.leap), tries

    def _first(self) -> tuple[Several[Step] | None, Attempt, int]:
        """The steps of a block, in its last try: None where the block failed, and not by one of them."""
        if self._turn.step.timeout is None:
            tries = Tries(self._run, self._turn)
            return *self._tried(self._runner, tries), tries.number
        run = self._run.limited(self._turn.step.timeout, self._turn.name)
        limit, tries = run.limits[-1], Tries(run, self._turn)
        try:
            first, attempt = self._tried(self._runner.of(run), tries)
        except OutOfTime as over:
            if over.limit is not limit:
                raise
            return None, Attempt().failing(limit.says), tries.number
        return (
            (None, Attempt().failing(limit.says), tries.number) if limit.left() <= 0 else (first, attempt, tries.number)
        )

    def _tried(self, runner: StepRunner, tries: Tries) -> tuple[Several[Step] | None, Attempt]:
        """Run the steps of a block until a try is what it is to be, or the last one."""
        while True:
            first = self._until_failure(runner, "block", tries.names())
            attempt = tries.judged(_of_try(first, self._says(first)))
            why = "" if first.leap is not None else tries.another(attempt)
            if why is not None:
                itself = first.failed is None and first.leap is None and attempt.outcome is not first.outcome
                said = replace(attempt, message=f"{attempt.message} ({why})") if why else attempt
                return None if itself else first, said

    def _rescued(self, block: Attempt, known: dict[str, Any], leap: Leap | None) -> tuple[Attempt, Leap | None]:
        """Run the rescue of a block that failed, which sees `known` as `failed`; a leap leaves it out."""
        why = block.message
        if leap is not None or not self._turn.step.rescue:
            unseen = block.outcome is Outcome.UNKNOWN
            return replace(Attempt().failing(why), outcome=Outcome.UNKNOWN if unseen else Outcome.FAILED), leap
        known = {"outcome": Outcome.FAILED.value, "result": None, **known}
        again = self._until_failure(self._runner, "rescue", {**self._turn.local, "failed": known})
        if again.failed is not None:
            return Attempt().failing(f"{why}, and in the rescue {self._says(again)}"), again.leap
        if again.leap is not None:
            return Attempt().failing(f"{why}, and its rescue was left: {again.leap.because}"), again.leap
        if again.outcome is Outcome.NOT_APPLICABLE:
            lacking = again.lacking or "none of its steps does"
            return Attempt().failing(f"{why}, and its rescue does not apply: {lacking}"), None
        return Attempt(headline=f"rescued: {why}"), None

    def _last(self) -> Several[Step]:
        """Run the `always` of a block; like that of the runbook it goes on although the run is asked to end."""
        runner = self._runner.of(self._run.ending()) if self._turn.step.always else self._runner
        with self._run.journal.unbound():
            return self._until_failure(runner, "always", self._turn.local)

    def _until_failure(self, runner: StepRunner, part: str, local: dict[str, Any]) -> Several[Step]:
        """Run the steps of a block in order, until one counts as failed or leaps; those after it leave no record.

        What does not apply because of the one before it has one.
        """
        block = self._turn.step
        path, inside = f"{self._turn.path}.{part}", runner.inside(block)

        def leave(step: Step, outcome: Outcome, why: str) -> None:
            if outcome is Outcome.NOT_APPLICABLE:
                inside.leave_out(step, outcome, why, f"{path}{_place(step)}", local)

        several: Several[Step] = Several(
            runner.execution,
            lambda step: inside.run(step, f"{path}{_place(step)}", local),
            weigh=weigh,
            after=lambda step, outcome, _was: str(step.name) if outcome is Outcome.FAILED else "",
            lacks=lambda step: "" if part == "always" else runner.lacks(step, f"{path}{_place(step)}", local),
            leave=leave,
        )
        several.run(getattr(block, part))
        return several

    def _says(self, several: Several[Step]) -> str:
        """What is said of the step of a block that went wrong."""
        name = "" if several.failed is None else title(self._run, several.failed, self._turn.local)
        return went_wrong(name, several.failed_as)


def _place(step: Step) -> str:
    """A step's number in its list, as its path has it: `[2]`."""
    return step.path[step.path.rindex("[") :]


def _of_try(first: Several[Step], says: str) -> Attempt:
    """What one try of a block's steps came to; a block whose check could not be seen could not be checked either."""
    if first.failed is not None:
        outcome = Outcome.UNKNOWN if first.failed_as is Outcome.UNKNOWN else Outcome.FAILED
        attempt = replace(Attempt().failing(says), outcome=outcome)
    elif first.leap is not None:
        attempt = Attempt(headline=first.leap.because)
    elif first.lacking:
        attempt = Attempt(outcome=Outcome.NOT_APPLICABLE, message=first.lacking)
    elif first.outcome in UNJUDGED:
        attempt = Attempt(outcome=first.outcome, message="nothing in it was checked")
    else:
        attempt = Attempt(outcome=first.outcome)
    return replace(attempt, result={"outcome": attempt.outcome.value, "message": attempt.message})
