"""`delegate`: a step that is done on another stack than the run's own. It may look and change there, not break."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from k2run.engine.dispatch import Caller
from k2run.engine.outline import all_steps
from k2run.errors import UsageError
from k2run.language.vocabulary import HARMS
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from k2run.language.model import Runbook
    from k2run.stack.stack import Stack


def check_delegates(runbook: Runbook) -> None:
    """Refuse faults on other stacks: the undos of a run belong to the one stack that it holds.

    Raises:
        UsageError: A delegated step breaks or destroys something.
    """
    for step in all_steps(runbook):
        if not step.delegate:
            continue
        for part in (step, *step.block, *step.rescue, *step.always):
            if part.action == "run" or part.effect in HARMS:
                raise UsageError(
                    f"{part.place}: {part.action} cannot be delegated to {step.delegate}",
                    hint="a run holds one stack, and breaks nothing on others; run that runbook on the other stack",
                )


class Delegates:
    """The other stacks of a run, each read when it is first asked for.

    Args:
        runbook: Where names of stacks are looked for from.
        caller: Calls actions on the run's own stack.
        home: The `.k2run` folder.
    """

    def __init__(self, runbook: Runbook, caller: Caller, home: Path) -> None:
        self._near = Path(runbook.home) if runbook.home else None
        self._caller = caller
        self._home = home
        self._known: dict[str, tuple[Stack, Caller]] = {}

    def find(self, reference: str, own: Stack) -> tuple[Stack, Caller]:
        """A stack and who calls actions on it; its secrets are masked in the records of the run's own.

        Raises:
            StackInvalid: There is no such stack, or its file is wrong.
        """
        if reference not in self._known:
            stack = load_stack(reference, near=self._near, home=self._home, overrides={})
            stack.redact = own.redact
            self._known[reference] = (stack, Caller(self._caller.catalogue, stack, self._caller.person))
        return self._known[reference]
