"""What steps hand on: results of failed steps, names that have no value and why, tags, and what `until` waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k2run.actions.action import Result
from k2run.engine.attempt import judge, observed
from k2run.engine.run import resume
from k2run.language.expressions import Expression

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Bench

LATE = "p99: the generator was late"
INNER = """\
runbook: 1
kind: readiness
name: inner
inputs: {code: {type: integer, default: 0}}
sections:
  - steps:
      - {name: The cause, shell.run: {command: "exit {{ code }}"}, register: ended}
      - {name: Later, when: code == 0, shell.run: {command: echo later}, register: later}
outputs: {code: ended.exit_code, more: later.stdout}
"""


def test_a_failed_step_registers_what_it_found(bench: Bench, readiness: Callable) -> None:
    steps = """\
    - {name: Exits, severity: warning, shell.run: {command: "echo out; exit 4"}, register: exits}
    - {name: Other, severity: warning, shell.run: {command: echo out}, expect: result.stdout == 'in', register: other}
    - {name: Well, shell.run: {command: echo in}, register: well}
    - name: Uses
      assert:
        that:
          - exits.exit_code == 4 and exits.stdout == 'out' and exits.outcome == 'failed'
          - "'exited 4' in exits.message"
          - other.stdout == 'out' and other.outcome == 'failed'
          - well.outcome == 'passed' and well.stdout == 'in'
    """
    text = readiness(steps)
    assert bench.run(text).exit_code == 0, bench.steps()["Uses"].message
    journal = bench.store.find_run("last") / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    begins = next(number for number, line in enumerate(lines) if '"name":"Uses"' in line and "step_started" in line)
    journal.write_text("".join(lines[:begins]))
    assert resume(bench.request(text), journal.parent).exit_code == 0


def test_a_rescue_knows_which_step_failed_and_why(bench: Bench, readiness: Callable) -> None:
    steps = """\
    - name: Block
      block: [{name: "Look at {{ item }}", loop: [1, 2], shell.run: {command: "exit {{ item - 1 }}"}}]
      rescue:
        - name: Tell
          assert: {that: [failed.name == 'Look at 2', "'exited 1' in failed.message", failed.result.exit_code == 1]}
    """
    assert bench.run(readiness(steps)).exit_code == 0, bench.steps()["Tell"].message


def test_results_of_a_loop_keep_the_places_of_turns_that_failed_or_were_left_out(
    bench: Bench, readiness: Callable
) -> None:
    steps = """\
    - name: Turn {{ item }}
      loop: [1, 2, 3]
      when: item != 1
      severity: warning
      shell.run: {command: "exit {{ item - 2 }}"}
      register: turns
    - {name: Outcomes, assert: {that: "turns[0] is none and turns[1].outcome == 'passed' and turns[2].exit_code == 1"}}
    - {name: Codes, severity: warning, manual.note: {text: "{{ turns | map(attribute='exit_code') | list }}"}}
    - {name: After, assert: {that: true}}
    """
    bench.run(readiness(steps))
    outcomes = bench.outcomes()
    assert (outcomes["Outcomes"], outcomes["Codes"], outcomes["After"]) == ("passed", "failed", "passed")
    assert "exit_code" in bench.steps()["Codes"].message


def test_a_name_registered_by_a_step_that_was_left_out_is_undefined_and_says_why(
    bench: Bench, readiness: Callable
) -> None:
    steps = """\
    - {name: Source, when: 1 == 2, shell.run: {command: echo a}, register: source}
    - {name: Needs, severity: warning, assert: {that: source.exit_code == 0}}
    - {name: Asks, assert: {that: source is not defined}}
    """
    assert bench.run(readiness(steps)).exit_code == 0
    message = bench.steps()["Needs"].message
    assert "`source` has no value: it is registered by 'Source', which was left out: not needed: 1 == 2" in message


def test_until_waits_for_what_it_says_and_the_rest_is_judged_by_the_last_try(bench: Bench, readiness: Callable) -> None:
    steps = """\
    - {name: Wrong at once, shell.run: {command: echo x}, until: result.stdout == 'x', expect: result.stdout == 'y'}
    - {name: Both true, shell.run: {command: echo x}, until: result.stdout == 'x', failed_when: true}
    - {name: Not yet, shell.run: {command: echo x}, until: attempt == 3, failed_when: attempt < 3, every: 10ms}
    """
    bench.run(readiness(steps))
    ended = {name: (step.outcome.value, step.attempts) for name, step in bench.steps().items()}
    assert ended == {"Wrong at once": ("failed", 1), "Both true": ("failed", 1), "Not yet": ("passed", 3)}


@pytest.mark.parametrize(
    ("keywords", "outcome", "message"),
    [
        ("expect: result.outcome == 'failed'", "passed", ""),
        ("expect: result.seconds < 60", "failed", '"The cause" failed'),
        ("expect: [result.outcome == 'failed', result.seconds > 60]", "failed", "expected result.seconds"),
        ("severity: warning", "failed", '"The cause" failed'),
    ],
)
def test_an_expected_failure_of_a_runbook_can_be_stated_and_its_cause_is_told(
    bench: Bench, readiness: Callable, keywords: str, outcome: str, message: str
) -> None:
    bench.write(INNER, "inner")
    steps = f"- name: Inside\n  run: {{runbook: inner.yaml, inputs: {{code: 7}}}}\n  register: it\n  {keywords}\n"
    steps += "- {name: Uses, assert: {that: [it.outputs.code == 7]}}\n"
    bench.run(readiness(steps))
    inside = bench.steps()["Inside"]
    assert (inside.outcome.value, inside.message[: len(message)]) == (outcome, message)
    assert bench.outcomes()["Uses"] == "passed"


def test_failed_when_judges_a_runbook_too(bench: Bench, readiness: Callable) -> None:
    bench.write(INNER, "inner")
    finished = bench.run(
        readiness("- {name: Inside, run: {runbook: inner.yaml}, failed_when: result.outcome == 'passed'}\n")
    )
    assert finished.exit_code == 1
    assert bench.steps()["Inside"].message.startswith("failed_when is true")


TAGGED = """\
- name: Outer
  block:
    - name: Inner
      block:
        - {name: Deep, tags: deep, assert: {that: true}}
        - {name: Beside, assert: {that: true}}
- name: Whole
  tags: whole
  block: [{name: Within, assert: {that: true}}]
- {name: Book, run: {runbook: inner.yaml}}
"""
PARTS = "  - tags: part\n    steps: [{name: Of part, assert: {that: true}}]\n"


@pytest.mark.parametrize(
    ("tags", "done"),
    [
        ({"deep"}, {"Outer", "Inner", "Deep"}),
        ({"whole"}, {"Whole", "Within"}),
        ({"part"}, {"Book", "Of part"}),
        ({"deep", "part"}, {"Outer", "Inner", "Deep", "Book", "Of part"}),
    ],
)
def test_tags_reach_what_is_inside_however_deep_and_into_runbooks(
    bench: Bench, readiness: Callable, tags: set[str], done: set[str]
) -> None:
    bench.write(readiness("- {name: Untagged, assert: {that: true}}\n") + PARTS, "inner")
    bench.run(readiness(TAGGED), tags=frozenset(tags))
    passed = {name for name, outcome in bench.outcomes().items() if outcome == "passed"}
    assert passed - {"Only", "section 2"} >= done
    assert not passed & ({"Deep", "Beside", "Within", "Untagged", "Of part"} - done)


def test_left_out_tags_reach_inside_too(bench: Bench, readiness: Callable) -> None:
    bench.write(readiness("- {name: Untagged, assert: {that: true}}\n") + PARTS, "inner")
    bench.run(readiness(TAGGED), skip_tags=frozenset({"part", "whole", "deep"}))
    passed = {name for name, outcome in bench.outcomes().items() if outcome == "passed"}
    assert passed & {"Deep", "Beside", "Within", "Untagged", "Of part"} == {"Beside", "Untagged"}


def test_an_assert_and_a_wait_record_figures_and_earn_graded_points(bench: Bench, readiness: Callable) -> None:
    steps = """\
    - {name: Asserts, assert: {that: a == 2}, figures: {twice: a * 2}, points: {category: C, award: [3 when a == 2]}}
    - {name: Waits, wait: {for: 1ms}, figures: {thrice: a * 3}}
    """
    bench.run(readiness(steps, "vars: {a: 2}\nscore: {categories: {C: 3}}\n"))
    assert (bench.steps()["Asserts"].figures, bench.steps()["Waits"].figures) == ({"twice": 4}, {"thrice": 6})
    assert bench.steps()["Asserts"].points == 3


def test_what_could_not_be_checked_is_told_as_that_and_not_as_failed(bench):
    finished = bench.run("""
        runbook: 1
        kind: readiness
        name: unseen
        title: Checks that cannot be seen
        sections:
          - name: Alone
            after_failure: continue
            steps:
              - {name: "The consumer's lag", host.disk: {path: /no/such/place}}
              - name: Block
                block:
                  - {name: Inside, host.disk: {path: /no/such/place}}
                  - {name: Never, assert: {that: true}}
              - {name: Wrong, assert: {that: 1 > 2}}
    """)
    assert finished.reasons == [
        '"The consumer\'s lag" could not be checked',
        '"Block" could not be checked',
        '"Wrong" failed',
    ]
    steps = bench.steps()
    assert steps["Block"].message == '"Inside" could not be checked'
    assert (steps["Block"].outcome.value, steps["Inside"].outcome.value) == ("unknown", "unknown")
    assert finished.exit_code == 1


class Load(Result, frozen=True, kw_only=True):
    """What a load that could not measure everything found."""

    p99_ms: float | None
    p50_ms: float | None
    not_measured: str = ""


@pytest.mark.parametrize(
    ("text", "why", "says"),
    [
        (
            "result.p99_ms is not none and result.p99_ms < 5",
            LATE,
            f"; found result.p99_ms = none; not measured: {LATE}",
        ),
        ("result.p50_ms > 5", LATE, "; found result.p50_ms = 3.0"),
        ("result.p99_ms is not none", "", "; found result.p99_ms = none"),
    ],
)
def test_a_figure_that_is_missing_is_told_with_why_it_was_not_measured(text: str, why: str, says: str) -> None:
    found = Load(p99_ms=None, p50_ms=3.0, not_measured=why)
    attempt = judge(observed(found), [Expression(text)], {"result": found})
    assert attempt.message == f"expected {text}{says}"
