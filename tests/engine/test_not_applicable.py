"""What does not apply to a stack is neither passed nor failed, and what builds on it does not apply either."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from k2run.engine.events import ClockStopped, FaultStruck, Objected, Outcome, SectionFinished
from k2run.evidence.view import tone_of, word_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Bench

EXTERNAL = """\
stack: 1
name: foreign
services: {api: {run: external}}
"""
HALF = """\
stack: 1
name: half
services:
  one: {run: process, command: [sleep, "600"]}
  two: {run: process, command: [sleep, "600"]}
  api: {run: external}
"""
KILL = "{name: Kill the API, service.kill: {service: api}, register: killed}"


def scenario(steps: str, *, top: str = "", after: str = "") -> str:
    return (
        f"runbook: 1\nkind: scenario\nname: break\n{top}"
        "steady_state:\n  - {name: Steady, assert: {that: true}}\n"
        f"sections:\n  - name: Break\n    steps:\n{textwrap.indent(textwrap.dedent(steps), '      ')}\n{after}"
    )


@pytest.fixture
def foreign(bench: Bench) -> Bench:
    bench.stack_text = EXTERNAL
    return bench


def test_a_scenario_whose_fault_does_not_apply_ends_there_and_does_nothing_more(foreign: Bench) -> None:
    marker = foreign.folder / "written"
    after = f"""\
  - name: Observe
    steps:
      - {{name: Write, shell.run: {{command: touch {marker}}}}}
      - {{name: See, assert: {{that: false}}}}
  - {{name: Recover, clock: rto, steps: [{{name: Back, assert: {{that: false}}}}]}}
"""
    steps = f"- {KILL}\n- {{name: Flood, shell.run: {{command: touch {marker}}}}}"
    finished = foreign.run(scenario(steps, top="objective: {within: 1m, rto: 10s, rpo: 0}\n", after=after))
    assert (finished.outcome, finished.exit_code) == (Outcome.NOT_APPLICABLE, 7)
    assert finished.verdict.startswith('not applicable: "Kill the API" does not apply: cannot inject a fault into api')
    assert (word_of(finished, None), tone_of(finished)) == ("NOT APPLICABLE", "warn")
    assert not marker.exists()
    assert foreign.outcomes() == {"Steady": "passed", "Kill the API": "not_applicable", "Flood": "not_applicable"}
    assert not [event for event in foreign.seen if isinstance(event, Objected | ClockStopped)]


def test_a_scenario_whose_second_fault_does_not_apply_undoes_the_first(sleepers: Bench) -> None:
    sleepers.stack_text = HALF.replace("half", "sleepers")
    finished = sleepers.run(scenario(f"- {{name: Hold, service.pause: {{service: one}}}}\n- {KILL}"))
    assert finished.outcome is Outcome.NOT_APPLICABLE
    assert [event.action for event in sleepers.seen if isinstance(event, FaultStruck)] == ["service.pause"]
    assert finished.pending_undos == []
    assert sleepers.processes()["one"].status() != "stopped"


def test_a_failure_before_the_fault_that_does_not_apply_fails_the_run(foreign: Bench) -> None:
    finished = foreign.run(scenario(f"- {{name: Wrong, assert: {{that: false}}}}\n- {KILL}"))
    assert (finished.outcome, finished.exit_code) == (Outcome.FAILED, 1)


@pytest.mark.parametrize("word", ["severity: warning", "ignore_failure: true"])
def test_a_step_to_do_without_ends_nothing(foreign: Bench, word: str) -> None:
    steps = f"- {{name: Kill, service.kill: {{service: api}}, {word}}}\n- {{name: See, assert: {{that: true}}}}"
    finished = foreign.run(scenario(steps))
    assert (finished.outcome, foreign.outcomes()["See"]) == (Outcome.PASSED, "passed")


def test_beside_checks_a_fault_that_does_not_apply_ends_its_section_alone(foreign: Bench, readiness: Callable) -> None:
    text = readiness(f"- {KILL}\n- {{name: Effect, assert: {{that: false}}}}\n", "objective: {rto: 5s}\n")
    text += "  - {name: Back, clock: rto, steps: [{name: Recovered, assert: {that: false}}]}\n"
    text += "  - {name: Other, steps: [{name: Check, assert: {that: true}}]}\n"
    finished = foreign.run(text)
    assert foreign.outcomes() == {
        "Kill the API": "not_applicable",
        "Effect": "not_applicable",
        "Recovered": "not_applicable",
        "Check": "passed",
    }
    ended = {event.name: event.outcome.value for event in foreign.seen if isinstance(event, SectionFinished)}
    assert ended == {"Only": "not_applicable", "Back": "not_applicable", "Other": "passed"}
    assert finished.verdict.startswith('passed; not applicable: "Kill the API" does not apply')


USES = [
    "shell.run: {command: 'echo {{ killed.pid }}'}",
    "assert: {that: killed.pid == 1}",
    "assert: {that: true}, when: killed.pid == 1",
    "assert: {that: true}, loop: '{{ [killed.pid] }}'",
    "assert: {that: true}, vars: {x: '{{ killed.pid }}'}",
    "shell.run: {command: 'true'}, expect: killed.pid == 1",
    "shell.run: {command: 'true'}, until: killed.pid == 1, within: 2s",
    "shell.run: {command: 'true'}, failed_when: killed.pid == 1",
    "set: {x: '{{ killed.pid }}'}",
]


@pytest.mark.parametrize("use", USES)
def test_a_step_that_uses_what_such_a_step_registers_does_not_apply(
    foreign: Bench, readiness: Callable, use: str
) -> None:
    text = readiness(f"- {KILL}\n") + f"  - {{name: Later, steps: [{{name: Use, {use}}}]}}\n"
    finished = foreign.run(text)
    used = foreign.steps()["Use"]
    assert used.outcome is Outcome.NOT_APPLICABLE, used.message
    assert "'Kill the API', which does not apply: cannot inject a fault into api" in used.message
    assert (finished.outcome, finished.exit_code) == (Outcome.NOT_APPLICABLE, 7)


@pytest.mark.parametrize(
    "first",
    [
        f"- {{name: Group, block: [{KILL}]}}\n",
        f"- {{name: Group, requires: [grafana], block: [{KILL}]}}\n",
        "- {name: Kill, loop: [api], service.kill: {service: '{{ item }}'}, register: killed}\n",
        f"- {KILL}\n- {{name: Name it, set: {{killed: '{{{{ killed.pid }}}}'}}}}\n",
    ],
)
def test_it_is_the_same_through_blocks_loops_and_set(foreign: Bench, readiness: Callable, first: str) -> None:
    text = readiness(first) + "  - {name: Later, steps: [{name: Use, assert: {that: killed.pid == 1}}]}\n"
    foreign.run(text)
    assert foreign.steps()["Use"].outcome is Outcome.NOT_APPLICABLE, foreign.steps()["Use"].message


def test_a_step_may_ask_whether_there_is_such_a_value(foreign: Bench, readiness: Callable) -> None:
    later = "  - {name: Later, steps: [{name: Ask, assert: {that: killed is not defined}}]}\n"
    assert foreign.run(readiness(f"- {KILL}\n") + later).outcome is Outcome.PASSED


def test_what_a_skipped_step_registers_is_missing_as_before(bench: Bench, readiness: Callable) -> None:
    steps = "- {name: A, when: 1 == 2, set: {b: 1}, register: a}\n- {name: Use, assert: {that: a.b == 1}}\n"
    assert bench.run(readiness(steps)).outcome is Outcome.FAILED


def test_a_section_whose_condition_builds_on_it_does_not_apply(foreign: Bench, readiness: Callable) -> None:
    text = readiness(f"- {KILL}\n")
    text += "  - {name: Later, when: killed.pid == 1, steps: [{name: Use, assert: {that: false}}]}\n"
    foreign.run(text)
    assert foreign.outcomes()["Use"] == "not_applicable"


def test_a_block_ends_with_its_fault_and_is_not_rescued(foreign: Bench, readiness: Callable) -> None:
    steps = f"""\
- name: Group
  block:
    - {{name: Before, assert: {{that: true}}}}
    - {KILL}
    - {{name: Effect, assert: {{that: false}}}}
  rescue: [{{name: Rescue, assert: {{that: true}}}}]
"""
    finished = foreign.run(readiness(steps))
    assert foreign.outcomes() == {
        "Before": "passed",
        "Kill the API": "not_applicable",
        "Effect": "not_applicable",
        "Group": "not_applicable",
    }
    assert finished.verdict.startswith('passed; not applicable: "Group" does not apply')


@pytest.mark.parametrize(
    "rescue",
    [
        "[{name: Start, service.start: {service: api}}]",
        "[{name: Say, manual.note: {text: It failed}}, {name: Kill, service.kill: {service: api}}]",
    ],
)
def test_a_rescue_that_does_not_apply_rescues_nothing(foreign: Bench, readiness: Callable, rescue: str) -> None:
    steps = f"- {{name: Group, block: [{{name: Wrong, assert: {{that: false}}}}], rescue: {rescue}}}\n"
    finished = foreign.run(readiness(steps))
    assert finished.outcome is Outcome.FAILED
    assert "its rescue does not apply" in foreign.steps()["Group"].message


def test_it_stays_so_in_a_resumed_run(foreign: Bench, readiness: Callable) -> None:
    from k2run.engine.run import resume

    text = readiness(f"- {KILL}\n")
    text += (
        "  - {name: Later, steps: [{name: Look, assert: {that: true}}, {name: Use, assert: {that: killed.pid == 1}}]}\n"
    )
    foreign.run(text)
    journal = foreign.store.find_run("last") / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    last = next(n for n, line in enumerate(lines) if '"step_finished"' in line and '"Look"' in line)
    journal.write_text("".join(lines[: last + 1]))
    foreign.seen.clear()
    resume(foreign.request(text), foreign.store.find_run("last"))
    assert foreign.steps()["Use"].outcome is Outcome.NOT_APPLICABLE


RECOVERY = """\
runbook: 1
kind: recovery
name: mend
title: Mend
symptoms: [{name: Ill, shell.probe: {command: "false"}}]
steady_state: [{name: Steady, assert: {that: true}}]
objective: {rto: 10s}
sections:
  - {name: Repair, steps: [{name: Start the API, service.start: {service: SERVICE}}]}
  - {name: Prove, clock: rto, steps: [{name: Write, shell.run: {command: touch MARKER}}]}
"""


def recovery(service: str, marker: str) -> str:
    text = RECOVERY.replace("SERVICE", service).replace("MARKER", marker)
    return text.replace('shell.probe: {command: "false"}', "assert: {that: false}")


def test_a_recovery_whose_repair_does_not_apply_proves_nothing(foreign: Bench) -> None:
    marker = foreign.folder / "written"
    finished = foreign.run(recovery("api", str(marker)))
    assert (finished.outcome, finished.exit_code) == (Outcome.NOT_APPLICABLE, 7)
    assert finished.verdict.startswith('not applicable: "Start the API" does not apply')
    assert not marker.exists()


def test_a_recovery_that_changed_nothing_says_so(sleepers: Bench) -> None:
    text = recovery("one", "x").replace("shell.run: {command: touch x}", "assert: {that: true}")
    finished = sleepers.run(text)
    assert (finished.outcome, finished.exit_code, finished.unchanged) == (Outcome.PASSED, 0, True)
    assert (finished.verdict, word_of(finished, None), tone_of(finished)) == (
        "changed nothing",
        "CHANGED NOTHING",
        "warn",
    )
    sleepers.processes()["one"].kill()
    changed = sleepers.run(text)
    assert (changed.verdict, changed.unchanged) == ("passed", False)


def test_a_probe_that_proves_a_recovery_is_no_repair(sleepers: Bench) -> None:
    import http.server
    import threading

    class Taking(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Taking)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    post = f"http.post: {{url: 'http://127.0.0.1:{server.server_port}/'}}"
    finished = sleepers.run(recovery("one", "x").replace("shell.run: {command: touch x}", post))
    assert (sleepers.outcomes()["Write"], finished.verdict, finished.unchanged) == ("passed", "changed nothing", True)
    server.shutdown()
    server.server_close()


def test_a_steady_state_that_does_not_apply_stops_no_clock(foreign: Bench) -> None:
    text = recovery("api", "x").replace("assert: {that: true}}]\nobj", "service.kill: {service: api}}]\nobj")
    text = text.replace("service.start: {service: api}", "set: {a: 1}").replace(
        "shell.run: {command: touch x}", "set: {b: 1}"
    )
    text = text.replace(
        "{name: Steady, service.kill: {service: api}}", "{name: Steady, requires: [grafana], assert: {that: true}}"
    )
    finished = foreign.run(text)
    assert finished.outcome is Outcome.FAILED
    assert "no step of the steady state applies to this stack" in finished.verdict


def test_every_output_says_the_same(foreign: Bench) -> None:
    assert foreign.stack_file
    foreign.write(scenario(f"- {KILL}"), "break")
    code, said = foreign.output("run", "break.yaml", "--stack", "stack.yaml", "--plain", "--junit")
    assert (code, "NOT APPLICABLE" in said, "PASSED" in said, "FAILED" in said) == (7, True, False, False)
    folder = foreign.store.find_run("last")
    for report in ("report.html", "report.md"):
        text = (folder / report).read_text()
        assert "NOT APPLICABLE" in text, report
        assert "FAILED" not in text, report
    junit = (folder / "junit.xml").read_text()
    assert ("<failure" in junit, "<skipped" in junit) == (False, True)
    code, said = foreign.output("run", "break.yaml", "--stack", "stack.yaml", "--json")
    assert (code, '"outcome":"not_applicable"' in said.splitlines()[-1]) == (7, True)


def test_restarts_that_cannot_be_known_are_unknown_and_no_warning(bench: Bench, readiness: Callable) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        ready = f"ready: {{tcp: '127.0.0.1:{server.getsockname()[1]}'}}"
        bench.stack_text = f"stack: 1\nname: far\nservices: {{api: {{run: external, {ready}}}}}\n"
        look = "{name: Look, service.status: {service: api}, severity: warning, "
        bench.run(readiness(f"- {look}expect: result.restarts == 0}}\n- {{name: Up, assert: {{that: true}}}}\n"))
        assert bench.outcomes()["Look"] == "unknown"
        assert "it cannot be known here: restarts" in bench.steps()["Look"].message
        bench.run(readiness(f"- {look}expect: result.running}}\n"))
        assert bench.outcomes()["Look"] == "passed"


def test_a_name_with_a_value_that_no_turn_gives_is_shown_without_its_template(
    foreign: Bench, readiness: Callable
) -> None:
    name = "Picture {{ one }} of {{ 1 + 1 }}"
    step = f"{{name: '{name}', when: killed.pid == 1, loop: [a], loop_var: one, assert: {{that: true}}}}"
    foreign.run(readiness(f"- {KILL}\n") + f"  - {{name: Later, steps: [{step}]}}\n")
    assert foreign.outcomes()["Picture … of 2"] == "not_applicable"
