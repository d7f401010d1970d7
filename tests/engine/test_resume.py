"""What a resumed run brings back, and what it does again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k2run.engine.events import Outcome, RunFinished, SectionFinished, SectionStarted, StepFinished, StepStarted
from k2run.engine.run import resume, run
from k2run.evidence.view import tally, view_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Bench


def cut_after(bench: Bench, text: str, last: str) -> Path:
    """Run, then make the journal end right after a step ended, as if the machine had lost its power."""
    run(bench.request(text))
    journal = bench.store.find_run("last") / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    number = next(n for n, line in enumerate(lines) if '"step_finished"' in line and last in line)
    journal.write_text("".join(lines[: number + 1]))
    bench.seen.clear()
    return journal.parent


def test_a_finished_section_is_not_told_again(bench: Bench, readiness: Callable) -> None:
    text = readiness("- {name: A, assert: {that: true}}\n") + (
        "  - name: Second\n    vars: {x: 3}\n    steps:\n      - {name: B, assert: {that: x == 3}}\n"
        "  - name: Left out\n    when: false\n    steps:\n      - {name: C, assert: {that: false}}\n"
        "  - name: Third\n    steps:\n"
        "      - {name: D, assert: {that: true}}\n      - {name: E, assert: {that: x == 3}}\n"
    )
    folder = cut_after(bench, text, '"D"')
    assert resume(bench.request(text), folder).exit_code == 0
    told = [event.section for event in bench.seen if isinstance(event, SectionStarted | SectionFinished)]
    assert set(told) == {"sections[3]"}


def test_every_turn_of_a_looped_block_is_a_step_of_its_own(bench: Bench, readiness: Callable) -> None:
    log = bench.folder / "log"
    steps = f"""\
    - name: Turn {{{{ item }}}}
      loop: [a, b, c]
      block:
        - {{name: "Log {{{{ item }}}}", shell.run: {{command: "echo {{{{ item }}}} >> {log}"}}}}
    - {{name: End, assert: {{that: true}}}}
    """
    folder = cut_after(bench, readiness(steps), "Log b")
    assert resume(bench.request(readiness(steps)), folder).exit_code == 0
    assert log.read_text().split() == ["a", "b", "c", "c"]
    assert "sections[0].steps[0]#1.block[0]" in {getattr(event, "step", "") for event in bench.journal()}
    view = view_of(bench.journal())
    assert [step.name for step in view.leaves()] == ["Log a", "Log b", "Log c", "End"]
    assert {step.depth for step in view.leaves()} == {0, 1}


def test_a_registered_loop_is_a_list_of_results_also_after_a_resume(bench: Bench, readiness: Callable) -> None:
    steps = """\
    - name: Count
      loop: [1, 2, 3]
      shell.run: {command: "echo {{ item }}"}
      register: counted
    - {name: Middle, assert: {that: true}}
    - {name: Sum, assert: {that: counted | map(attribute='stdout') | join == '123'}}
    """
    folder = cut_after(bench, readiness(steps), "Middle")
    finished = resume(bench.request(readiness(steps)), folder)
    assert finished.exit_code == 0, finished.verdict


def test_a_turn_that_did_not_run_gives_none_and_the_others_their_results(bench: Bench, readiness: Callable) -> None:
    steps = """\
    - name: Odd ones
      loop: [1, 2, 3]
      when: item is odd
      shell.run: {command: "echo {{ item }}"}
      register: odd
    - {name: Three, assert: {that: ["odd | length == 3", "odd[1] is none", "odd[2].stdout == '3'"]}}
    """
    assert bench.run(readiness(steps)).exit_code == 0, bench.steps()["Three"].message


@pytest.mark.parametrize("turns", [0, 4])
def test_a_parallel_loop_registers_its_results_in_the_order_of_the_items(
    bench: Bench, readiness: Callable, turns: int
) -> None:
    steps = f"""\
    - name: Sleep
      loop: {[0.3, 0.2, 0.1, 0.05]}
      parallel: {turns}
      shell.run: {{command: "sleep {{{{ item }}}}; echo {{{{ item }}}}"}}
      register: slept
    - {{name: Order, assert: {{that: "slept | map(attribute='stdout') | join(' ') == '0.3 0.2 0.1 0.05'"}}}}
    """
    assert bench.run(readiness(steps)).exit_code == 0, bench.steps()["Order"].message
    turn = [event for event in bench.seen if getattr(event, "step", "").startswith("sections[0].steps[0]#")]
    assert isinstance(turn[1], StepStarted) == bool(turns)  # the second begins before the first has ended


def test_the_recovery_time_that_was_measured_before_the_end_is_brought_back(sleepers: Bench) -> None:
    text = """\
runbook: 1
kind: scenario
name: held
objective: {rto: 30s}
steady_state:
  - {name: Steady, assert: {that: true}}
sections:
  - name: Break and recover
    clock: rto
    steps:
      - {name: Pause, service.pause: {service: one}}
      - {name: Go on, service.resume: {service: one}}
  - name: After
    steps:
      - {name: Look, assert: {that: true}}
      - {name: Use, assert: {that: figures.rto > '0s' | to_duration}}
"""
    folder = cut_after(sleepers, text, '"Look"')
    finished = resume(sleepers.request(text), folder)
    assert finished.exit_code == 0, finished.verdict
    done = [event.name for event in sleepers.seen if isinstance(event, StepFinished)]
    assert "Pause" not in done
    assert isinstance(sleepers.journal()[-1], RunFinished)
    assert sleepers.journal()[-1].outcome is Outcome.PASSED


COUNTED = """\
runbook: 1
kind: readiness
name: counted
title: Counted
steady_state:
  - {name: Steady, shell.run: {command: "true"}}
sections:
  - name: Steps
    steps:
      - {name: One, shell.run: {command: "true"}}
      - {name: "Turn {{ item }}", loop: [1, 2, 3], shell.run: {command: "true"}}
      - {name: Block, block: [{name: In, shell.run: {command: "true"}}, {name: Out, shell.run: {command: "true"}}]}
      - {name: Warn, severity: warning, shell.run: {command: "false"}}
      - {name: Last, shell.run: {command: "true"}, until: attempt > 1, every: 5ms}
always:
  - {name: Tidy, shell.run: {command: "true"}}
"""


def test_a_resumed_run_counts_each_step_once_wherever_it_was_cut(bench: Bench) -> None:
    bench.run(COUNTED)
    folder = bench.store.find_run("last")
    journal = folder / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    whole = tally(view_of(bench.journal()))
    assert whole == "9 passed, 1 warning"
    for cut in range(2, len(lines) - 1, 3):
        journal.write_text("".join(lines[:cut]))
        resume(bench.request(COUNTED), folder)
        assert tally(view_of(bench.journal())) == whole, lines[cut - 1]


def test_a_resume_finds_loop_lists_and_times_as_the_first_start_computed_them(
    bench: Bench, readiness: Callable
) -> None:
    listed, log = bench.folder / "listed", bench.folder / "log"
    listed.write_text("a,b,c")
    text = readiness(
        f"- {{name: List, when: \"'x' in 'xy'\", shell.run: {{command: cat {listed}}}, register: found}}\n"
        f"- {{name: Turn, loop: \"{{{{ found.stdout.split(',') + [began] }}}}\", "
        f'shell.run: {{command: "echo {{{{ item }}}} >> {log}"}}}}\n',
        'vars: {began: "{{ now() }}", later: "{{ began + 1 }}"}\n',
    )
    assert bench.run(text).exit_code == 0
    journal = bench.store.find_run("last") / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    second = next(n for n, line in enumerate(lines) if '.steps[1]#1"' in line and "step_finished" in line)
    journal.write_text("".join(lines[: second + 1]))
    before = log.read_text().split()
    assert resume(bench.request(text), journal.parent).exit_code == 0
    assert log.read_text().split() == [*before, *before[2:]]
