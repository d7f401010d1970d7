"""Looks at the steady state while recovery is timed: once through its steps, without a record of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k2run.actions.deadline import Deadline
from k2run.engine.attempt import WORDS, judge, observed
from k2run.engine.events import Outcome
from k2run.engine.step_record import title
from k2run.engine.variables import loop_items
from k2run.errors import Inapplicable, Interrupted, K2runError, NotApplicable
from k2run.language.expressions import render
from k2run.language.model import Severity
from k2run.language.vocabulary import Effect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.engine.execution import Execution
    from k2run.language.model import Step

PERIOD = 0.25
"""Seconds between two looks at the steady state while recovery is timed; half of it is the clock's error."""
LOOK = 10.0
"""Seconds that one look may take when the step sets no `timeout`."""


def steadiness(run: Execution) -> tuple[Outcome, str]:
    """Whether the steady state holds right now, and if not, which step does not and why.

    Returns:
        Passed, failed, or not applicable where no step applies: nothing proves then that the stack is steady.

    Raises:
        Interrupted: The run was asked to end.
    """
    look = Look(run)
    if unmet := look.unmet(run.runbook.steady_state):
        return Outcome.FAILED, unmet
    return (Outcome.PASSED if look.judged else Outcome.NOT_APPLICABLE), ""


class Look:
    """One look: the steps in order, up to the first that does not hold.

    Args:
        run: The run whose recovery is timed.

    Attributes:
        judged: A step applied and was judged; where none does, nothing is known.
    """

    def __init__(self, run: Execution) -> None:
        self._run = run
        self.judged = False
        self._changed = False
        """A step of this look has changed something: what looks for its effect has to wait for it."""

    def unmet(self, steps: Sequence[Step], known: dict[str, Any] | None = None) -> str:
        """Which step does not hold and why; empty when all hold.

        Args:
            steps: The steps.
            known: What steps of this look have registered so far; added to.

        Raises:
            Interrupted: The run was asked to end.
        """
        known = {} if known is None else known
        for step in steps:
            counts = step.severity is Severity.CRITICAL and not step.ignore_failure
            try:
                why = self._each(step, known)
            except TypeError as error:  # a loop over what is no list
                why = f"{title(self._run, step, known)}: {error}"
            if why and counts:
                return why
        return ""

    def _each(self, step: Step, known: dict[str, Any]) -> str:
        """Which step does not hold and why: it, or one turn of its loop."""
        if step.requires and self._run.missing(step.requires):
            return ""
        if step.loop is None:
            return self._named(step, known, {})
        results: list[Any] = []
        for item in loop_items(step.loop, {**self._run.variables.names(), **known}):
            turn = dict(known)
            if why := self._named(step, turn, {step.loop_var: item}):
                return why
            results.append(turn.get(step.register or ""))
        if step.register:
            known[step.register] = results
        return ""

    def _named(self, step: Step, known: dict[str, Any], given: dict[str, Any]) -> str:
        try:
            why = self._once(step, known, given)
        except Interrupted:
            raise
        except (Inapplicable, NotApplicable):
            return ""
        except K2runError as error:
            why = str(error)
        return f"{title(self._run, step, {**known, **given})}: {why}" if why else ""

    def _once(self, step: Step, known: dict[str, Any], given: dict[str, Any]) -> str:
        variables = self._run.variables
        names = variables.names(variables.local(step.vars, **known, **given))
        if step.when is not None and not step.when.evaluate(names):
            return ""
        if step.block:
            inside = {**known, **given}
            why = self.unmet(step.block, inside)
            known.update((name, value) for name, value in inside.items() if name not in given)
            return why
        waits = step.until is not None and self._changed
        deadline = Deadline(step.timeout or (step.within if waits else None) or LOOK, self._run.stop)
        expectations = (*((step.until,) if step.until else ()), *step.expect)
        while True:
            attempt = self._attempt(step, names, deadline)
            attempt = judge(attempt, expectations, {**names, "result": attempt.result})
            holds = attempt.outcome is Outcome.PASSED
            if holds or not waits or deadline.has_passed(PERIOD):
                break
            deadline.sleep(PERIOD)
        self.judged = True
        self._changed = self._changed or step.effect not in {None, Effect.OBSERVES}
        if step.action == "set":
            known.update(attempt.result)
        if step.register:
            known[step.register] = attempt.result
        return "" if holds else attempt.message or attempt.outcome.value

    def _attempt(self, step: Step, names: dict[str, Any], deadline: Deadline) -> Any:
        if step.action in WORDS:
            return WORDS[step.action](step.args, names, deadline)
        return observed(self._run.caller.call(step.action, render(step.args, names), deadline, step=step.path))
