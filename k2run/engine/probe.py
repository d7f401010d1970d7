"""Looks at a step's expectation once, without a record: for clocks that sample a steady state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.actions.deadline import Deadline
from k2run.engine.attempt import judge, observed
from k2run.engine.events import Outcome
from k2run.engine.words import WORDS
from k2run.errors import Interrupted, K2runError
from k2run.language.expressions import render

if TYPE_CHECKING:
    from k2run.engine.execution import Execution
    from k2run.language.model import Step

LOOK = 10.0
"""Seconds that one look may take when the step sets no `timeout`."""


def holds(run: Execution, step: Step) -> bool:
    """Whether the step's expectation is true right now.

    Raises:
        Interrupted: The run was asked to end.
    """
    deadline = Deadline(step.timeout or LOOK, run.stop)
    try:
        names = run.variables.names(run.variables.local(step.vars))
        if step.when is not None and not step.when.evaluate(names):
            return True
        if step.requires and run.missing(step.requires):
            return True
        if step.action in WORDS:
            attempt = WORDS[step.action](step.args, names, deadline)
        else:
            attempt = observed(run.caller.call(step.action, render(step.args, names), deadline, step=step.path))
        expectations = (*((step.until,) if step.until else ()), *step.expect)
        return judge(attempt, expectations, {**names, "result": attempt.result}).outcome is Outcome.PASSED
    except Interrupted:
        raise
    except K2runError:
        return False
