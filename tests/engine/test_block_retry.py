"""Blocks and runbooks that are tried again: what a try has broken is undone before the next one begins."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from killed_run import killed_at

from k2run.engine.events import Scored, StepFinished, StepTried, UndoFinished
from k2run.engine.run import resume

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Bench

INNER = """\
runbook: 1
kind: readiness
name: inner
inputs: {least: {type: integer, required: true}}
sections:
  - name: Count
    steps:
      - {name: Count, shell.run: {command: "echo x >> LOG; wc -l < LOG"}, register: lines}
      - {name: Enough, assert: {that: (lines.stdout | int) >= least}}
outputs: {count: lines.stdout | int}
"""


def tried(bench: Bench) -> list[int]:
    return [event.attempt for event in bench.journal() if isinstance(event, StepTried)]


def test_a_block_is_tried_again_until_its_steps_do_not_fail(bench: Bench, readiness: Callable) -> None:
    steps = """\
    - name: Block
      retries: 4
      every: 1ms
      block:
        - {name: First, assert: {that: true}}
        - {name: Third, assert: {that: attempt == 3}}
      rescue: [{name: Rescue, assert: {that: true}}]
      always: [{name: Last, assert: {that: true}}]
    """
    finished = bench.run(readiness(steps))
    assert finished.exit_code == 0, finished.verdict
    assert bench.outcomes() == {"First": "passed", "Third": "passed", "Last": "passed", "Block": "passed"}
    assert (bench.steps()["Block"].attempts, tried(bench)) == (3, [1, 2])
    assert sum(isinstance(event, StepFinished) and event.name == "Last" for event in bench.seen) == 1


def test_the_last_try_of_a_block_decides_and_only_then_it_is_rescued(bench: Bench, readiness: Callable) -> None:
    block = "- name: Block\n  retries: 2\n  every: 1ms\n  block: [{name: Never, assert: {that: false}}]\n"
    finished = bench.run(readiness(block))
    assert (finished.exit_code, bench.steps()["Block"].message) == (1, '"Never" failed (3 tries)')
    finished = bench.run(readiness(block + "  rescue: [{name: Rescue, assert: {that: failed.name == 'Never'}}]\n"))
    assert (finished.exit_code, tried(bench)) == (0, [1, 2])
    assert sum(isinstance(event, StepFinished) and event.name == "Rescue" for event in bench.seen) == 1


def test_until_of_a_block_sees_what_its_steps_register(bench: Bench, readiness: Callable) -> None:
    steps = """\
    - name: Block
      until: n.stdout == '3'
      every: 1ms
      block: [{name: Say, shell.run: {command: "echo {{ attempt }}"}, register: n}]
    - {name: Use, assert: {that: n.stdout == '3'}}
    """
    assert bench.run(readiness(steps)).exit_code == 0
    assert tried(bench) == [1, 2]
    finished = bench.run(readiness(steps.replace("== '3'", "== '0'").replace("1ms", "100ms\n      within: 300ms")))
    assert finished.exit_code == 1
    assert "expected n.stdout == '0'; found n.stdout = " in bench.steps()["Block"].message
    assert "no time for more" in bench.steps()["Block"].message


def test_a_leap_and_a_hard_limit_end_the_tries(bench: Bench, readiness: Callable) -> None:
    leap = "- name: Block\n  retries: 3\n  block: [{name: L, skip_section: {because: x}}]\n"
    bench.run(readiness(leap))
    assert tried(bench) == []
    began = time.monotonic()
    slow = (
        "- name: Block\n  retries: 100\n  every: 20ms\n  timeout: 200ms\n  block: [{name: N, assert: {that: false}}]\n"
    )
    assert bench.run(readiness(slow)).exit_code == 1
    assert bench.steps()["Block"].message == "not done within 200ms"
    assert time.monotonic() - began < 5


def test_points_of_a_step_that_is_tried_again_count_once(bench: Bench, readiness: Callable) -> None:
    steps = """\
    - name: Block
      retries: 2
      every: 1ms
      block:
        - {name: Early, severity: info, assert: {that: attempt == 1}, points: {max: 5, category: all}}
        - {name: Other, when: attempt == 1, assert: {that: true}, points: {max: 5, category: all}}
        - {name: Second, assert: {that: attempt == 2}}
    """
    bench.run(readiness(steps, "score: {categories: {all: 10}}\n"))
    scored = next(event for event in bench.journal() if isinstance(event, Scored))
    assert scored.score == 0


def test_a_runbook_is_tried_again_and_judged_by_its_last_try(bench: Bench, readiness: Callable) -> None:
    bench.write(INNER.replace("LOG", str(bench.folder / "log")), "inner")
    steps = """\
    - name: Run
      run: {runbook: inner.yaml, inputs: {least: 3}}
      retries: 5
      every: 1ms
      register: sub
    - {name: Use, assert: {that: "sub.outputs.count == 3 and sub.outcome == 'passed'"}}
    - name: Wait
      run: {runbook: inner.yaml, inputs: {least: 1}}
      until: result.outputs.count >= 6
      expect: result.outputs.count == 6
      every: 1ms
    """
    finished = bench.run(readiness(steps))
    assert finished.exit_code == 0, finished.verdict
    assert (bench.steps()["Run"].attempts, bench.steps()["Wait"].attempts) == (3, 3)


FAULT = """\
- name: Block
  retries: 3
  every: 1ms
  block:
    - {name: Pause, service.pause: {service: one}}
    - {name: Log, shell.run: {command: "echo {{ attempt }} >> LOG"}, register: said}
    - {name: Third, assert: {that: attempt == 3}}
- {name: After, shell.run: {command: "true"}}
"""


def scenario(steps: str) -> str:
    lines = "".join(f"      {line}\n" for line in steps.splitlines())
    return f"runbook: 1\nkind: scenario\nname: test\nsections:\n  - name: Only\n    steps:\n{lines}"


def test_what_a_try_has_broken_is_undone_before_the_next_one(sleepers: Bench) -> None:
    text = scenario(FAULT.replace("LOG", str(sleepers.folder / "log")))
    finished = sleepers.run(text)
    assert finished.exit_code == 0, finished.verdict
    undone = [(event.by, event.outcome.value) for event in sleepers.seen if isinstance(event, UndoFinished)]
    assert undone == [("sections[0].steps[0]", "passed")] * 2 + [("engine", "passed")]
    assert set(sleepers.processes()) == {"one", "two"}


def test_a_try_that_cannot_be_undone_is_the_last_one(bench: Bench) -> None:
    program = bench.folder / "program"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o700)
    bench.stack_text = f"stack: 1\nname: s\nservices:\n  one: {{run: process, command: [{program}]}}\n"
    text = scenario(f"""\
- name: Block
  retries: 3
  every: 1ms
  block:
    - {{name: Kill, service.kill: {{service: one}}}}
    - {{name: Spoil, shell.run: {{command: rm {program}}}}}
    - {{name: Fails, assert: {{that: false}}}}
""")
    finished = bench.run(text)
    assert finished.exit_code != 0
    assert tried(bench) == []
    assert '"Fails" failed (not tried again, for what it broke is still broken: ' in bench.steps()["Block"].message
    assert finished.pending_undos


@pytest.mark.parametrize("last", [4, 8, 11, 12, 13, 14, 16, 19, 24, 27])
def test_a_run_that_was_killed_in_the_middle_of_a_try_goes_on_with_that_try(sleepers: Bench, last: int) -> None:
    log = sleepers.folder / "log"
    text = scenario(FAULT.replace("LOG", str(log)))
    path = sleepers.write(text)
    assert killed_at(last, path, stack_file=sleepers.stack_file, home=sleepers.store.home)
    finished = resume(sleepers.request(text), sleepers.store.find_run("last"))
    assert finished.exit_code == 0, finished.verdict
    assert tried(sleepers) == [1, 2]
    assert list(dict.fromkeys(log.read_text().split())) == ["1", "2", "3"]
    assert (finished.pending_undos, set(sleepers.processes())) == ([], {"one", "two"})
