"""Hard limits of sections and of whole runs: they reach everything inside; `always` and undos still run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from k2run.engine.events import SectionFinished, StepFinished, StepStarted
from k2run.engine.run import resume

if TYPE_CHECKING:
    from conftest import Bench

TEXT = """\
runbook: 1
kind: KIND
name: test
TOP
sections:
  - name: Slow
    SECTION
    steps:
      - {name: Break, service.pause: {service: one}}
      - name: Block
        block: [{name: Long, shell.run: {command: sleep 20}}]
        always: [{name: Tidy, assert: {that: true}}]
      - {name: Left, assert: {that: true}}
  - name: Next
    steps: [{name: Then, assert: {that: true}}]
always: [{name: Last, assert: {that: true}}]
"""


def without_end(bench: Bench) -> set[str]:
    began = {e.step for e in bench.journal() if isinstance(e, StepStarted)}
    return began - {e.step for e in bench.journal() if isinstance(e, StepFinished)}


@pytest.mark.parametrize("parallel", ["", "parallel: true"])
def test_a_section_that_is_not_done_within_its_limit_has_failed_and_the_next_one_is_run(
    sleepers: Bench, parallel: str
) -> None:
    section = f"timeout: 1s\n    {parallel}"
    text = TEXT.replace("KIND", "readiness").replace("TOP", "").replace("SECTION", section)
    began = time.monotonic()
    finished = sleepers.run(text)
    assert time.monotonic() - began < 10
    assert (finished.exit_code, finished.pending_undos) == (1, [])
    assert "the section 'Slow' was not done within 1s" in finished.reasons
    outcomes = sleepers.outcomes()
    assert [outcomes[name] for name in ("Long", "Block", "Tidy", "Then", "Last")] == [
        *("failed", "failed", "passed", "passed", "passed"),
    ]
    assert outcomes["Left"] == ("passed" if parallel else "skipped")
    assert not without_end(sleepers)
    ended = [event for event in sleepers.journal() if isinstance(event, SectionFinished)]
    assert (ended[0].outcome.value, ended[0].message) == ("failed", "the section 'Slow' was not done within 1s")


def test_a_late_section_of_a_scenario_ends_the_run(sleepers: Bench) -> None:
    finished = sleepers.run(TEXT.replace("KIND", "scenario").replace("TOP", "").replace("SECTION", "timeout: 1s"))
    assert finished.reasons.count("the section 'Slow' was not done within 1s") == 1
    assert "Then" not in sleepers.outcomes()
    assert sleepers.outcomes()["Last"] == "passed"


def test_a_section_fails_by_its_limit_although_only_a_warning_was_cut_off(bench: Bench) -> None:
    text = (
        "runbook: 1\nkind: readiness\nname: test\nsections:\n  - name: Slow\n    timeout: 200ms\n    steps:\n"
        "      - {name: Warned, severity: warning, shell.run: {command: sleep 20}}\n"
        "  - name: Next\n    steps: [{name: Then, shell.run: {command: 'true'}}]\n"
    )
    finished = bench.run(text)
    assert (finished.exit_code, finished.reasons) == (1, ["the section 'Slow' was not done within 200ms"])
    journal = bench.store.find_run("last") / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    cut = next(number for number, line in enumerate(lines) if '"Then"' in line and "step_started" in line)
    journal.write_text("".join(lines[:cut]))
    again = resume(bench.request(text), journal.parent)
    assert (again.exit_code, again.reasons) == (1, ["the section 'Slow' was not done within 200ms"])


@pytest.mark.parametrize("kind", ["readiness", "scenario"])
def test_a_run_that_is_not_done_within_its_limit_has_failed_and_everything_is_undone(
    sleepers: Bench, kind: str
) -> None:
    text = TEXT.replace("KIND", kind).replace("TOP", "timeout: 1s").replace("SECTION", "within: 1h")
    began = time.monotonic()
    finished = sleepers.run(text)
    assert time.monotonic() - began < 10
    assert (finished.exit_code, finished.pending_undos) == (1, [])
    assert "the run was not done within 1s" in finished.reasons
    assert sleepers.outcomes()["Last"] == sleepers.outcomes()["Tidy"] == "passed"
    assert "Then" not in sleepers.outcomes()
    assert not without_end(sleepers)


def test_the_limit_of_a_runbook_holds_where_a_step_runs_it(bench: Bench) -> None:
    bench.write(
        "runbook: 1\nkind: readiness\nname: inner\ntimeout: 200ms\nsections:\n  - name: S\n    steps:\n"
        "      - {name: Long, severity: warning, shell.run: {command: sleep 20}}\n"
        "always: [{name: Tidy, assert: {that: true}}]\n",
        "inner",
    )
    finished = bench.run(
        "runbook: 1\nkind: readiness\nname: test\nsections:\n  - name: S\n    steps:\n"
        "      - {name: Run, run: {runbook: inner.yaml}}\n"
    )
    assert finished.exit_code == 1
    assert bench.steps()["Run"].message == "the run was not done within 200ms"
    assert bench.outcomes()["Tidy"] == "passed"
