"""What a run is asked to do, and what its stack allows: protection, approvals, blast radius."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct, field

from k2run.actions.action import Blast
from k2run.actions.catalogue import Catalogue
from k2run.engine.approval import check_approved
from k2run.engine.delegates import check_delegates
from k2run.engine.execution import Execution, Options
from k2run.engine.interrupts import StopRequest
from k2run.engine.outline import all_steps, check_tags, steps_before
from k2run.engine.prompts import Nobody
from k2run.engine.protection import check_protected
from k2run.errors import Protected, UsageError
from k2run.language.problems import did_you_mean

if TYPE_CHECKING:
    from k2run.actions.person import Person
    from k2run.engine.guide import Guide
    from k2run.engine.journal import Observer
    from k2run.engine.store import Store
    from k2run.language.model import Runbook
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
    check_delegates(request.runbook)
    steps_before(request.runbook, request.options.start_at)
    check_tags(request.runbook, request.options)
    check_blast(request.runbook, request.catalogue, request.options.max_blast)
    own = [step for step in all_steps(request.runbook) if not step.delegate]
    check_protected(own, request.runbook, request.stack, request.catalogue)


def check_blast(runbook: Runbook, catalogue: Catalogue, most: str) -> None:
    """Refuse a runbook one of whose faults reaches further than a run may.

    Args:
        runbook: What is to be run.
        catalogue: Where its actions are found.
        most: The `--max-blast` of the run; no limit when empty.

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
