"""What depends on what: without the fault or the change that comes before it, a step has nothing to show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.actions.action import Blast, Effect
from k2run.engine.outline import ALWAYS, STEADY_AFTER, STEADY_BEFORE, steps_within
from k2run.language.model import Kind, Severity
from k2run.language.vocabulary import HARMS

if TYPE_CHECKING:
    from k2run.engine.execution import Execution
    from k2run.language.model import Runbook, Section, Step

_NO_EXPERIMENT = frozenset({STEADY_BEFORE, STEADY_AFTER, ALWAYS})


def is_built_on(step: Step, section: Section, runbook: Runbook) -> bool:
    """Whether the steps after this one depend on what it does to the stack.

    They do on every fault, and on every change that is part of an experiment: in a scenario, in a recovery, and beside
    a fault in the same section. A step that is not critical, or whose failure is ignored, is one to do without.

    Args:
        step: The step; a block when one of its steps is such.
        section: Where it is.
        runbook: Whose section that is.
    """
    if section.path in _NO_EXPERIMENT or step.ignore_failure or step.severity is not Severity.CRITICAL:
        return False
    if step.block:
        return any(is_built_on(inner, section, runbook) for inner in step.block)
    return step.effect in HARMS or (step.effect is Effect.CHANGES and _is_experiment(section, runbook))


def is_proof(step: Step, section: str, run: Execution) -> bool:
    """Whether a step writes a probe, to prove a recovery: that changes data, and repairs nothing.

    Args:
        step: The step.
        section: Path of its section.
        run: The run.
    """
    if run.runbook.kind is not Kind.RECOVERY or step.effect is not Effect.CHANGES:
        return False
    proves = any(each.path == section and each.clock == "rto" for each in run.runbook.sections)
    action = run.caller.catalogue.find(step.action) if proves else None
    return action is not None and action.blast is Blast.DATA


def _is_experiment(section: Section, runbook: Runbook) -> bool:
    if runbook.kind in {Kind.SCENARIO, Kind.RECOVERY}:
        return True
    return any(step.effect is Effect.BREAKS for step in steps_within(section.steps))
