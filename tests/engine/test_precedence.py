"""Which value a name has when several places give it one: the order that the page on the language documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k2run.engine.events import Outcome

if TYPE_CHECKING:
    from conftest import Bench

HEAD = "runbook: 1\nkind: readiness\n"


def judged(seen: str, *, loop: str = "", step_vars: str = "") -> str:
    return f"    - {{name: Look, {loop}{step_vars}assert: {{that: \"who == '{seen}'\"}}}}\n"


CASES = {
    "an input over nothing": (HEAD + "inputs: {who: {default: input}}\nsections:\n  - steps:\n" + judged("input"), {}),
    "runbook vars over an input": (
        HEAD + "inputs: {who: {default: input}}\nvars: {who: runbook}\nsections:\n  - steps:\n" + judged("runbook"),
        {},
    ),
    "section vars over runbook vars": (
        HEAD + "vars: {who: runbook}\nsections:\n  - vars: {who: section}\n    steps:\n" + judged("section"),
        {},
    ),
    "section vars until the run ends": (
        HEAD
        + "vars: {who: runbook}\nsections:\n  - vars: {who: section}\n    steps: [{wait: {for: 0s}}]\n  - steps:\n"
        + judged("section"),
        {},
    ),
    "what set named over section vars": (
        HEAD + "sections:\n  - vars: {who: section}\n    steps:\n    - {set: {who: named}}\n" + judged("named"),
        {},
    ),
    "the loop variable over what set named": (
        HEAD
        + "sections:\n  - steps:\n    - {set: {who: named}}\n"
        + judged("item", loop="loop: [item], loop_var: who, "),
        {},
    ),
    "step vars over what set named": (
        HEAD + "sections:\n  - steps:\n    - {set: {who: named}}\n" + judged("step", step_vars="vars: {who: step}, "),
        {},
    ),
    "step vars over the loop variable": (
        HEAD
        + "sections:\n  - steps:\n"
        + judged("step", loop="loop: [item], loop_var: who, ", step_vars="vars: {who: step}, "),
        {},
    ),
    "-e for a variable over all of them": (
        HEAD
        + "vars: {who: runbook}\nsections:\n  - vars: {who: section}\n    steps:\n    - {set: {who: named}}\n"
        + judged("given", step_vars="vars: {who: step}, "),
        {"who": "given"},
    ),
    "-e for an input over its default": (
        HEAD + "inputs: {who: {default: input}}\nsections:\n  - steps:\n" + judged("given"),
        {"who": "given"},
    ),
    "vars over an input given with -e": (
        HEAD + "inputs: {who: {default: input}}\nvars: {who: runbook}\nsections:\n  - steps:\n" + judged("runbook"),
        {"who": "given"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_closer_to_the_step_wins(bench: Bench, case: str) -> None:
    text, extra = CASES[case]
    assert bench.run(text, extra=extra).outcome is Outcome.PASSED
