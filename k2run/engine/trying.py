"""Does a step's action: once, or again and again until it is satisfied or its time is over."""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.actions.action import Effect, Undo
from k2run.actions.deadline import Deadline
from k2run.engine.attempt import Attempt, figures_in, held, judge, observed, refused
from k2run.engine.caller import message_of
from k2run.engine.events import FaultStruck, Outcome, StepTried
from k2run.engine.words import WORDS
from k2run.errors import ExpressionFailed, K2runError, TimedOut
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from k2run.engine.turn import Turn
    from k2run.language.model import Step

DEFAULT_TIMEOUT = Duration(60)
DEFAULT_EVERY = Duration(1)


def time_limit(step: Step) -> Duration:
    """How long a step may take in all.

    A repeated step ends at its objective (`within`), else at its `timeout`. Any other step ends at its `timeout`; its
    objective is only judged.
    """
    if step.action == "wait" and isinstance(step.args.get("for"), Duration):
        return Duration(step.args["for"] + 1)
    if step.until is not None:
        return step.within or step.timeout or DEFAULT_TIMEOUT
    if step.timeout or step.within is None:
        return step.timeout or DEFAULT_TIMEOUT
    return max(DEFAULT_TIMEOUT, step.within)


class Trying(Struct):
    """The attempts of one turn of a step.

    Attributes:
        turn: Which.
        args: The action's arguments, rendered.
        limit: How long all attempts together may take.
        attempts: How many there were.
    """

    turn: Turn
    args: dict[str, Any]
    limit: Duration
    attempts: int = 0

    def until_done(self) -> Attempt:
        """Try until the step is satisfied, its retries are used up or its time is over; returns the last attempt.

        Raises:
            Interrupted: The run was asked to end.
            JournalLost: The journal cannot be written any more.
        """
        step, limit = self.turn.step, self.limit
        began = time.monotonic()
        ends = began + limit
        last: Attempt | None = None
        repeats = step.until is not None or bool(step.retries)
        most = step.timeout or limit
        seconds = min(float(most), float(limit))
        while True:
            self.attempts += 1
            due = None if step.within is None else began + step.within - time.monotonic()
            attempt = self._once(Deadline(seconds, self.turn.run.stop, due))
            if last is not None and not attempt.answered and time.monotonic() >= ends:
                attempt = last  # cut off by the end of the step: the one before it says more
            last = attempt
            if not repeats or attempt.outcome in {Outcome.PASSED, Outcome.NOT_APPLICABLE, Outcome.NOT_CONFIRMED}:
                return attempt
            if step.retries is not None and self.attempts > step.retries:
                return attempt
            self.turn.run.journal.record(
                StepTried(
                    step=self.turn.path,
                    attempt=self.attempts,
                    headline=attempt.headline,
                    message=attempt.message,
                    result=None if step.no_log else figures_in(attempt.result),
                )
            )
            try:
                Deadline(ends - time.monotonic(), self.turn.run.stop).sleep(step.every or DEFAULT_EVERY)
            except TimedOut:
                attempt.message = f"not within {limit} ({self.attempts} attempts): {attempt.message}"
                return attempt
            seconds = min(float(most), max(0.0, ends - time.monotonic()))

    def _once(self, deadline: Deadline) -> Attempt:
        """Do the action once and hold the result against what is expected."""
        run, step = self.turn.run, self.turn.step
        local = {**self.turn.local, "attempt": self.attempts}
        try:
            if step.action in WORDS:
                attempt = WORDS[step.action](self.args, run.variables.names(local), deadline)
            else:
                attempt = observed(self._call(deadline))
                if attempt.judged:
                    attempt = held(attempt)
        except Exception as error:  # noqa: BLE001 - the boundary of a step: whatever an action raises fails the step alone
            if not isinstance(error, K2runError):
                run.debug("".join(traceback.format_exception(error)))
            return refused(error, *message_of(error))
        if attempt.outcome is not Outcome.PASSED or not (step.until or step.expect or step.failed_when):
            return attempt
        names = run.variables.names({**local, "result": attempt.result})
        attempt = judge(attempt, (*((step.until,) if step.until else ()), *step.expect), names)
        if attempt.outcome is Outcome.PASSED and step.failed_when is not None:
            return _judge_failed_when(step, attempt, names)
        return attempt

    def _call(self, deadline: Deadline) -> Any:
        """Call the action; a fault's undo is planned, and the recovery clock started, before it strikes."""
        run, step = self.turn.run, self.turn.step
        struck: list[float] = []

        def plan(undo: Undo) -> None:
            run.undos.plan(self.turn.path, undo)
            struck.append(run.journal.elapsed())
            run.fault_began(struck[0])

        result = run.caller.call(step.action, self.args, deadline, step=self.turn.path, plan=plan)
        if struck:
            run.journal.record(
                FaultStruck(step=self.turn.path, action=step.action, name=self.turn.name, began=round(struck[0], 6))
            )
        elif run.undos and step.effect is Effect.CHANGES:
            run.undos.settle_by_step(self.turn.path, step.action, self.args)
        return result


def _judge_failed_when(step: Step, attempt: Attempt, names: dict[str, Any]) -> Attempt:
    assert step.failed_when is not None  # noqa: S101 - the caller has looked
    try:
        if not step.failed_when.evaluate(names):
            return attempt
        return attempt.failing(f"failed_when is true: {step.failed_when.text}")
    except ExpressionFailed as error:
        return attempt.failing(error.message, error.hint)
