"""Which steps of a runbook a run leaves out: by their tags, and those before the step at which it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.errors import UsageError
from k2run.language.problems import did_you_mean

if TYPE_CHECKING:
    from k2run.engine.execution import Options
    from k2run.language.model import Runbook, Section, Step

ALWAYS_TAG = "always"


def steps_before(runbook: Runbook, start_at: str) -> frozenset[str]:
    """The paths of the steps before the one at which a run begins; steady state and `always` are never left out.

    Args:
        runbook: What is run.
        start_at: Name, id, path or a unique part of the name of a step that stands in a section; "" begins at the top.

    Raises:
        UsageError: No step is called so, or several are.
    """
    if not start_at:
        return frozenset()
    steps = [step for section in runbook.sections for step in section.steps]
    names = [str(step.name) for step in steps]
    exact = [number for number, step in enumerate(steps) if start_at in {str(step.name), step.id, step.path}]
    fitting = exact or [number for number, name in enumerate(names) if start_at.lower() in name.lower()]
    if len(fitting) == 1:
        return frozenset(step.path for step in steps[: fitting[0]])
    if fitting:
        which = "; ".join(f"{names[number]} ({steps[number].path})" for number in fitting[:5])
        raise UsageError(f"--start-at {start_at!r} fits {len(fitting)} steps", hint=f"give the path of one: {which}")
    hint = did_you_mean(start_at, names) or "`--list-steps` shows them"
    raise UsageError(f"--start-at: there is no step {start_at!r} in a section of {runbook.name}", hint=hint)


def left_out(step: Step, section: Section, options: Options, before: frozenset[str]) -> str:
    """Why a run leaves a step out; empty when it does not."""
    if step.path in before:
        return f"before --start-at {options.start_at}"
    if not (options.tags or options.skip_tags):
        return ""
    tags = step.tags | section.tags
    if options.skip_tags & tags:
        return f"left out by --skip-tags {','.join(sorted(options.skip_tags & tags))}"
    inside = any(options.tags & child.tags for child in (*step.block, *step.rescue, *step.always))
    if options.tags and not (options.tags & tags or ALWAYS_TAG in tags or inside):
        return f"left out by --tags {','.join(sorted(options.tags))}"
    return ""
