from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from k2run.engine.events import Bound, Outcome, StepTried
from k2run.engine.retry import pause
from k2run.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Bench


def test_a_step_that_meets_its_expectation_passes_and_shows_what_was_measured(
    bench: Bench, readiness: Callable
) -> None:
    finished = bench.run(
        readiness("- name: Echo\n  shell.run: {command: echo hello}\n  expect: result.stdout == 'hello'\n")
    )
    step = bench.steps()["Echo"]
    assert (finished.exit_code, step.outcome, step.headline) == (0, Outcome.PASSED, "exit 0, hello")


def test_a_failed_expectation_says_what_was_expected_and_what_was_found(bench: Bench, readiness: Callable) -> None:
    finished = bench.run(readiness("- name: Echo\n  shell.run: {command: echo no}\n  expect: result.stdout == 'yes'\n"))
    assert finished.exit_code == 1
    assert finished.reasons == ['"Echo" failed']
    assert bench.steps()["Echo"].message == "expected result.stdout == 'yes'; found result.stdout = no"


def test_a_condition_that_is_false_skips_the_step_and_says_why(bench: Bench, readiness: Callable) -> None:
    bench.run(readiness("- name: Never\n  when: 1 > 2\n  assert: {that: 1 == 2}\n"))
    assert bench.steps()["Never"].outcome is Outcome.SKIPPED
    assert "1 > 2 is false" in bench.steps()["Never"].message


def test_a_loop_runs_once_for_each_item_with_its_name_filled_in(bench: Bench, readiness: Callable) -> None:
    bench.run(readiness("- name: Look at {{ it }}\n  loop: [a, b]\n  loop_var: it\n  assert: {that: it in 'ab'}\n"))
    assert bench.outcomes() == {"Look at a": "passed", "Look at b": "passed"}


def test_a_mapping_is_looped_over_as_keys_and_values(bench: Bench, readiness: Callable) -> None:
    steps = "- name: '{{ item.key }}={{ item.value }}'\n  loop: '{{ pairs }}'\n  assert: {that: item.value > 0}\n"
    bench.run(readiness(steps, "vars: {pairs: {x: 1, y: 2}}\n"))
    assert set(bench.outcomes()) == {"x=1", "y=2"}


def test_registered_results_keep_their_types_for_later_steps(bench: Bench, readiness: Callable) -> None:
    steps = """\
    - name: First
      shell.run: {command: "true"}
      register: first
    - name: Second
      assert: {that: first.exit_code + 1 == 1}
    """
    assert bench.run(readiness(steps)).exit_code == 0


def test_until_repeats_the_action_and_records_each_attempt(bench: Bench, readiness: Callable) -> None:
    counter = bench.folder / "n"
    steps = f"""\
    - name: Third time
      shell.run: {{command: "echo x >> {counter}; wc -l < {counter}"}}
      until: result.stdout | int >= 3
      every: 10ms
      within: 5s
    """
    bench.run(readiness(steps))
    step = bench.steps()["Third time"]
    assert (step.outcome, step.attempts, step.objective) == (Outcome.PASSED, 3, Bound.MET)
    assert sum(isinstance(event, StepTried) for event in bench.seen) == 2


def test_until_gives_up_at_its_objective_and_says_what_it_last_saw(bench: Bench, readiness: Callable) -> None:
    steps = (
        "- name: Never\n  shell.run: {command: echo 1}\n  until: result.stdout == '2'\n  every: 20ms\n  within: 200ms\n"
    )
    finished = bench.run(readiness(steps))
    step = bench.steps()["Never"]
    assert finished.exit_code == 1
    assert step.objective is Bound.MISSED
    assert step.seconds < 1
    assert step.message.startswith("not within 200ms")
    assert "found result.stdout = 1" in step.message


def test_retries_are_bounded(bench: Bench, readiness: Callable) -> None:
    bench.run(readiness("- name: Try\n  shell.run: {command: 'false'}\n  retries: 2\n  every: 1ms\n"))
    assert bench.steps()["Try"].attempts == 3


def test_a_step_that_outlives_its_timeout_fails_in_time(bench: Bench, readiness: Callable) -> None:
    bench.run(readiness("- name: Slow\n  shell.run: {command: sleep 30}\n  timeout: 300ms\n"))
    step = bench.steps()["Slow"]
    assert step.outcome is Outcome.FAILED
    assert step.seconds < 1.5
    assert "0.3s" in step.message or "300ms" in step.message


def test_a_missed_objective_is_recorded_apart_from_the_outcome(bench: Bench, readiness: Callable) -> None:
    finished = bench.run(readiness("- name: Late\n  shell.run: {command: sleep 0.2}\n  within: 50ms\n"))
    step = bench.steps()["Late"]
    assert (step.outcome, step.objective, finished.exit_code) == (Outcome.PASSED, Bound.MISSED, 0)


@pytest.mark.parametrize(
    ("keyword", "code"), [("severity: warning", 0), ("ignore_failure: true", 0), ("severity: critical", 1)]
)
def test_only_a_critical_failure_fails_the_run(bench: Bench, readiness: Callable, keyword: str, code: int) -> None:
    assert bench.run(readiness(f"- name: Wrong\n  assert: {{that: 1 == 2}}\n  {keyword}\n")).exit_code == code


def test_failed_when_overrules_a_success(bench: Bench, readiness: Callable) -> None:
    steps = "- name: Bad words\n  shell.run: {command: echo ERROR}\n  failed_when: \"'ERROR' in result.stdout\"\n"
    assert bench.run(readiness(steps)).exit_code == 1


def test_tags_choose_steps_and_say_so_of_the_others(bench: Bench, readiness: Callable) -> None:
    steps = """\
    - {name: A, tags: [quick], assert: {that: true}}
    - {name: B, tags: [slow], assert: {that: true}}
    - {name: C, assert: {that: true}}
    """
    bench.run(readiness(steps), tags=frozenset({"quick"}))
    assert bench.outcomes() == {"A": "passed", "B": "skipped", "C": "skipped"}
    bench.run(readiness(steps), skip_tags=frozenset({"slow"}))
    assert bench.outcomes() == {"A": "passed", "B": "skipped", "C": "passed"}


def test_values_given_on_the_command_line_win_over_variables(bench: Bench, readiness: Callable) -> None:
    steps = "- name: Greet {{ who }}\n  assert: {that: who == 'Ada'}\n"
    assert bench.run(readiness(steps, "vars: {who: Bob}\n"), extra={"who": "Ada"}).exit_code == 0


def test_an_input_is_converted_to_its_type(bench: Bench, readiness: Callable) -> None:
    top = "inputs: {count: {type: integer, default: 3}}\n"
    steps = "- name: Count\n  assert: {that: count + 1 == 8}\n"
    assert bench.run(readiness(steps, top), extra={"count": "7"}).exit_code == 0
    with pytest.raises(UsageError, match="not of type integer"):
        bench.run(readiness(steps, top), extra={"count": "many"})
    with pytest.raises(UsageError, match="no such input"):
        bench.run(readiness(steps, top), extra={"cuont": "7"})


def test_a_block_is_rescued_and_its_always_runs(bench: Bench, readiness: Callable) -> None:
    steps = """\
    - name: Outer
      block:
        - {name: Fails, assert: {that: false}}
        - {name: Not reached, assert: {that: true}}
      rescue:
        - {name: Rescue, assert: {that: true}}
      always:
        - {name: Tidy, assert: {that: true}}
    """
    finished = bench.run(readiness(steps))
    assert finished.exit_code == 0
    assert bench.outcomes() == {"Fails": "failed", "Rescue": "passed", "Tidy": "passed", "Outer": "passed"}


def test_a_parallel_section_runs_its_steps_at_once(bench: Bench) -> None:
    steps = "".join(f"      - {{name: S{n}, shell.run: {{command: sleep 0.3}}}}\n" for n in range(10))
    finished = bench.run(
        "runbook: 1\nkind: readiness\nname: test\ntitle: T\nsections:\n  - name: P\n    parallel: true\n    steps:\n"
        + steps
    )
    assert finished.exit_code == 0
    assert finished.seconds < 1.5


def test_an_expression_that_meets_a_missing_field_fails_the_step_and_names_the_field(
    bench: Bench, readiness: Callable
) -> None:
    steps = "- name: Field\n  set: {answer: {a: 1}}\n- name: Ask\n  assert: {that: answer.b == 1}\n"
    assert bench.run(readiness(steps)).exit_code == 1
    assert "b" in bench.steps()["Ask"].message


def test_what_a_stack_does_not_have_is_not_applicable_rather_than_passed(bench: Bench, readiness: Callable) -> None:
    finished = bench.run(
        readiness("- name: Grafana\n  requires: [grafana]\n  http.get: {url: 'http://127.0.0.1:1/'}\n")
    )
    assert bench.steps()["Grafana"].outcome is Outcome.NOT_APPLICABLE
    assert (finished.outcome, finished.exit_code) == (Outcome.NOT_APPLICABLE, 7)
    assert finished.verdict == "not applicable: nothing was checked (steps: 1 not applicable)"


def test_no_log_keeps_arguments_and_results_out_of_the_journal(bench: Bench, readiness: Callable) -> None:
    bench.run(readiness("- name: Quiet\n  shell.run: {command: echo hidden-value}\n  no_log: true\n  register: it\n"))
    assert "hidden-value" not in (bench.store.find_run("last") / "journal.jsonl").read_text()


def test_what_is_written_as_a_quantity_is_compared_as_one_wherever_it_is_written(
    bench: Bench, readiness: Callable
) -> None:
    steps = """\
    - name: Of the runbook
      assert: {that: [small < big, a < b, a < 10s, 'list[0] < 1MiB', near < big]}
    - name: Of the step
      vars: {own: 9MiB}
      assert: {that: own < big}
    - name: Of a loop over {{ item }}
      loop: [9MiB, 8MiB]
      assert: {that: item < big}
    - set: {later: 9MiB}
    - name: Set
      assert: {that: later < big}
    """
    top = "vars: {small: 9MiB, big: 10MiB, a: 9s, b: 10s, list: [1kB], near: '{{ small * 1.1 }}'}\n"
    assert bench.run(readiness(steps, top)).reasons == []
    given = readiness("- name: Given\n  assert: {that: x < 10MiB}\n", "vars: {x: 11MiB}\n")
    assert bench.run(given, extra={"x": "9MiB"}).reasons == []


def test_a_value_that_is_no_text_is_one_where_a_text_is_asked_for(bench: Bench, readiness: Callable) -> None:
    steps = """\
    - name: Command
      shell.run: {command: [echo, "{{ port }}", "{{ wait }}", "{{ on }}", "{{ limit }}"]}
      expect: result.stdout == '8080 90s true 10MB'
    - name: Environment
      shell.run: {command: "echo $PORT", env: {PORT: "{{ port }}"}}
      expect: result.stdout == '8080'
    """
    top = """\
    inputs:
      port: {type: integer, default: 8080, help: port}
      wait: {type: duration, default: 90s, help: time}
      on: {type: boolean, default: true, help: whether}
    vars: {limit: 10MB}
    """
    assert bench.run(readiness(steps, top)).reasons == []


def test_pauses_grow_up_to_their_bound_and_differ_by_chance(bench: Bench, readiness: Callable) -> None:
    steps = """\
    - name: Never
      shell.run: {command: "false"}
      retries: 4
      every: {from: 20ms, to: 80ms, factor: 2, jitter: 10%}
    """
    bench.run(readiness(steps))
    at = [event.t for event in bench.seen if isinstance(event, StepTried)]
    pauses = [round(after - before, 3) for before, after in pairwise(at)]
    assert len(pauses) == 3
    assert all(waited >= least for waited, least in zip(pauses, (0.018, 0.036, 0.072), strict=True))
    step = bench.request(readiness(steps)).runbook.sections[0].steps[0]
    assert {pause(step, 60) <= 0.088 for _ in range(50)} == {True}
    assert len({pause(step, 1) for _ in range(50)}) > 1
