"""The promises of the engine, each with real processes, real signals and a real journal."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from killed_run import killed_at

from k2run.engine.events import FaultStruck, Outcome, RunFinished, StepFinished, UndoFinished, UndoPlanned
from k2run.engine.journal import Journal, read_journal
from k2run.engine.replay import pending_undos
from k2run.engine.run import resume, run
from k2run.engine.store import hold, holder
from k2run.errors import JournalLost, Protected, StackBusy, Unsettled, UsageError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Bench

SCENARIO = """\
runbook: 1
kind: scenario
name: hold
title: Two services are held
steady_state:
  - name: One runs
    service.status: {service: one}
    expect: result.state == 'running'
sections:
  - name: Break
    steps:
      - {name: Pause one, service.pause: {service: one}}
      - {name: Kill two, service.kill: {service: two}}
      - name: LAST
        shell.run: {command: COMMAND}
"""


def scenario(command: str, last: str = "Work") -> str:
    return SCENARIO.replace("COMMAND", json.dumps(command)).replace("LAST", last)


def state_of(bench: Bench) -> dict[str, str]:
    return {name: process.status() for name, process in bench.processes().items()}


def all_running(bench: Bench) -> bool:
    states = state_of(bench)
    return set(states) == {"one", "two"} and psutil.STATUS_STOPPED not in states.values()


def wait_for(holds: Callable[[], bool], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def wait_until_broken(bench: Bench, process: subprocess.Popen[str]) -> None:
    """Until `one` is paused and `two` is killed by the run in `process`; what it printed when that does not happen."""

    def broken() -> bool:
        states = state_of(bench)
        return states.get("one") == psutil.STATUS_STOPPED and "two" not in states

    try:
        wait_for(broken)
    except AssertionError:
        process.kill()
        pytest.fail(f"{state_of(bench)}\n{process.communicate()[0]}")


@pytest.mark.parametrize("command", ["true", "false"])
def test_faults_are_undone_newest_first_whether_the_run_passes_or_fails(sleepers: Bench, command: str) -> None:
    finished = sleepers.run(scenario(command))
    assert finished.exit_code == (0 if command == "true" else 1)
    undone = [event.says for event in sleepers.seen if isinstance(event, UndoFinished)]
    assert len(undone) == 2
    assert "two" in undone[0]
    assert "one" in undone[1]
    assert all_running(sleepers)


def test_an_undo_is_on_disk_before_its_fault_strikes(sleepers: Bench) -> None:
    sleepers.run(scenario("true"))
    kinds = [type(event) for event in sleepers.journal() if isinstance(event, UndoPlanned | FaultStruck)]
    assert kinds == [UndoPlanned, FaultStruck, UndoPlanned, FaultStruck]


def test_a_fault_is_told_by_the_name_that_its_step_has_in_this_run(sleepers: Bench) -> None:
    sleepers.run(scenario("true").replace("Pause one", '"Pause one of {{ stack.name }}"'))
    struck = [event.name for event in sleepers.seen if isinstance(event, FaultStruck)]
    assert struck == ["Pause one of sleepers", "Kill two"]


def test_a_step_that_does_what_an_undo_would_do_settles_it(sleepers: Bench) -> None:
    text = scenario("true").replace(
        "      - name: Work", "      - {name: Resume, service.resume: {service: one}}\n      - name: Work"
    )
    sleepers.run(text)
    settled = [event for event in sleepers.seen if isinstance(event, UndoFinished) and "one" in event.says]
    assert [event.by for event in settled] == ["sections[0].steps[2]"]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
)
def test_a_signal_ends_the_run_with_everything_undone(sleepers: Bench, number: signal.Signals) -> None:
    path = sleepers.write(scenario("sleep 60"))
    process = sleepers.command("run", str(path), "--stack", str(sleepers.stack_file), "--plain")
    wait_until_broken(sleepers, process)
    began = time.monotonic()
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 3, out
    assert time.monotonic() - began < 5
    assert all_running(sleepers)
    finished = sleepers.journal()[-1]
    assert isinstance(finished, RunFinished)
    assert finished.outcome is Outcome.INTERRUPTED
    assert "Traceback" not in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT, signal.SIGTERM])
def test_a_run_that_a_script_started_in_the_background_hears_what_ends_it(
    sleepers: Bench, number: signal.Signals
) -> None:
    path = sleepers.write(scenario("sleep 60"))
    ignoring = ["sh", "-c", "trap '' INT QUIT TERM; exec \"$@\"", "sh"]
    process = sleepers.command("run", str(path), "--stack", str(sleepers.stack_file), "--plain", before=ignoring)
    wait_until_broken(sleepers, process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 3, out
    assert all_running(sleepers)


def test_a_run_under_nohup_outlives_the_hangup_and_hears_the_other_signals(sleepers: Bench) -> None:
    marker = sleepers.folder / "go"
    path = sleepers.write(scenario(f"while [ ! -e {marker} ]; do sleep 0.05; done"))
    where = ("--stack", str(sleepers.stack_file), "--plain")
    process = sleepers.command("run", str(path), *where, before=["nohup"])
    wait_until_broken(sleepers, process)
    process.send_signal(signal.SIGHUP)
    marker.touch()
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0, out
    assert all_running(sleepers)
    marker.unlink()
    process = sleepers.command("run", str(path), *where, before=["nohup"])
    wait_until_broken(sleepers, process)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 3, out
    assert all_running(sleepers)


def test_after_a_kill_the_next_command_names_what_is_broken_and_undo_and_resume_settle_it(sleepers: Bench) -> None:
    marker = sleepers.folder / "go"
    path = sleepers.write(scenario(f"while [ ! -e {marker} ]; do sleep 0.05; done"))
    where = ("--stack", str(sleepers.stack_file), "--plain")
    process = sleepers.command("run", str(path), *where)
    wait_until_broken(sleepers, process)
    process.kill()
    process.wait()
    code, out = sleepers.output("status", "--stack", str(sleepers.stack_file))
    assert "one" in out
    assert "k2run undo" in out
    code, out = sleepers.output("run", str(path), *where)
    assert code == 6  # refused: the exit code of its own
    assert "without undoing" in out
    code, out = sleepers.output("undo")
    assert code == 0, out
    assert all_running(sleepers)
    marker.touch()
    code, out = sleepers.output("resume", "last", "--plain")
    assert code == 0, out
    assert all_running(sleepers)
    code, out = sleepers.output("resume", "last")
    assert code == 2
    assert "has ended" in out


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_run_killed_at_any_moment_can_be_settled(sleepers: Bench, seed: int) -> None:
    path = sleepers.write(scenario("sleep 0.3"))
    where = ("--stack", str(sleepers.stack_file), "--plain")
    process = sleepers.command("run", str(path), *where)
    time.sleep(random.Random(seed).uniform(0.2, 1.2))
    process.kill()
    process.wait()
    broken = not all_running(sleepers)
    _, said = sleepers.output("status", "--stack", str(sleepers.stack_file))
    assert ("k2run undo" in said) or not broken
    code, out = sleepers.output("undo")
    assert code == 0, out
    assert all_running(sleepers)
    code, out = sleepers.output("run", str(path), *where)
    assert code == 0, out


def test_resume_does_not_repeat_finished_steps_and_brings_back_what_they_registered(
    bench: Bench, readiness: Callable
) -> None:
    log, go = bench.folder / "log", bench.folder / "go"
    steps = f"""\
    - name: Once
      shell.run: {{command: "echo once >> {log}; echo 42"}}
      register: answer
    - name: Blocks
      shell.run: {{command: "while [ ! -e {go} ]; do sleep 0.05; done"}}
    - name: Uses it
      assert: {{that: answer.stdout == '42'}}
    """
    path = bench.write(readiness(steps))
    process = bench.command("run", str(path), "--stack", str(bench.stack_file), "--plain")
    wait_for(log.exists)
    time.sleep(0.2)
    process.kill()
    process.wait()
    go.touch()
    code, out = bench.output("resume", "last", "--plain")
    assert code == 0, out
    assert log.read_text() == "once\n"


def test_a_fault_that_was_undone_in_between_is_injected_again_on_resume(sleepers: Bench) -> None:
    go = sleepers.folder / "go"
    request = sleepers.request(scenario(f"test -e {go}", last="Needs it"))
    first = run(request)
    assert first.exit_code == 1
    journal = sleepers.store.find_run("last") / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    last_undo = max(number for number, line in enumerate(lines) if '"undo_finished"' in line)
    journal.write_text("".join(lines[: last_undo + 1]))
    go.touch()
    sleepers.seen.clear()
    finished = resume(request, journal.parent)
    assert finished.exit_code == 0
    assert sum(isinstance(event, FaultStruck) for event in sleepers.seen) == 2


def test_one_run_at_a_time_holds_a_stack_and_the_other_is_told_which(bench: Bench) -> None:
    with hold(bench.store.stack_folder("none"), "none", "run-1"):
        assert holder(bench.store.stack_folder("none")).startswith("run-1")
        with pytest.raises(StackBusy, match="run-1"), hold(bench.store.stack_folder("none"), "none", "run-2"):
            pass
    assert holder(bench.store.stack_folder("none")) == ""


def test_a_new_run_refuses_to_start_on_a_stack_that_was_left_broken(sleepers: Bench) -> None:
    request = sleepers.request(scenario("true"))
    folder = sleepers.store.new_run("dead", "")
    journal = Journal(folder)
    journal.record(
        UndoPlanned(undo="undo-1", step="s", action="service.resume", args={"service": "one"}, says="resume one")
    )
    sleepers.store.stack_folder("sleepers").mkdir(parents=True, exist_ok=True)
    sleepers.store.mark_open("sleepers", folder.name)
    with pytest.raises(Unsettled, match="resume one"):
        run(request)


def test_a_protected_stack_refuses_faults_unless_the_runbook_is_allowed_by_name(sleepers: Bench) -> None:
    sleepers.stack_text = sleepers.stack_text.replace("name: sleepers", "name: sleepers\nprotected: true")
    with pytest.raises(Protected, match=r"runbook\.yaml:12:\d+: service\.pause"):
        sleepers.run(scenario("true"))
    sleepers.stack_text = sleepers.stack_text.replace("protected: true", "protected: true\nallow: [hold]")
    assert sleepers.run(scenario("true")).exit_code == 0


@pytest.mark.parametrize("faults", ["[]", "[service.kill, 'network.*']"])
def test_a_stack_refuses_faults_that_it_does_not_declare_whatever_else_it_allows(sleepers: Bench, faults: str) -> None:
    declared = f"name: sleepers\nallow: [hold]\nfaults: {faults}"
    sleepers.stack_text = sleepers.stack_text.replace("name: sleepers", declared)
    with pytest.raises(Protected, match=r"runbook\.yaml:12:\d+: service\.pause is not allowed: the stack") as caught:
        sleepers.run(scenario("true"))
    assert "`faults:` says what it allows" in caught.value.hint
    assert str(sleepers.folder) in caught.value.message
    assert sleepers.store.runs() == []
    sleepers.stack_text = sleepers.stack_text.replace(faults, "['service.*']")
    assert sleepers.run(scenario("true")).exit_code == 0


WRITES = [
    "kafka.produce: {topic: t, values: [a]}",
    "bench.produce: {topic: t, size: 1KiB}",
    "iceberg.append: {table: t, rows: [{a: 1}]}",
    "s3.put: {bucket: b, key: k, text: x}",
    "http.post: {url: 'http://127.0.0.1:9/'}",
    "schema_registry.register: {subject: s, schema: '{}'}",
]


@pytest.mark.parametrize("write", WRITES)
def test_a_protected_stack_refuses_changes_of_its_data(bench: Bench, readiness: Callable, write: str) -> None:
    bench.stack_text = "stack: 1\nname: live\nprotected: true\n"
    with pytest.raises(Protected, match=r"changes data; the stack 'live' is protected") as caught:
        bench.run(readiness(f"- {{name: Group, block: [{{name: Write, {write}}}]}}\n"))
    assert "allow" not in caught.value.hint.replace("allows", "")
    bench.stack_text += "allow: [test]\n"
    assert bench.run(readiness(f"- {{name: Write, {write}}}\n")).outcome is not None


def test_a_protected_stack_refuses_them_from_runs_on_other_stacks(bench: Bench, readiness: Callable) -> None:
    (bench.folder / "stacks").mkdir()
    (bench.folder / "stacks" / "live.yaml").write_text("stack: 1\nname: live\nprotected: true\n")
    write = "http.post: {url: 'http://127.0.0.1:9/'}"
    finished = bench.run(readiness(f"- {{name: Write, {write}, delegate: live}}\n"))
    assert (finished.exit_code, bench.outcomes()) == (1, {"Write": "failed"})
    assert "changes data; the stack 'live' is protected" in bench.steps()["Write"].message


def test_looking_at_a_protected_stack_is_free(bench: Bench, readiness: Callable) -> None:
    bench.stack_text = "stack: 1\nname: live\nprotected: true\n"
    assert bench.run(readiness("- {name: Look, assert: {that: true}}\n")).exit_code == 0


def test_nothing_is_broken_when_the_stack_is_not_steady(sleepers: Bench) -> None:
    text = scenario("true").replace("result.state == 'running'", "result.state == 'flying'")
    finished = sleepers.run(text)
    assert finished.exit_code == 1
    assert not [event for event in sleepers.seen if isinstance(event, FaultStruck)]
    assert "nothing was broken" in finished.verdict


def test_always_runs_after_a_failure(sleepers: Bench) -> None:
    text = scenario("false") + "always:\n  - {name: Tidy up, assert: {that: true}}\n"
    sleepers.run(text)
    assert sleepers.outcomes()["Tidy up"] == "passed"


def test_a_failure_ends_a_scenario_and_the_steps_after_it_are_named(sleepers: Bench) -> None:
    text = scenario("false") + "      - {name: After, assert: {that: true}}\n"
    sleepers.run(text)
    assert sleepers.steps()["After"].message == 'not reached: "Work" failed'


def test_the_recovery_clock_runs_from_the_fault_until_the_steady_state_holds(sleepers: Bench) -> None:
    text = scenario("sleep 0.5").replace("title:", "objective: {rto: 5s}\ntitle:") + (
        "  - name: Recover\n    clock: rto\n    steps:\n      - {name: Go on, service.resume: {service: one}}\n"
    )
    finished = sleepers.run(text)
    clock = next(event for event in sleepers.seen if type(event).__name__ == "ClockStopped")
    assert finished.exit_code == 0
    assert 0.5 < clock.seconds < 3
    assert clock.error == pytest.approx(0.125)
    assert "Steady state again" in [getattr(event, "name", "") for event in sleepers.seen]


def test_a_promise_that_was_not_measured_is_not_kept(sleepers: Bench) -> None:
    finished = sleepers.run(scenario("true").replace("title:", "objective: {rpo: 0}\ntitle:"))
    assert finished.exit_code == 1
    assert "not measured" in finished.verdict


# --- the journal ---


def test_a_torn_last_line_is_left_out_and_cut_before_a_resume(bench: Bench, readiness: Callable) -> None:
    bench.run(readiness("- {name: A, assert: {that: true}}\n"))
    path = bench.store.find_run("last") / "journal.jsonl"
    whole = read_journal(path)
    with path.open("a") as file:
        file.write('{"event":"step_fin')
    assert read_journal(path) == whole


def test_a_journal_that_was_changed_by_hand_is_refused_with_the_line(bench: Bench, readiness: Callable) -> None:
    bench.run(readiness("- {name: A, assert: {that: true}}\n"))
    path = bench.store.find_run("last") / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "nonsense\n", *lines[1:]]))
    with pytest.raises(UsageError, match=r":2 is not an event"):
        read_journal(path)


def test_a_full_disk_ends_the_run_and_undoes_what_was_broken(sleepers: Bench) -> None:
    request = sleepers.request(scenario("sleep 0.1"))
    real = os.write

    class Disk:
        full = False

        def see(self, event: object) -> None:
            if isinstance(event, FaultStruck) and not Disk.full:
                Disk.full = True

    def write(file: int, line: bytes) -> int:
        if Disk.full:
            raise OSError(28, "No space left on device")
        return real(file, line)

    os.write = write
    try:
        request = type(request)(
            **{name: getattr(request, name) for name in request.__struct_fields__ if name != "observers"},
            observers=(Disk(), sleepers),
        )
        finished = run(request)
    finally:
        os.write = real
    assert finished.exit_code == 1
    assert "No space left" in finished.verdict
    assert all_running(sleepers)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes in read-only folders too")
def test_a_read_only_folder_is_a_message(bench: Bench, readiness: Callable) -> None:
    home = bench.folder / "home"
    home.mkdir()
    home.chmod(0o500)
    with pytest.raises(JournalLost, match="cannot write"):
        bench.run(readiness("- {name: A, assert: {that: true}}\n"))


def test_a_home_that_is_a_file_is_a_message_and_no_traceback(bench: Bench, readiness: Callable) -> None:
    (bench.folder / "home").write_text("not a folder")
    path = bench.write(readiness("- {name: A, assert: {that: true}}\n"))
    code, out = bench.output("run", str(path), "--stack", str(bench.stack_file))
    assert code == 5
    assert "cannot write in" in out
    assert "Traceback" not in out


def test_pending_undos_are_read_from_the_journal_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in (1, 2):
        journal.record(UndoPlanned(undo=f"u{number}", step="s", action="a.b", args={}, says=f"undo {number}"))
    journal.record(UndoFinished(undo="u2", says="undo 2", outcome=Outcome.PASSED))
    journal.record(UndoFinished(undo="u1", says="undo 1", outcome=Outcome.FAILED))
    assert [entry.undo for entry in pending_undos(read_journal(tmp_path))] == ["u1"]


def test_secrets_never_land_in_the_journal(bench: Bench, readiness: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K2RUN_TEST_SECRET", "tops3cret-value")
    bench.stack_text = "stack: 1\nname: none\nvars: {key: 'env:K2RUN_TEST_SECRET'}\n"
    steps = "- name: Leak\n  shell.run: {command: 'echo {{ stack.vars.key }}'}\n  register: leak\n"
    bench.run(readiness(steps))
    text = (bench.store.find_run("last") / "journal.jsonl").read_text()
    assert "tops3cret" not in text
    assert "tops3cret" not in "".join(repr(event) for event in bench.seen)
    assert next(event for event in bench.seen if isinstance(event, StepFinished)).outcome is Outcome.PASSED


def test_a_scenario_whose_steady_state_cannot_be_checked_here_breaks_nothing(sleepers: Bench) -> None:
    seen = "    service.status: {service: one}\n    expect: result.state == 'running'\n"
    assert seen in scenario("true")
    finished = sleepers.run(scenario("true").replace(seen, "    service.status: {service: onne}\n"))
    assert finished.outcome is Outcome.NOT_APPLICABLE
    assert not [event for event in sleepers.seen if isinstance(event, FaultStruck)]
    assert all_running(sleepers)


def test_a_run_that_is_under_way_is_called_running_and_a_dead_one_not_finished(sleepers: Bench) -> None:
    runbooks = sleepers.folder / "runbooks"
    runbooks.mkdir()
    path = runbooks / "it.yaml"
    path.write_text(scenario("sleep 600"))
    earlier = sleepers.write(scenario("true"), "earlier")
    assert sleepers.output("run", str(earlier), "--stack", str(sleepers.stack_file), "--plain")[0] == 0
    [first] = sleepers.store.runs()
    process = sleepers.command("run", str(path), "--stack", str(sleepers.stack_file), "--plain")
    wait_until_broken(sleepers, process)
    report = sleepers.store.find_run("last") / "report.md"
    for words in (("history",), ("list",), ("compare", first.name, "last")):
        assert "running" in sleepers.output(*words)[1], words
    assert sleepers.output("report")[0] == 0
    assert "**RUNNING**: this is what it has done so far" in report.read_text()
    process.kill()
    process.wait()
    for words in (("history",), ("list",)):
        assert "did not end" in sleepers.output(*words)[1], words
    assert sleepers.output("report")[0] == 0
    assert "**NOT FINISHED**" in report.read_text()
    assert sleepers.output("undo")[0] == 0


@pytest.mark.parametrize("asked_up", [False, True])
def test_a_resumed_run_takes_down_what_it_had_started_unless_it_was_asked_up_since(
    bench: Bench, asked_up: bool
) -> None:
    sleeper = "{run: process, command: [sleep, '600']}"
    bench.stack_text = f"stack: 1\nname: sleepers\nservices:\n  one: {sleeper}\n  two: {sleeper}\n"
    path = bench.write(scenario("true"))
    assert killed_at(6, path, stack_file=bench.stack_file, home=bench.store.home)
    assert bench.processes()
    where = ("--stack", str(bench.stack_file))
    try:
        if asked_up:
            assert bench.output("up", *where)[0] == 0
        code, out = bench.output("resume", "last", "--plain")
        assert code == 0, out
        assert bool(bench.processes()) is asked_up
    finally:
        bench.output("down", *where)


def test_a_name_that_is_nearly_a_service_is_told_with_the_service_where_it_does_not_apply(sleepers: Bench) -> None:
    sleepers.run(scenario("true").replace("service.status: {service: one}", "service.status: {service: ones}"))
    assert "has no service 'ones'; did you mean `one`?" in sleepers.steps()["One runs"].message
    sleepers.run(scenario("true").replace("name: One runs\n", "name: One runs\n    requires: ones\n"))
    assert "has no ones; did you mean `one`?" in sleepers.steps()["One runs"].message


def test_after_down_undo_starts_nothing_and_resume_does_every_step_again(sleepers: Bench) -> None:
    marker, log = sleepers.folder / "go", sleepers.folder / "log"
    text = scenario(f"while [ ! -e {marker} ]; do sleep 0.05; done")
    first = f"      - {{name: Find, shell.run: {{command: echo found >> {log}}}}}\n"
    text = text.replace("    steps:\n", f"    steps:\n{first}", 1)
    path = sleepers.write(text)
    where = ("--stack", str(sleepers.stack_file))
    process = sleepers.command("run", str(path), *where, "--plain")
    wait_until_broken(sleepers, process)
    process.kill()
    process.wait()
    assert sleepers.output("down", *where)[0] == 0
    code, out = sleepers.output("undo")
    assert code == 0, out
    assert sleepers.processes() == {}
    assert "service.start" not in out
    marker.touch()
    code, out = sleepers.output("resume", "last", "--plain")
    assert code == 0, out
    assert log.read_text().split() == ["found", "found"]
    assert "0 steps" in out
