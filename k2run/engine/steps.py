"""Runs one step: whether it applies, its turns, its action or its block."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from k2run.engine.approval import needs_approval, refusal
from k2run.engine.attempt import Attempt, judge
from k2run.engine.caller import message_of
from k2run.engine.choice import left_out
from k2run.engine.events import Outcome
from k2run.engine.leaps import LEAPS, Leap, leap_of, look
from k2run.engine.outcomes import of_all, satisfied
from k2run.engine.trial import is_done_anyway, resolved, unknown_yet
from k2run.engine.trying import Trying, time_limit
from k2run.engine.turn import Turn, title
from k2run.engine.variables import loop_items
from k2run.engine.words import WORDS
from k2run.errors import ExpressionFailed, Interrupted, RunbookInvalid, StackInvalid, UsageError
from k2run.language.expressions import render
from k2run.language.model import Severity
from k2run.language.vocabulary import RUN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k2run.engine.execution import Execution
    from k2run.language.model import Section, Step


class StepRunner:
    """Runs the steps of one section.

    Args:
        execution: The run that they belong to.
        section: Their section.
    """

    def __init__(self, execution: Execution, section: Section) -> None:
        self._run = execution
        self._section = section
        self._told = execution.section or section.path

    def run(self, step: Step, path: str = "", local: dict[str, Any] | None = None) -> Outcome:
        """Run a step with all its turns and record how it ended.

        Args:
            step: What to do.
            path: Its path in this run: below the turn of the loop that it is inside of; its own when "".
            local: Names that only this step sees.

        Raises:
            Interrupted: The run was asked to end.
            JournalLost: The journal cannot be written any more.
        """
        path, names = path or self._run.prefix + step.path, local or {}
        if step.delegate:
            return self._elsewhere(step, path, names)
        reason = left_out(step, self._section, self._run.options, self._run.before)
        if reason:
            return self.leave_out(step, Outcome.SKIPPED, reason, path, names)
        missing = self._run.missing(step.requires)
        if missing:
            return self.leave_out(step, Outcome.NOT_APPLICABLE, missing, path, names)
        return self._turn(step, path, names) if step.loop is None else self._loop(step, path, names)

    def _elsewhere(self, step: Step, path: str, names: dict[str, Any]) -> Outcome:
        """Run a step on the stack that it is delegated to."""
        try:
            other = self._run.on(step.delegate)
        except (StackInvalid, RunbookInvalid) as error:
            return self._at(step, path, names).ended(Attempt().failing(error.message, error.hint))
        names = {**names, "stack": other.stack.facts()}
        return StepRunner(other, self._section).run(replace(step, delegate=""), path, names)

    def leave_out(
        self, step: Step, outcome: Outcome, message: str, path: str = "", local: dict[str, Any] | None = None
    ) -> Outcome:
        """Record a step that is not run at all."""
        turn = self._at(step, path or self._run.prefix + step.path, local or {})
        return turn.ended(Attempt(outcome=outcome, message=message))

    def _loop(self, step: Step, path: str, names: dict[str, Any]) -> Outcome:
        """Run a step once for each item; the results of all turns are registered as a list."""
        run = self._run
        try:
            items = loop_items(step.loop, run.variables.names(names))
        except (ExpressionFailed, TypeError) as error:
            outcome = Outcome.SKIPPED if run.options.check else Outcome.FAILED
            return self.leave_out(step, outcome, message_of(error)[0], path, names)
        turns = [(f"{path}#{number}", {**names, step.loop_var: item}) for number, item in enumerate(items)]
        outcome = of_all(run.each(turns, lambda turn: self._turn(step, *turn), at_once=step.parallel))
        if step.register:
            run.variables.register({step.register: [run.results.pop(turn, None) for turn, _ in turns]})
        return outcome

    def _turn(self, step: Step, path: str, given: dict[str, Any]) -> Outcome:
        """Run a step once (or one turn of its loop), unless an earlier part of this run has done so."""
        run = self._run
        done = run.past.steps.get(path)
        if done is not None:
            run.variables.register(done.variables)
            if step.register and step.loop is not None:
                run.results[path] = done.variables.get(step.register)
            if step.action in LEAPS and done.outcome is Outcome.PASSED:
                raise leap_of(step.action, done.result)
            return done.outcome
        try:
            local = run.variables.local(step.vars, **given) if step.vars else given
            turn = self._at(step, path, local)
            if step.when is not None and not step.when.evaluate(run.variables.names(local)):
                return turn.ended(Attempt(outcome=Outcome.SKIPPED, message=f"not needed: {step.when.text} is false"))
        except ExpressionFailed as error:
            return self._at(step, path, given).ended(self._unresolved(error))
        if step.block:
            return self._block(turn)
        if step.action == RUN.name:
            return self._runbook(turn)
        return self._leap(turn) if step.action in LEAPS else self._act(turn)

    def _act(self, turn: Turn) -> Outcome:
        """Do the step's action."""
        run, step = self._run, turn.step
        try:
            fixed = step.fixed or step.action in WORDS
            args = step.args if fixed else render(step.args, run.variables.names(turn.local))
        except ExpressionFailed as error:
            return turn.ended(self._unresolved(error))
        if run.options.check and not is_done_anyway(run, step):
            return turn.ended(resolved(run, step, args))
        if needs_approval(step) and not (run.options.check or run.options.yes):
            refused = refusal(turn)
            if refused is not None:
                return turn.ended(refused)
        if run.guided is None:
            return self._do(turn, args)
        return run.guided.act(turn, args, lambda: self._do(turn, args))

    def _unresolved(self, error: ExpressionFailed) -> Attempt:
        """A value of the step could not be computed; before a run that may only mean that it is not known yet."""
        return unknown_yet(error) if self._run.options.check else Attempt().failing(error.message, error.hint)

    def _do(self, turn: Turn, args: dict[str, Any]) -> Outcome:
        """Do the action until the step is satisfied or its time is over."""
        step, began = turn.step, time.monotonic()
        trying = Trying(turn, args, time_limit(step))
        turn.begun({} if step.no_log or step.action in WORDS else args, trying.limit)
        attempt = trying.until_done()
        return turn.ended(attempt, seconds=time.monotonic() - began, attempts=trying.attempts)

    def _block(self, turn: Turn) -> Outcome:
        """Run a block: its steps until one fails, then `rescue`, and `always` whatever happened."""
        began = time.monotonic()
        turn.begun({})
        attempt, leap = Attempt(), None
        try:
            failed = self._until_failure(turn.step.block, f"{turn.path}.block", turn.local)
            if failed is not None:
                attempt = self._rescue(turn, failed)
        except Leap as caught:
            leap, attempt = caught, Attempt(headline=caught.because)
        except Interrupted:
            StepRunner(self._run.ending(), self._section).finish(turn)
            raise
        left = self.finish(turn)
        if left is not None:
            attempt = attempt.failing(f"{left.name} failed in `always`")
        outcome = turn.ended(attempt, seconds=time.monotonic() - began, attempts=1)
        if leap is not None:
            raise leap
        return outcome

    def finish(self, turn: Turn) -> Step | None:
        """Run the `always` of a block; the step that failed in it, if one did."""
        return self._until_failure(turn.step.always, f"{turn.path}.always", turn.local)

    def _runbook(self, turn: Turn) -> Outcome:
        """Run another runbook as this step."""
        from k2run.engine.nested import run_runbook

        step, began = turn.step, time.monotonic()
        turn.begun({}, time_limit(step))
        try:
            attempt = run_runbook(self._run, step, turn.path, turn.local, section=self._told)
        except (ExpressionFailed, UsageError) as error:
            attempt = Attempt().failing(error.message, error.hint)
        if attempt.outcome is Outcome.PASSED and step.expect:
            attempt = judge(attempt, step.expect, turn.names(attempt))
        return turn.ended(attempt, seconds=time.monotonic() - began, attempts=1)

    def _leap(self, turn: Turn) -> Outcome:
        """Leave out the steps that follow, as the step says."""
        step = turn.step
        try:
            attempt = look(step.action, step.args, self._run.variables.names(turn.local))
        except ExpressionFailed as error:
            return turn.ended(Attempt().failing(error.message, error.hint))
        turn.ended(attempt)
        raise leap_of(step.action, attempt.result)

    def _rescue(self, turn: Turn, failed: Step) -> Attempt:
        if not turn.step.rescue:
            return Attempt().failing(f"{failed.name} failed")
        local = {**turn.local, "failed": str(failed.name)}
        again = self._until_failure(turn.step.rescue, f"{turn.path}.rescue", local)
        if again is None:
            return Attempt(headline=f"rescued: {failed.name} had failed")
        return Attempt().failing(f"{failed.name} failed, and so did the rescue: {again.name}")

    def _until_failure(self, steps: Iterable[Step], path: str, local: dict[str, Any]) -> Step | None:
        """Run steps in order; the first critical one that fails ends them and is returned."""
        for number, step in enumerate(steps):
            self._run.check_stop()
            outcome = self.run(step, f"{path}[{number}]", local)
            if not satisfied(outcome) and step.severity is Severity.CRITICAL and not step.ignore_failure:
                return step
        return None

    def _at(self, step: Step, path: str, local: dict[str, Any]) -> Turn:
        name = title(self._run, step, local)
        return Turn(self._run, step, path, name, self._told, self._section.category, local)
