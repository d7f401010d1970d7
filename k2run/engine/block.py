"""Runs one block: its steps until one fails, then `rescue`, and `always` whatever happened."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from k2run.engine.attempt import Attempt
from k2run.engine.events import Outcome
from k2run.engine.execution import OutOfTime
from k2run.engine.outcomes import went_wrong
from k2run.engine.retry import Tries
from k2run.engine.sequence import Leap, Several, handing_on, stronger, weigh
from k2run.engine.step_record import UNJUDGED, title

if TYPE_CHECKING:
    from k2run.engine.step_record import Turn
    from k2run.engine.steps import StepRunner
    from k2run.language.model import Step


class Block:
    """One turn of a block.

    Args:
        runner: Runs its steps.
        turn: The block's.
    """

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
        """Run the rescue of a block that failed; a leap leaves it out.

        Args:
            block: How its steps ended.
            known: What the rescue knows as `failed`.
            leap: What left the block.
        """
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
