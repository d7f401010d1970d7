"""Shows the steps of a runbook without running it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.actions.catalogue import Catalogue
from k2run.faces.launch import find_runbook
from k2run.language.loader import load_runbook

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k2run.language.model import Step


def show_steps(reference: str) -> None:
    """Print the steps of a runbook in order: path, name, action and tags; what they run is shown below them."""
    runbook = load_runbook(find_runbook(reference), Catalogue())
    parts = [("steady state", runbook.steady_state), *((section.name, section.steps) for section in runbook.sections)]
    for name, steps in [*parts, ("always", runbook.always)]:
        if steps:
            print(name)
            for line in _lines(steps, 1):
                print(line)


def _lines(steps: Sequence[Step], depth: int) -> Iterator[str]:
    for step in steps:
        tags = f"  [{', '.join(sorted(step.tags))}]" if step.tags else ""
        what = f"run {step.args.get('runbook')}" if step.action == "run" else step.action or "block"
        yield f"{'  ' * depth}{step.path:<28} {step.name}  ({what}){tags}"
        for inner in (step.block, step.rescue, step.always):
            yield from _lines(inner, depth + 1)
