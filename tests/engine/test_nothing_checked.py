"""Nothing checked is nothing passed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k2run.engine.events import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Bench

LEFT = "- {name: Grafana, requires: [grafana], http.get: {url: 'http://127.0.0.1:1/'}}\n"
NOTHING = [
    "- {name: Every topic has messages, loop: '{{ topics }}', shell.run: {command: 'false'}}\n",
    "- {name: Every host, loop: '{{ hosts }}', shell.run: {command: 'false'}}\n",
    "- {name: Values, set: {a: 1}}\n",
    "- {name: A moment, wait: {for: 1ms}}\n",
    "- {name: Not needed, when: 1 == 2, shell.run: {command: 'false'}}\n",
    f"- name: Group\n  block:\n    {LEFT}",
    f"- name: Group\n  loop: [1, 2]\n  block:\n    {LEFT}",
    LEFT,
]
TOP = "vars: {topics: [], hosts: {}}\n"


@pytest.mark.parametrize("steps", NOTHING)
def test_a_run_in_which_nothing_was_checked_has_not_passed(bench: Bench, readiness: Callable, steps: str) -> None:
    finished = bench.run(readiness(steps, TOP))
    assert (finished.outcome, finished.exit_code) == (Outcome.NOT_APPLICABLE, 7)
    assert finished.verdict.startswith("not applicable: nothing was checked")


@pytest.mark.parametrize("steps", NOTHING)
def test_beside_a_check_it_is_no_matter(bench: Bench, readiness: Callable, steps: str) -> None:
    finished = bench.run(readiness(f"{steps}- {{name: Check, assert: {{that: 1 == 1}}}}\n", TOP))
    assert (finished.outcome, finished.exit_code) == (Outcome.PASSED, 0)


def test_a_loop_over_nothing_is_not_applicable_and_registers_an_empty_list(bench: Bench, readiness: Callable) -> None:
    steps = (
        NOTHING[0].replace("shell.run:", "register: found, shell.run:") + "- {assert: {that: found | length == 0}}\n"
    )
    assert bench.run(readiness(steps, TOP)).exit_code == 0
    step = bench.steps()["Every topic has messages"]
    assert (step.outcome, step.message) == (Outcome.NOT_APPLICABLE, "the loop has no items, so nothing was checked")


@pytest.mark.parametrize("inside", [LEFT, "- {name: Left out, when: 1 == 2, shell.run: {command: 'false'}}\n"])
def test_a_block_of_which_nothing_was_checked_has_not_passed(bench: Bench, readiness: Callable, inside: str) -> None:
    bench.run(readiness(f"- name: Group\n  block:\n    {inside}"))
    assert bench.steps()["Group"].outcome in {Outcome.NOT_APPLICABLE, Outcome.SKIPPED}


def test_a_runbook_of_which_nothing_was_checked_does_not_apply(bench: Bench, readiness: Callable) -> None:
    bench.write(readiness(LEFT), "inner")
    finished = bench.run(readiness("- {name: Inner, run: {runbook: inner.yaml}}\n"))
    inner = bench.steps()["Inner"]
    assert inner.outcome is Outcome.NOT_APPLICABLE
    assert "nothing was checked" in inner.message
    assert finished.outcome is Outcome.NOT_APPLICABLE
