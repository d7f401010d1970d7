"""A runbook that another one runs: the inputs it takes, and what it hands back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from k2run.language.problems import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from k2run.language.document import Trail
    from k2run.language.model import Runbook, Step
    from k2run.language.reading import Reading


def check_inputs(reading: Reading, runbook: Runbook, given: Mapping[str, Any], path: Trail) -> None:
    """Note inputs that the runbook does not have, and required ones that are missing.

    Args:
        reading: Where problems go.
        runbook: What is run.
        given: The inputs as written.
        path: Where `run` stands.
    """
    known = [entry.name for entry in runbook.inputs]
    for name in given:
        if name not in known:
            hint = did_you_mean(str(name), known)
            expected = "" if hint else f"one of {', '.join(known)}" if known else "no inputs"
            message = f"{runbook.name} has no input `{name}`"
            reading.problem("K302", message, (*path, "inputs", name), key=True, hint=hint, expected=expected)
    for entry in runbook.inputs:
        if entry.required and entry.name not in given:
            reading.problem("K303", f"{runbook.name} needs the input `{entry.name}`", path, key=True, hint=entry.help)


def result_of(runbook: Runbook) -> Any:
    """The type of what a runbook hands back: `result.figures.NAME` and `result.outputs.NAME` are known."""
    figures = {"rto", *(name for step in _steps(runbook) for name in step.figures)}
    fields = [
        ("outcome", str),
        ("verdict", str),
        ("seconds", float),
        ("score", float | None),
        ("figures", msgspec.defstruct("Figures", [(name, Any) for name in sorted(figures)])),
        ("outputs", msgspec.defstruct("Outputs", [(name, Any) for name in runbook.outputs])),
        ("source", str),
    ]
    return msgspec.defstruct("RunbookResult", fields)


def _steps(runbook: Runbook) -> Iterator[Step]:
    waiting = [*runbook.steady_state, *runbook.always, *(step for part in runbook.sections for step in part.steps)]
    while waiting:
        step = waiting.pop()
        yield step
        waiting += [*step.block, *step.rescue, *step.always]
