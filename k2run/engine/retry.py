"""Retry steps and blocks until a condition holds or the time is up."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.actions.action import Effect, Undo
from k2run.actions.deadline import Deadline
from k2run.engine.attempt import WORDS, Attempt, figures_in, held, judge, observed, refused
from k2run.engine.dispatch import message_of
from k2run.engine.events import FaultStruck, Outcome, StepTried
from k2run.engine.execution import within
from k2run.errors import ExpressionFailed, K2runError, TimedOut
from k2run.language.quantities import Duration
from k2run.language.vocabulary import WAIT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k2run.engine.execution import Execution
    from k2run.engine.step_record import Turn
    from k2run.language.model import Step


_ENOUGH = frozenset({Outcome.PASSED, Outcome.NOT_APPLICABLE, Outcome.NOT_CONFIRMED})
"""Outcomes after which nothing is tried again."""
DEFAULT_TIMEOUT = Duration(60)
DEFAULT_EVERY = Duration(1)
_MOST_STEPS = 64
"""Pauses do not grow any more after so many attempts: the factor's power stays a number."""


def time_limit(step: Step, args: Mapping[str, Any]) -> Duration:
    """How long a step may take in all.

    A repeated step ends at its objective (`within`), else at its `timeout`. Any other step ends at its `timeout`; its
    objective is only judged. A `wait` takes as long as it says.
    """
    if step.action == WAIT.name and step.timeout is None:
        with suppress(ValueError):  # what is no duration fails the step, not its limit
            return Duration(Duration.parse(args["for"]) + 1)
    if step.until is not None:
        return step.within or step.timeout or DEFAULT_TIMEOUT
    if step.timeout or step.within is None:
        return step.timeout or DEFAULT_TIMEOUT
    return max(DEFAULT_TIMEOUT, step.within)


class Trying(Struct):
    """The attempts of one turn of a step.

    Attributes:
        args: The action's arguments, rendered.
        limit: How long all attempts together may take.
        attempts: How many there were.
        waited: `until` came true: what else is expected is judged by this attempt, and no other follows.
    """

    turn: Turn
    args: dict[str, Any]
    limit: Duration
    attempts: int = 0
    waited: bool = False

    def until_done(self) -> Attempt:
        """Try until the step is satisfied, its retries are used up or its time has run out; returns the last attempt.

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
            if not repeats or self.waited or attempt.outcome in _ENOUGH:
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
                Deadline(ends - time.monotonic(), self.turn.run.stop).sleep(pause(step, self.attempts))
            except TimedOut:
                attempt.message = f"not within {limit} ({self.attempts} attempts): {attempt.message}"
                return attempt
            seconds = min(float(most), max(0.0, ends - time.monotonic()))

    def _once(self, deadline: Deadline) -> Attempt:
        """Do the action once and hold the result against what is expected."""
        run, step = self.turn.run, self.turn.step
        local = {"attempt": self.attempts, **self.turn.local}
        if step.until is not None or step.retries is not None:  # else it is that of what is tried again around it
            local["attempt"] = self.attempts
        try:
            if step.action in WORDS:
                attempt = WORDS[step.action](self.args, run.variables.names(local), deadline)
            else:
                attempt = observed(self._call(deadline))
                if attempt.judged:
                    attempt = held(attempt)
        except Exception as error:  # noqa: BLE001 - the boundary of a step: whatever an action raises fails the step alone
            if not isinstance(error, K2runError):
                run.journal.wall.keep(error)
            return refused(error, *message_of(error))
        if attempt.outcome is not Outcome.PASSED or not (step.until or step.expect or step.failed_when):
            return attempt
        names = run.variables.names({**local, "result": attempt.result})
        if step.until is not None:
            attempt = judge(attempt, (step.until,), names)
            self.waited = attempt.outcome is Outcome.PASSED
        return judge_step(step, attempt, names)

    def _call(self, deadline: Deadline) -> Any:
        """Call the action; a fault's undo is planned, and the recovery clock started, before it is injected."""
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


def pause(step: Step, attempts: int) -> float:
    """Seconds between two attempts, after so many of them."""
    every = step.every or DEFAULT_EVERY
    if isinstance(every, Duration):
        return every
    grown = min(float(every.most), every.first * every.factor ** min(attempts - 1, _MOST_STEPS))
    return grown * (1 + every.jitter * random.uniform(-1, 1))  # noqa: S311 - nothing secret


def judge_step(step: Step, attempt: Attempt, names: dict[str, Any]) -> Attempt:
    """Hold an attempt that has not failed against the step's `expect` and `failed_when`."""
    if attempt.outcome is Outcome.PASSED:
        attempt = judge(attempt, step.expect, names)
    if attempt.outcome is not Outcome.PASSED or step.failed_when is None:
        return attempt
    try:
        if not step.failed_when.evaluate(names):
            return attempt
        return attempt.failing(f"failed_when is true: {step.failed_when.text}")
    except ExpressionFailed as error:
        return attempt.unresolved(error)


_AGAIN = frozenset({Outcome.FAILED, Outcome.UNKNOWN})


class Tries:
    """Counts the tries of one turn, and decides whether another one follows.

    A resumed run continues with the try in which the run ended: the journal has those before it.

    Args:
        run: The run, with the hard limits around a try.
        turn: The block's, or that of the step that runs a runbook.

    Attributes:
        number: Of the try under way, from 1.
        waited: `until` came true: what else is expected is judged by this try, and no other follows.
    """

    def __init__(self, run: Execution, turn: Turn) -> None:
        self._run = run
        self._turn = turn
        step = turn.step
        self.repeats = (step.until is not None or step.retries is not None) and not run.options.check
        self.number = run.past.tried.get(turn.path, 0) + 1
        self.waited = False
        patience = step.within or step.timeout or DEFAULT_TIMEOUT
        self._ends = time.monotonic() + patience if step.until is not None and step.retries is None else None
        if self.number > 1:
            run.variables.register(run.past.handed.get(turn.path, {}))

    def names(self) -> dict[str, Any]:
        """What a try sees beside what is known everywhere."""
        return {**self._turn.local, "attempt": self.number} if self.repeats else self._turn.local

    def judged(self, attempt: Attempt) -> Attempt:
        """The attempt, judged by `until`."""
        until = self._turn.step.until
        if until is None or not self.repeats or attempt.outcome is not Outcome.PASSED:
            return attempt
        names = self._run.variables.names({**self.names(), "result": attempt.result})
        judged = judge(attempt, (until,), names)
        self.waited = judged.outcome is Outcome.PASSED
        return judged

    def another(self, attempt: Attempt) -> str | None:
        """Whether another try follows this one: None when it does, else why not ("" where nothing speaks against it).

        What the try has broken is undone, and its steps are forgotten: they are done again.

        Raises:
            Interrupted: The run was asked to end.
            OutOfTime: An enclosing hard limit has run out.
            JournalLost: The journal cannot be written any more.
        """
        run, step, path = self._run, self._turn.step, self._turn.path
        if not self.repeats or self.waited or attempt.outcome not in _AGAIN:
            return ""
        run.check_stop()
        wait = pause(step, self.number)
        if step.retries is not None and self.number > step.retries:
            return f"{self.number} tries"
        if self._ends is not None and time.monotonic() + wait >= self._ends:
            return f"{self.number} tries, and no time for more"
        failed = run.undos.play_all(by=path, inside=f"{path}.")
        if failed:
            return f"not tried again, for what it broke is still broken: {'; '.join(failed)}"
        tried = StepTried(step=path, attempt=self.number, headline=attempt.headline, message=attempt.message)
        run.journal.record(tried)
        run.past.forget(path)
        self._sleep(wait)
        self.number += 1
        return None

    def _sleep(self, seconds: float) -> None:
        """The pause between two tries; a hard limit around ends it."""
        try:
            Deadline(within(self._run.limits, Duration(seconds + 1)), self._run.stop).sleep(seconds)
        except TimedOut:
            self._run.check_stop()
