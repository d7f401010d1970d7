"""Destructive steps are approved by a person before they are done, or by `--yes` before the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.actions.action import Effect
from k2run.actions.deadline import Deadline
from k2run.engine.events import Outcome
from k2run.engine.outline import all_steps
from k2run.engine.step_record import Attempt
from k2run.errors import UsageError

if TYPE_CHECKING:
    from k2run.engine.execution import Options
    from k2run.engine.step_record import Turn
    from k2run.language.model import Runbook, Step

YES, NO = "yes", "no"
PATIENCE_S = 3600.0
"""Seconds that an approval is waited for; nothing was destroyed, so there is no hurry."""


def check_approved(runbook: Runbook, options: Options) -> None:
    """Refuse an unattended run with destructive steps that are not approved.

    Raises:
        UsageError: There are such steps; the message names the first.
    """
    if options.attended or options.yes or options.check:
        return
    for step in all_steps(runbook):
        if needs_approval(step):
            raise UsageError(
                f"{step.place}: {step.action or 'the block'} needs approval, and there is no operator to give it",
                hint="give it with --yes, or say `approve: false` on the step",
            )


def needs_approval(step: Step) -> bool:
    """Whether a step needs approval: as it says, else when its action destroys something."""
    return step.effect is Effect.DESTROYS if step.approve is None else step.approve


def refusal(turn: Turn) -> Attempt | None:
    """Ask for the approval of a step that needs one; how the step ends when it is not given, else None.

    Raises:
        Interrupted: The run was asked to end.
    """
    run = turn.run
    question = f"{turn.name}: {turn.step.action} is to be done on {run.stack.name}. Go on?"
    deadline = Deadline(PATIENCE_S, run.stop)
    answer = run.caller.person(turn.path).ask(question, choices=[YES, NO], default=None, deadline=deadline)
    if answer is not None and answer.text == YES:
        return None
    if answer is None:
        return Attempt(outcome=Outcome.NOT_CONFIRMED, message="not approved by an operator")
    return Attempt().failing(f"not approved by {answer.by or 'the person asked'}")
