"""Runbooks that run runbooks, and steps that jump."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k2run.engine.events import FaultStruck, Outcome, StepFinished, UndoFinished, UndoPlanned
from k2run.engine.run import resume, run
from k2run.errors import Protected, RunbookInvalid
from k2run.evidence.view import view_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Bench

INNER = """\
runbook: 1
kind: readiness
name: inner
inputs: {limit: {type: integer, required: true}, wait: {type: duration, default: 0s}}
vars: {twice: "{{ limit * 2 }}"}
sections:
  - name: First
    steps:
      - name: Measure
        set: {measured: 5}
        figures: {found: result.measured}
      - name: Judge
        assert: {that: measured < limit}
  - name: Second
    steps:
      - {name: Wait, wait: {for: "{{ wait }}"}}
always:
  - {name: Tidy, set: {tidied: true}}
outputs: {double: twice, measured: measured}
"""
BREAKER = """\
runbook: 1
kind: scenario
name: breaker
objective: {rto: RTO}
steady_state:
  - name: One runs
    service.status: {service: one}
    expect: result.state == 'running'
sections:
  - name: Break
    steps:
      - {name: Pause one, service.pause: {service: one}}
"""


def codes(bench: Bench, text: str) -> list[str]:
    with pytest.raises(RunbookInvalid) as caught:
        bench.request(text)
    return [problem.code for problem in caught.value.problems]


def test_a_runbook_that_is_run_hands_back_its_figures_and_outputs(bench: Bench, readiness: Callable) -> None:
    bench.write(INNER, "inner")
    steps = """\
    - name: Inside
      run: {runbook: inner.yaml, inputs: {limit: "{{ 4 + 4 }}"}}
      register: it
      expect: result.outcome == 'passed'
    - name: Use it
      assert: {that: [it.outputs.double == 16, it.figures.found == 5, it.seconds >= 0, "'found' not in figures"]}
    """
    finished = bench.run(readiness(steps))
    assert finished.exit_code == 0, finished.verdict
    paths = {event.step for event in bench.seen if isinstance(event, StepFinished)}
    assert "sections[0].steps[0].run.sections[0].steps[1]" in paths
    assert "sections[0].steps[0].run.always[0]" in paths
    view = view_of(bench.journal())
    assert [step.name for step in view.leaves()] == ["Measure", "Judge", "Wait", "Tidy", "Use it"]
    assert {step.depth for step in view.leaves()} == {0, 1, 2}


def test_only_a_text_that_the_author_wrote_out_tells_an_inner_runbook_where_a_secret_is(
    bench: Bench, readiness: Callable, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("swordfish")
    secret = "inputs: {key: {type: secret}}\n"
    bench.write(readiness("- {assert: {that: key == 'swordfish'}}", secret), "inner")
    place = f"file:{tmp_path}/key"
    written = readiness(f'- run: {{runbook: inner.yaml, inputs: {{key: "{place}"}}}}\n')
    assert bench.run(written).exit_code == 0
    computed = readiness('- run: {runbook: inner.yaml, inputs: {key: "{{ where }}"}}\n', "vars: {where: none}\n")
    assert bench.run(computed, extra={"where": place}).exit_code == 1
    assert "was given the name of a place (file:…)" in str(bench.journal())


def test_a_runbook_that_fails_fails_its_step_with_its_own_reasons(bench: Bench, readiness: Callable) -> None:
    bench.write(INNER, "inner")
    finished = bench.run(readiness("- name: Inside\n  run: {runbook: inner.yaml, inputs: {limit: 3}}\n"))
    assert (finished.exit_code, finished.reasons) == (1, ['"Inside" failed'])
    assert bench.steps()["Inside"].message == '"Judge" failed'
    assert bench.outcomes()["Tidy"] == "passed"


def test_turns_of_a_loop_may_run_runbooks_at_once(bench: Bench, readiness: Callable) -> None:
    bench.write(INNER, "inner")
    steps = """\
    - name: Inside
      loop: [6, 7, 8]
      parallel: true
      run: {runbook: inner.yaml, inputs: {limit: "{{ item }}", wait: 300ms}}
      register: all
    - {name: Use, assert: {that: "all | map(attribute='outputs') | map(attribute='double') | list == [12, 14, 16]"}}
    """
    finished = bench.run(readiness(steps))
    assert finished.exit_code == 0, finished.verdict
    assert finished.seconds < 0.9


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("run: {runbook: inner.yaml, inputs: {limits: 3}}", ["K303", "K302"]),
        ("run: {runbook: inner.yaml, inputs: {limit: 3}}\n  expect: result.outputs.dubble == 1", ["K404"]),
        ("run: {runbook: inner.yaml, inputs: {limit: 3}}\n  expect: result.figures.lost == 1", ["K404"]),
        ("run: {runbook: inner.yaml, inputs: {limit: 3}}\n  until: result.scores == 1", ["K404"]),
        ("run: {runbook: inner.yaml, inputs: {limit: abc}}", ["K304"]),
        ("run: {runbook: inner.yaml, inputs: {limit: 5.7}}", ["K304"]),
        ("run: {runbook: inner.yaml, inputs: {limit: 5, wait: soon}}", ["K304"]),
        ("run: {runbook: wrong.yaml}", ["K503"]),
        ("run: {runbook: missing.yaml}", ["K501"]),
        ('run: {runbook: "{{ run.id }}"}', ["K204"]),
        ("stop: {}", ["K303"]),
        ("stop: {because: x}\n  expect: result", ["K209"]),
        ("wait: {for: 1s}\n  delegate: '{{ run.id }}'", ["K204"]),
    ],
)
def test_what_is_wrong_with_a_runbook_that_is_run_is_found_before_the_run(
    bench: Bench, readiness: Callable, step: str, expected: list[str]
) -> None:
    bench.write(INNER, "inner")
    bench.write("runbook: 1\nkind: readiness\nsections: []\n", "wrong")
    assert codes(bench, readiness(f"- {step}\n")) == expected


def test_runbooks_that_run_each_other_in_a_circle_are_found(bench: Bench, readiness: Callable) -> None:
    text = readiness("- {run: {runbook: other.yaml}}\n")
    bench.write(text, "runbook")
    bench.write(text.replace("other.yaml", "runbook.yaml"), "other")
    assert codes(bench, text) == ["K502"]


def test_a_fault_inside_is_undone_and_timed_when_the_inner_runbook_ends(sleepers: Bench, readiness: Callable) -> None:
    sleepers.write(BREAKER.replace("RTO", "20s"), "breaker")
    steps = """\
    - name: Break it
      run: {runbook: breaker.yaml}
      register: broken
    - name: Runs again
      service.status: {service: one}
      expect: [result.state == 'running', "broken.figures.rto < '20s' | to_duration"]
    """
    finished = sleepers.run(readiness(steps))
    assert finished.exit_code == 0, finished.verdict
    assert [event.by for event in sleepers.seen if isinstance(event, UndoFinished)] == ["sections[0].steps[0]"]
    planned = next(event for event in sleepers.seen if isinstance(event, UndoPlanned))
    assert planned.step == "sections[0].steps[0].run.sections[0].steps[0]"


def test_a_missed_objective_inside_fails_the_step(sleepers: Bench, readiness: Callable) -> None:
    sleepers.write(BREAKER.replace("RTO", "1ms"), "breaker")
    finished = sleepers.run(readiness("- name: Break it\n  run: {runbook: breaker.yaml}\n"))
    assert finished.exit_code == 1
    assert "rto within 1ms" in sleepers.steps()["Break it"].message


def test_a_protected_stack_refuses_faults_of_inner_runbooks_too(sleepers: Bench, readiness: Callable) -> None:
    sleepers.write(BREAKER.replace("RTO", "20s"), "breaker")
    sleepers.stack_text = sleepers.stack_text.replace("name: sleepers", "name: sleepers\nprotected: true")
    with pytest.raises(Protected, match=r"service\.pause"):
        sleepers.run(readiness("- run: {runbook: breaker.yaml}\n"))


def test_a_resume_goes_on_inside_of_the_inner_runbook(bench: Bench, readiness: Callable) -> None:
    log = bench.folder / "log"
    inner = readiness(
        f"- {{name: One, shell.run: {{command: echo one >> {log}}}, register: one}}\n"
        f"- {{name: Two, shell.run: {{command: echo two >> {log}}}}}\n"
    )
    bench.write(inner.replace("name: test", "name: inner") + "outputs: {code: one.exit_code}\n", "inner")
    text = readiness("- name: Inside\n  run: {runbook: inner.yaml}\n  expect: result.outputs.code == 0\n")
    run(bench.request(text))
    journal = bench.store.find_run("last") / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if '"name":"One"' in line and "step_finished" in line)
    journal.write_text("".join(lines[: first + 1]))
    assert resume(bench.request(text), journal.parent).exit_code == 0
    assert log.read_text().split() == ["one", "two", "two"]


# --- jumps ---


def test_stop_ends_the_run_with_its_reason_and_always_still_runs(bench: Bench, readiness: Callable) -> None:
    steps = """\
    - name: Enough
      block:
        - {name: Stop, stop: {because: "the {{ run.id[:2] }} is full"}}
        - {name: Never, assert: {that: false}}
    - {name: Nor this, assert: {that: false}}
    """
    end = "  - name: Later\n    steps:\n      - {name: Nor that, assert: {that: false}}\n"
    finished = bench.run(readiness(steps) + end + "always:\n  - {name: Tidy, assert: {that: true}}\n")
    assert (finished.exit_code, finished.verdict) == (1, "failed: stopped: the 20 is full")
    assert bench.outcomes() == {"Stop": "passed", "Enough": "passed", "Nor this": "skipped", "Tidy": "passed"}


def test_stop_may_end_a_run_that_passed(bench: Bench, readiness: Callable) -> None:
    steps = "- {name: Done, stop: {because: nothing to do, passed: true}}\n- {name: No, assert: {that: false}}\n"
    finished = bench.run(readiness(steps))
    assert (finished.exit_code, finished.verdict) == (0, "passed: stopped: nothing to do")


def test_skip_section_leaves_out_the_rest_of_its_section_alone(bench: Bench, readiness: Callable) -> None:
    steps = """\
    - {name: Not now, when: 1 > 2, skip_section: {}}
    - {name: Now, skip_section: {because: no lag}}
    - {name: Left out, assert: {that: false}}
    """
    finished = bench.run(readiness(steps) + "  - name: Next\n    steps:\n      - {name: Done, assert: {that: true}}\n")
    assert finished.exit_code == 0
    assert bench.outcomes() == {"Not now": "skipped", "Now": "passed", "Left out": "skipped", "Done": "passed"}
    assert bench.steps()["Left out"].message == "left out: no lag"


def test_a_block_always_runs_its_end_also_when_the_run_is_interrupted(sleepers: Bench) -> None:
    done = sleepers.folder / "done"
    text = f"""\
runbook: 1
kind: readiness
name: test
sections:
  - steps:
      - block:
          - {{name: Pause, service.pause: {{service: one}}}}
          - {{name: Wait, wait: {{for: 20s}}}}
        always:
          - {{name: Tidy, shell.run: {{command: touch {done}}}}}
"""
    request = sleepers.request(text)

    class Impatient:
        def see(self, event: object) -> None:
            if isinstance(event, FaultStruck):
                import os
                import signal

                os.kill(os.getpid(), signal.SIGINT)

    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    finished = run(type(request)(**{**fields, "observers": (Impatient(), sleepers)}))
    assert finished.outcome is Outcome.INTERRUPTED
    assert done.exists()


def test_a_check_says_which_inputs_of_a_runbook_only_a_run_knows(bench: Bench, readiness: Callable) -> None:
    bench.write(INNER, "inner")
    steps = """\
    - {name: Ask, shell.run: {command: "true"}, register: asked}
    - {name: Run it, run: {runbook: inner.yaml, inputs: {limit: "{{ asked.exit_code }}"}}}
    """
    finished = bench.run(readiness(steps), check="resolve")
    assert finished.exit_code == 0
    assert bench.outcomes()["Run it"] == "skipped"
    assert bench.steps()["Run it"].message.startswith("known only in a run")
