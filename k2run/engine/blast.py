"""Limits how far the faults of a run may reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.actions.action import Blast
from k2run.engine.outline import all_steps
from k2run.errors import Protected, UsageError
from k2run.language.problems import did_you_mean

if TYPE_CHECKING:
    from k2run.actions.catalogue import Catalogue
    from k2run.language.model import Runbook


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
                hint=f"--max-blast {action.blast} allows it",
            )
