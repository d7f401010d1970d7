"""What a run is asked to do, and what its stack allows: protection, approvals, blast radius."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from msgspec import Struct, field

from k2run.actions.action import Blast, Effect
from k2run.actions.catalogue import Catalogue
from k2run.actions.deadline import Deadline
from k2run.engine.attempt import Attempt
from k2run.engine.events import Outcome
from k2run.engine.execution import Execution, Options
from k2run.engine.outline import all_steps, check_tags, steps_before, steps_within
from k2run.engine.prompts import Nobody
from k2run.engine.safeguards import StopRequest
from k2run.errors import Protected, UsageError
from k2run.language.expressions import roles_in
from k2run.language.model import Kind
from k2run.language.problems import did_you_mean
from k2run.language.vocabulary import HARMS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k2run.actions.action import Person
    from k2run.engine.journal import Observer
    from k2run.engine.prompts import Guide
    from k2run.engine.step_record import Turn
    from k2run.engine.store import Store
    from k2run.language.model import Runbook, Step
    from k2run.stack.stack import Stack

Inside = Callable[[Execution, StopRequest], None]


class Request(Struct, frozen=True, kw_only=True):
    """What is to be run, on what, how, and who watches.

    Attributes:
        guide: Decides about each step before it is done.
        inside: Done after the sections, while the run's faults are still in force.
    """

    runbook: Runbook
    stack: Stack
    store: Store
    catalogue: Catalogue = field(default_factory=Catalogue)
    options: Options = field(default_factory=Options)
    observers: tuple[Observer, ...] = ()
    person: Person = field(default_factory=Nobody)
    guide: Guide | None = None
    inside: Inside | None = None


def check_allowed(request: Request) -> None:
    """Refuse what a protected stack is protected from: faults, destructive actions, changes of data.

    Raises:
        Protected: The runbook does such a thing and is not allowed to, by name, or reaches further than the run may.
    """
    check_approved(request.runbook, request.options)
    steps_before(request.runbook, request.options.start_at)
    check_tags(request.runbook, request.options)
    check_blast(request.runbook, request.catalogue, request.options.max_blast)
    own = [step for step in all_steps(request.runbook) if not step.delegate]
    check_protected(own, request.runbook, request.stack, request.catalogue)
    check_faults(own, request.stack)


def check_blast(runbook: Runbook, catalogue: Catalogue, most: str) -> None:
    """Refuse a runbook one of whose faults reaches further than a run may, by its `--max-blast`; no limit when empty.

    Raises:
        Protected: A fault reaches further.
        UsageError: There is no such limit.
    """
    if not most:
        return
    if most not in set(Blast):
        raise UsageError(
            f"a blast radius is {', '.join(Blast)}, not {most!r}", hint=did_you_mean(most, Blast) or "--max-blast data"
        )
    for step in all_steps(runbook):
        action = catalogue.find(step.action) if step.action else None
        if action is not None and action.blast is not None and action.blast.reaches_past(Blast(most)):
            raise Protected(
                f"{step.place}: {step.action} reaches the {action.blast}; this run may reach no further than {most}",
                hint="`--skip-tags` leaves steps out; a stack that may be broken, such as the sandbox, needs no limit",
            )


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


def check_protected(steps: Iterable[Step], runbook: Runbook, stack: Stack, catalogue: Catalogue) -> None:
    """Refuse steps, and those inside of them, that a stack is protected from, unless it allows their runbook by name.

    A recovery may write a probe message where the stack says how one is made: that is how it is proven.

    Raises:
        Protected: One breaks or destroys something there, or changes its data.
    """
    if not stack.protected or runbook.name in stack.allow:
        return
    for step in steps_within(list(steps)):
        does = _harm(step, catalogue)
        if does and not _is_probe(step, runbook, stack):
            raise Protected(
                f"{step.place}: {step.action} {does}; the stack {stack.name!r} is protected",
                hint="run it on a stack that may be changed, such as the sandbox; its owner says what may run here",
            )


def check_faults(steps: Iterable[Step], stack: Stack) -> None:
    """Refuse faults that a stack does not declare to be allowed there, whoever injects them.

    Raises:
        Protected: One of them, or of those inside of them, is such a fault.
    """
    for step in steps_within(list(steps)):
        if reason := forbidden(step, stack):
            raise Protected(
                f"{step.place}: {reason}",
                hint="leave it out with `--skip-tags`, or use another stack; the stack's `faults:` says what it allows",
            )


def forbidden(step: Step, stack: Stack) -> str:
    """Why the fault of a step may not be injected into a stack; empty when it may, or for any other step."""
    if step.effect is not Effect.BREAKS or stack.faults is None:
        return ""
    if any(fnmatchcase(step.action, pattern) for pattern in stack.faults):
        return ""
    allowed = f"only {', '.join(stack.faults)}" if stack.faults else "no fault at all"
    return f"{step.action} is not allowed: the stack {stack.name!r} ({stack.path}) allows {allowed}"


def _is_probe(step: Step, runbook: Runbook, stack: Stack) -> bool:
    """Whether a step of a recovery writes one message, made as the stack says."""
    if runbook.kind is not Kind.RECOVERY or step.effect in HARMS or "count" in step.args:
        return False
    return roles_in(step.args) >= {"topic", "probe"} <= stack.roles.keys()


def _harm(step: Step, catalogue: Catalogue) -> str:
    """What a step does that a stack is protected from; empty for any other."""
    if step.effect in HARMS:
        return f"{step.effect} something"
    action = catalogue.find(step.action) if step.effect is Effect.CHANGES else None
    return "changes data" if action is not None and action.blast is Blast.DATA else ""
