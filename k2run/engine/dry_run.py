"""`--check`: every step is resolved as far as it can be before the run, and nothing that changes anything is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k2run.actions.action import Effect
from k2run.actions.person import Person
from k2run.engine.attempt import WORDS, Attempt, refused, short
from k2run.engine.dispatch import convert_arguments, message_of
from k2run.engine.events import Outcome, RunFinished
from k2run.errors import ExpressionFailed, K2runError
from k2run.language.vocabulary import SET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.engine.events import StepFinished
    from k2run.engine.execution import Execution
    from k2run.language.model import Step

RESOLVE, PROBE = "resolve", "probe"
"""Call nothing; call what only observes."""


def unknown_yet(error: ExpressionFailed) -> Attempt:
    """The end of a step that needs what only a run finds out."""
    return Attempt(outcome=Outcome.SKIPPED, message=f"known only in a run: {error.message}")


def is_done_anyway(run: Execution, step: Step) -> bool:
    """Whether a check does the step: `set`, and with `probe` whatever only observes and prompts for nothing."""
    if step.action in WORDS:
        return step.action == SET.name
    action = run.caller.action(step.action)
    asks = any(issubclass(kind, Person) for kind in action.given.values())
    return run.options.check == PROBE and step.effect is Effect.OBSERVES and not asks


def resolved(run: Execution, step: Step, args: dict[str, Any]) -> Attempt:
    """What a run would do, or why it could not."""
    if step.action in WORDS:
        return Attempt(outcome=Outcome.SKIPPED, message=f"would {step.action}")
    try:
        action = run.caller.action(step.action)
        convert_arguments(action, args)
        for connection in action.connections:
            needed = getattr(connection, "needs_argument", "")
            if not needed or needed in args:
                run.caller.connection(connection)
    except K2runError as error:
        return refused(error, *message_of(error))
    missing = run.stack.absent(args["service"]) if isinstance(args.get("service"), str) else ""
    if missing:
        return Attempt(outcome=Outcome.NOT_APPLICABLE, message=missing)
    shown = "" if step.no_log else ", ".join(f"{name}={short(value)}" for name, value in args.items())
    return Attempt(outcome=Outcome.SKIPPED, message=f"would call {step.action}({shown})")


def judge_trial(steps: Sequence[StepFinished], seconds: float, stopped: K2runError | None) -> RunFinished:
    """How a check ended: it fails where a run certainly would."""
    failed = [step.name for step in steps if step.outcome in {Outcome.FAILED, Outcome.UNKNOWN} and step.action != "run"]
    reasons = [*([str(stopped)] if stopped is not None else []), *(f'"{name}" would fail' for name in failed)]
    would = sum(step.message.startswith("would ") for step in steps)
    probed = sum(step.outcome is Outcome.PASSED and "." in step.action for step in steps)
    looked = f", {probed} {'was' if probed == 1 else 'were'} probed" if probed else ""
    verdict = f"checked: {would} step{'' if would == 1 else 's'} would run{looked}"
    return RunFinished(
        outcome=Outcome.FAILED if reasons else Outcome.PASSED,
        verdict="; ".join([verdict, *reasons[:3]]),
        exit_code=1 if reasons else 0,
        seconds=round(seconds, 3),
        reasons=reasons,
    )
