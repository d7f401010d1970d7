"""What a protected stack refuses: faults, what destroys, and changes of its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.actions.action import Blast, Effect
from k2run.engine.outline import steps_within
from k2run.errors import Protected
from k2run.language.vocabulary import HARMS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k2run.actions.catalogue import Catalogue
    from k2run.language.model import Runbook, Step
    from k2run.stack.stack import Stack


def check_protected(steps: Iterable[Step], runbook: Runbook, stack: Stack, catalogue: Catalogue) -> None:
    """Refuse steps, and those inside of them, that a stack is protected from.

    Args:
        steps: What is to be done there.
        runbook: Whose steps they are; the stack may allow it by its name.
        stack: Where.
        catalogue: Where their actions are found.

    Raises:
        Protected: One breaks or destroys something there, or changes its data.
    """
    if not stack.protected or runbook.name in stack.allow:
        return
    for step in steps_within(list(steps)):
        does = _harm(step, catalogue)
        if does:
            raise Protected(
                f"{step.place}: {step.action} {does}; the stack {stack.name!r} is protected",
                hint="run it on a stack that may be changed, such as the sandbox; its owner says what may run here",
            )


def _harm(step: Step, catalogue: Catalogue) -> str:
    """What a step does that a stack is protected from; empty for any other."""
    if step.effect in HARMS:
        return f"{step.effect} something"
    action = catalogue.find(step.action) if step.effect is Effect.CHANGES else None
    return "changes data" if action is not None and action.blast is Blast.DATA else ""
