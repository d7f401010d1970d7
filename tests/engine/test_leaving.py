"""What is left early: leaps, failures and signals hide nothing, and all that began has an end in the journal."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from k2run.engine.events import (
    ClockStopped,
    Outcome,
    SectionFinished,
    SectionStarted,
    StepFinished,
    StepStarted,
)
from k2run.engine.run import resume

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Bench

HEAD = "runbook: 1\nname: test\nkind: "


def sections(bench: Bench) -> dict[str, str]:
    return {event.section: event.outcome.value for event in bench.seen if isinstance(event, SectionFinished)}


def without_end(bench: Bench) -> set[str]:
    """What began and did not end."""
    began = {e.step for e in bench.seen if isinstance(e, StepStarted)}
    began |= {e.section for e in bench.seen if isinstance(e, SectionStarted)}
    ended = {e.step for e in bench.seen if isinstance(e, StepFinished)}
    return began - ended - {e.section for e in bench.seen if isinstance(e, SectionFinished)}


@pytest.mark.parametrize("leap", ["skip_section: {because: enough}", "stop: {because: done, passed: true}"])
@pytest.mark.parametrize("part", ["always", "rescue"])
def test_a_leap_out_of_a_block_does_not_hide_what_failed_in_it(
    bench: Bench, readiness: Callable, leap: str, part: str
) -> None:
    steps = f"""\
    - name: Block
      block: [{{name: Fails, assert: {{that: false}}}}]
      {part}: [{{name: Leap, {leap}}}]
    - {{name: Left, assert: {{that: false}}}}
    """
    finished = bench.run(readiness(steps))
    assert (finished.exit_code, finished.reasons) == (1, ['"Block" failed'])
    assert bench.outcomes() == {"Fails": "failed", "Leap": "passed", "Block": "failed", "Left": "skipped"}
    assert sections(bench) == {"sections[0]": "failed"}
    assert not without_end(bench)


def test_a_leap_in_a_turn_leaves_out_the_turns_that_follow_and_each_has_a_record(
    bench: Bench, readiness: Callable
) -> None:
    steps = """\
    - name: Turn {{ item }}
      loop: [1, 2, 3]
      block: [{name: "Look {{ item }}", assert: {that: item != 2}}]
      always: [{name: "Leap {{ item }}", when: item == 2, skip_section: {because: two}}]
    """
    finished = bench.run(readiness(steps))
    assert finished.reasons == ['"Turn 2" failed']
    assert {name: said for name, said in bench.outcomes().items() if name.startswith("Turn")} == {
        "Turn 1": "passed",
        "Turn 2": "failed",
        "Turn 3": "skipped",
    }
    assert bench.steps()["Turn 3"].message == "left out: two"


@pytest.mark.parametrize("parallel", ["", "    parallel: true\n", "    parallel: 2\n"])
def test_a_failure_ends_a_scenario_whether_its_steps_run_in_order_or_at_once(bench: Bench, parallel: str) -> None:
    finished = bench.run(
        f"{HEAD}scenario\nsections:\n  - name: First\n{parallel}    steps:\n"
        "      - {name: Fails, assert: {that: false}}\n      - {name: Beside, wait: {for: 1ms}}\n"
        "  - name: Next\n    steps: [{name: Break something, shell.run: {command: exit 1}}]\n"
    )
    assert finished.reasons == ['"Fails" failed']
    assert "Break something" not in bench.outcomes()
    assert sections(bench) == {"sections[0]": "failed"}


def test_steps_of_a_parallel_section_that_were_not_reached_have_a_record(bench: Bench) -> None:
    bench.run(
        f"{HEAD}readiness\nsections:\n  - parallel: 2\n    after_failure: end_section\n    steps:\n"
        "      - {name: Fails, shell.run: {command: sleep 0.2; exit 1}}\n      - {name: Beside, wait: {for: 400ms}}\n"
        "      - {name: Never, wait: {for: 1ms}}\n  - steps: [{name: Next, wait: {for: 1ms}}]\n"
    )
    assert bench.outcomes() == {"Fails": "failed", "Beside": "passed", "Never": "skipped", "Next": "passed"}
    assert bench.steps()["Never"].message == 'not reached: "Fails" failed'


@pytest.mark.parametrize("parallel", ["", "    parallel: true\n"])
@pytest.mark.parametrize("clock", ["detect", "rto"])
def test_a_failed_warning_neither_fails_a_section_nor_keeps_its_clock_from_stopping(
    sleepers: Bench, parallel: str, clock: str
) -> None:
    sleepers.run(
        f"{HEAD}scenario\nsections:\n  - steps: [{{name: Pause, service.pause: {{service: one}}}}]\n"
        f"  - clock: {clock}\n{parallel}    steps:\n"
        "      - {name: Warns, severity: warning, assert: {that: false}}\n      - {name: Sees, wait: {for: 1ms}}\n"
    )
    assert sections(sleepers)["sections[1]"] == "passed"
    clocks = [event for event in sleepers.seen if isinstance(event, ClockStopped)]
    assert [(event.clock, event.message) for event in clocks] == [(clock, "")]
    ended = next(e for e in sleepers.seen if isinstance(e, SectionFinished) and e.section == "sections[1]")
    assert clocks[0].seq < ended.seq


@pytest.mark.parametrize("parallel", ["", "    parallel: 2\n"])
def test_a_stop_in_a_section_leaves_out_what_has_not_begun(bench: Bench, parallel: str) -> None:
    finished = bench.run(
        f"{HEAD}readiness\nsections:\n  - name: S\n{parallel}    steps:\n"
        "      - {name: Stop, stop: {because: full}}\n      - {name: Two, when: false, wait: {for: 1ms}}\n"
        "      - {name: Never, assert: {that: false}}\n  - steps: [{name: Nor this, assert: {that: false}}]\n"
    )
    assert "stopped: full" in finished.reasons
    assert "Nor this" not in bench.outcomes()
    assert not without_end(bench)


def test_a_signal_does_not_cut_off_the_end_of_a_block(bench: Bench, readiness: Callable) -> None:
    done = bench.folder / "done"
    steps = f"""\
    - name: Block
      block: [{{name: Work, wait: {{for: 1ms}}}}]
      always:
        - {{name: Slow, shell.run: {{command: "sleep 0.5; echo slow >> {done}"}}}}
        - {{name: Second, shell.run: {{command: "echo second >> {done}"}}}}
    - {{name: After, wait: {{for: 1ms}}}}
    """

    def see(event: Any, own: Callable = bench.see) -> None:
        own(event)
        if isinstance(event, StepStarted) and event.name == "Slow":
            os.kill(os.getpid(), signal.SIGINT)

    bench.see = see  # type: ignore[method-assign]
    finished = bench.run(readiness(steps))
    assert finished.outcome is Outcome.INTERRUPTED
    assert done.read_text().split() == ["slow", "second"]
    assert bench.outcomes() == {"Work": "passed", "Slow": "passed", "Second": "passed", "Block": "passed"}


def test_what_a_signal_cuts_off_ends_as_interrupted_and_is_done_again_by_a_resume(
    bench: Bench, readiness: Callable
) -> None:
    text = readiness(
        "- name: Block\n  block:\n    - {name: One, set: {one: 1}}\n"
        "    - {name: Long, when: \"'go' not in run\", shell.run: {command: 'sleep 0.4'}}\n"
        "- {name: Uses, assert: {that: one == 1}}\n"
    )
    killer = threading.Thread(target=_interrupt_soon)
    killer.start()
    finished = bench.run(text)
    killer.join()
    assert finished.outcome is Outcome.INTERRUPTED
    assert bench.outcomes() == {"One": "passed", "Long": "interrupted", "Block": "interrupted"}
    assert sections(bench) == {"sections[0]": "interrupted"}
    assert not without_end(bench)
    assert resume(bench.request(text), bench.store.find_run("last")).exit_code == 0
    assert bench.outcomes() == {"One": "passed", "Long": "passed", "Block": "passed", "Uses": "passed"}


def _interrupt_soon() -> None:
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)


def test_a_resume_finds_the_names_and_the_leap_of_a_block_that_had_ended(bench: Bench, readiness: Callable) -> None:
    text = readiness(
        "- {name: Named, block: [{set: {inside: 7}}, {loop: [1, 2], set: {other: '{{ item }}'}, register: all}]}\n"
        "- {name: Uses, assert: {that: inside == 7 and all | length == 2}}\n"
        "- {name: Leaves, block: [{skip_section: {because: enough}}]}\n- {name: Left, assert: {that: false}}\n"
    )
    bench.run(text)
    journal = bench.store.find_run("last") / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    for name in ("Named", "Leaves"):
        last = next(n for n, line in enumerate(lines) if f'"name":"{name}"' in line and "step_finished" in line)
        journal.write_text("".join(lines[: last + 1]))
        assert resume(bench.request(text), journal.parent).exit_code == 0
        assert bench.outcomes()["Left"] == "skipped"


def test_a_wait_takes_as_long_as_its_computed_duration(bench: Bench, readiness: Callable) -> None:
    steps = "- {name: Computed, wait: {for: '{{ pause }}'}}\n- {name: Short, wait: {for: 1s}, timeout: 50ms}\n"
    bench.run(readiness(steps, "inputs: {pause: {type: duration, default: 10ms}}\n"))
    limits = {event.name: event.timeout for event in bench.seen if isinstance(event, StepStarted)}
    assert limits == {"Computed": 1.01, "Short": 0.05}
    assert bench.outcomes() == {"Computed": "passed", "Short": "failed"}


def test_what_a_step_needs_is_asked_in_order(bench: Bench, readiness: Callable) -> None:
    steps = """\
    - {name: Source, when: 1 == 2, shell.run: {command: echo a}, register: source}
    - {name: Loop, when: 1 == 2, loop: "{{ source.stdout | split(',') }}", wait: {for: 1ms}}
    - {name: By item, when: item > 1, loop: [1, 2], assert: {that: item == 2}}
    - {name: By a name of the item, when: big, vars: {big: "{{ item > 1 }}"}, loop: [1, 2], assert: {that: item == 2}}
    """
    finished = bench.run(readiness(steps))
    assert finished.exit_code == 0, finished.verdict
    assert bench.steps()["Loop"].message == "not needed: 1 == 2 is false"
    assert bench.steps()["Loop"].step == "sections[0].steps[1]"


@pytest.mark.parametrize("inside", ["shell.run: {command: sleep 20}", "block: [{name: Deep, wait: {for: 20s}}]"])
def test_the_limit_of_a_block_reaches_everything_inside_and_its_rescue_and_always_still_run(
    bench: Bench, readiness: Callable, inside: str
) -> None:
    steps = f"""\
    - name: Block
      timeout: 300ms
      block: [{{name: Slow, severity: warning, {inside}}}, {{name: Never, assert: {{that: false}}}}]
      rescue: [{{name: Rescue, assert: {{that: "failed.message == 'not done within 300ms'"}}}}]
      always: [{{name: Tidy, wait: {{for: 1ms}}}}]
    - {{name: Alone, timeout: 100ms, block: [{{name: Long, severity: info, wait: {{for: 20s}}}}]}}
    """
    finished = bench.run(readiness(steps))
    outcomes = bench.outcomes()
    assert (outcomes["Block"], outcomes["Rescue"], outcomes["Tidy"]) == ("passed", "passed", "passed")
    assert "Never" not in outcomes
    assert bench.steps()["Alone"].message == "not done within 100ms"
    assert (finished.reasons, finished.seconds < 3) == (['"Alone" failed'], True)
    assert not without_end(bench)


def test_the_limit_of_a_runbook_that_is_run_ends_it_and_undoes_what_it_broke(
    sleepers: Bench, readiness: Callable
) -> None:
    inner = readiness(
        "- {name: Pause, service.pause: {service: one}}\n"
        "- {name: Outer, block: [{name: Long, wait: {for: 20s}}, {name: Never, wait: {for: 1ms}}]}\n"
    )
    sleepers.write(inner.replace("name: test", "name: inner") + "always: [{name: Tidy, wait: {for: 1ms}}]\n", "inner")
    steps = """\
    - {name: Inside, timeout: 500ms, run: {runbook: inner.yaml}}
    - {name: Runs again, service.status: {service: one}, expect: result.state == 'running'}
    """
    finished = sleepers.run(readiness(steps))
    assert sleepers.steps()["Inside"].message == "not done within 500ms"
    assert sleepers.outcomes()["Tidy"] == "passed"
    assert (finished.reasons, sleepers.outcomes()["Runs again"]) == (['"Inside" failed'], "passed")
    assert not without_end(sleepers)
