"""How a run can be asked for: where it begins, what it only checks, who approves, which values it is given."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from k2run.actions.action import Answer, Person
from k2run.app.answers import ask_missing, read_inputs
from k2run.app.launch import parse_extra
from k2run.app.run_processes import Order, command_of, read_given
from k2run.engine.events import Answered, Outcome, StepFinished
from k2run.engine.run import resume
from k2run.engine.variables import recorded_extra, shown_extra
from k2run.errors import RunbookInvalid, UsageError
from k2run.stack.secrets import Reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Bench

THREE = """\
- {name: First, id: one, assert: {that: 1 == 1}}
- {name: Second, assert: {that: 2 == 2}}
- {name: Third, assert: {that: 3 == 3}}
"""
SECRET = "inputs: {token: {type: secret, default: env:K2RUN_TEST_TOKEN}, who: {type: string, required: true}}\n"


class Says(Person):
    """An operator who always gives the same answer."""

    def __init__(self, text: str) -> None:
        self._text = text

    def ask(self, question: str, **_: object) -> Answer:  # type: ignore[override]  # noqa: ARG002 - the form of a person
        return Answer(text=self._text, by="Ada")


@pytest.mark.parametrize("start", ["Second", "sections[0].steps[1]", "seco"])
def test_a_run_begins_at_a_step_and_says_so_of_those_before(bench: Bench, readiness: Callable, start: str) -> None:
    assert bench.run(readiness(THREE), start_at=start).exit_code == 0
    assert bench.outcomes() == {"First": "skipped", "Second": "passed", "Third": "passed"}


@pytest.mark.parametrize(("start", "said"), [("Thrid", "Third"), ("ir", "fits 2 steps")])
def test_a_step_to_begin_at_must_be_one(bench: Bench, readiness: Callable, start: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        bench.run(readiness(THREE), start_at=start)
    assert said in str(caught.value)


def test_a_check_resolves_every_step_and_calls_none(sleepers: Bench, readiness: Callable) -> None:
    marker = sleepers.folder / "made"
    steps = f"""\
    - {{name: Write, shell.run: {{command: touch {marker}}}, register: made}}
    - {{name: Use, when: made.exit_code == 0, assert: {{that: true}}}}
    - {{name: Look, service.status: {{service: one}}, expect: result.state == 'running'}}
    - {{name: Break, service.pause: {{service: one}}}}
    - {{name: Not here, service.status: {{service: three}}}}
    """
    finished = sleepers.run(readiness(steps), check="resolve")
    assert (finished.exit_code, marker.exists()) == (0, False)
    assert sleepers.steps()["Write"].message.startswith("would call shell.run(command=touch /")
    assert sleepers.steps()["Use"].message.startswith("known only in a run")
    assert sleepers.outcomes()["Not here"] == "not_applicable"
    assert sleepers.store.runs() == []
    sleepers.run(readiness(steps), check="probe")
    assert sleepers.outcomes()["Look"] == "passed"
    assert sleepers.outcomes()["Break"] == "skipped"


def test_a_check_fails_where_a_run_certainly_would(bench: Bench, readiness: Callable) -> None:
    steps = "- name: Wrong\n  vars: {x: [3]}\n  shell.run: {command: 'true', cwd: '{{ x }}'}\n"
    finished = bench.run(readiness(steps), check="resolve")
    assert finished.exit_code == 1
    assert '"Wrong" would fail' in finished.verdict


def test_a_step_that_needs_approval_is_refused_before_an_unattended_run(bench: Bench, readiness: Callable) -> None:
    steps = "- {name: Drop, approve: true, assert: {that: 1 == 1}}\n"
    with pytest.raises(UsageError, match="--yes"):
        bench.run(readiness(steps))
    assert bench.run(readiness(steps), yes=True).exit_code == 0
    with pytest.raises(UsageError, match=r"kafka\.delete_topic needs approval"):
        bench.run(readiness("- {kafka.delete_topic: {topic: trades}}\n"))
    assert bench.run(readiness("- {kafka.delete_topic: {topic: t}, approve: false}\n")).exit_code == 7


@pytest.mark.parametrize(("answer", "code"), [("yes", 0), ("no", 1)])
def test_a_person_approves_or_not_and_the_journal_has_the_name(
    bench: Bench, readiness: Callable, answer: str, code: int
) -> None:
    steps = "- {name: Drop, approve: true, assert: {that: 1 == 1}}\n"
    assert bench.run(readiness(steps), attended=True, person=Says(answer)).exit_code == code
    answered = next(event for event in bench.seen if isinstance(event, Answered))
    assert (answered.text if hasattr(answered, "text") else answered.answer, answered.by) == (answer, "Ada")


def test_a_runbook_about_absent_services_is_not_applicable(bench: Bench, readiness: Callable) -> None:
    finished = bench.run(readiness(THREE, "requires: [grafana]\n"))
    assert (finished.outcome, finished.exit_code) == (Outcome.NOT_APPLICABLE, 7)
    assert not [event for event in bench.seen if isinstance(event, StepFinished)]


def test_every_step_with_a_service_whose_program_is_not_here_is_not_applicable(
    bench: Bench, readiness: Callable
) -> None:
    bench.stack_text = """\
    stack: 1
    name: bare
    connections: {prometheus: {url: 'http://127.0.0.1:9'}}
    services: {prometheus: {run: process, command: [a], program: no-such-program, url: 'http://127.0.0.1:9'}}
    """
    steps = """\
    - {name: Other, assert: {that: true}}
    - {name: Required, requires: [prometheus], assert: {that: false}}
    - {name: Asked, prometheus.targets: {}}
    - {name: Fetched, http.get: {service: prometheus, path: /}}
    - {name: Seen, service.ready: {service: prometheus}}
    - {name: Started, service.start: {service: prometheus}}
    - {name: Broken, service.kill: {service: prometheus}}
    """
    for check in ("", "resolve", "probe"):
        finished = bench.run(readiness(steps), check=check)
        outcomes = bench.outcomes()
        outcomes.pop("Other")
        assert set(outcomes.values()) == {"not_applicable"}, (check, outcomes)
        assert finished.exit_code == 0


def test_a_secret_input_reaches_its_step_and_no_record(
    bench: Bench, readiness: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K2RUN_TEST_TOKEN", "hush-hush-token")
    steps = """\
    - {name: Use, shell.run: {command: "echo {{ token }}; echo {{ token }} | base64"}, register: out}
    - {name: Right, assert: {that: out.stdout | length > 30}}
    """
    text = readiness(steps, SECRET)
    finished = bench.run(text, extra={"who": "Ada"})
    assert finished.exit_code == 0, bench.steps()["Right"].message
    folder = bench.store.find_run("last")
    journal = (folder / "journal.jsonl").read_text()
    assert "hush" not in journal
    assert "aHVzaC1odXNoLXRva2V" not in journal
    lines = journal.splitlines(keepends=True)
    (folder / "journal.jsonl").write_text("".join(lines[:2]))
    bench.seen.clear()
    assert resume(bench.request(text), folder).exit_code == 0


def test_a_secret_given_by_hand_must_be_given_again_to_go_on(bench: Bench, readiness: Callable) -> None:
    text = readiness(THREE, "inputs: {token: {type: secret}}\n")
    bench.run(text, extra={"token": "by-hand-value"})
    folder = bench.store.find_run("last")
    journal = (folder / "journal.jsonl").read_text()
    assert "by-hand" not in journal
    (folder / "journal.jsonl").write_text("".join(journal.splitlines(keepends=True)[:2]))
    with pytest.raises(UsageError, match="give"):
        resume(bench.request(text), folder)
    assert resume(bench.request(text, extra={"token": "by-hand-value"}), folder).exit_code == 0


@pytest.mark.parametrize("text", ["cmd:touch PROOF; echo long-enough", "env:HOME", "file:PROOF", "keyring:a/b"])
def test_a_secret_is_read_from_a_place_that_an_operator_wrote_and_from_no_other(
    bench: Bench, readiness: Callable, tmp_path: Path, text: str
) -> None:
    text = text.replace("PROOF", str(tmp_path / "proof"))
    runbook = readiness(THREE, "inputs: {token: {type: secret}}\n")
    with pytest.raises(UsageError, match="the name of a place"):
        bench.run(runbook, extra={"token": text})
    assert not (tmp_path / "proof").exists()
    assert parse_extra([f"token={text}"]) == {"token": Reference(text)}


def test_what_a_program_hands_over_are_values_and_stand_on_no_command_line(tmp_path: Path) -> None:
    assert read_given(StringIO('{"token": "cmd:date", "count": "3"}')) == {"token": "cmd:date", "count": "3"}
    for text in ("[1]", "", '{"a": 1}', "{" * 9):
        with pytest.raises(UsageError, match="no values on standard input"):
            read_given(StringIO(text))
    order = Order(runbook=tmp_path, stack="", by="me", inputs={"a": "cmd:date", "b": 3, "c": Reference("env:KEY")})
    assert [word for word in command_of(order) if word.startswith("-e")] == ["-e=c=env:KEY"]


def test_a_place_that_an_operator_wrote_is_kept_with_the_run_and_read_again(
    bench: Bench, readiness: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("K2RUN_TEST_TOKEN", "hush-hush-token")
    text = readiness(THREE, "inputs: {token: {type: secret}}\n")
    given = parse_extra(["token=env:K2RUN_TEST_TOKEN"])
    assert bench.run(text, extra=given).exit_code == 0
    runbook = bench.request(text).runbook
    kept = shown_extra(runbook, {**given, "other": "x"})
    assert kept == {"token": "env:K2RUN_TEST_TOKEN", "other": "x"}
    assert recorded_extra(runbook, kept) == {**given, "other": "x"}
    assert shown_extra(runbook, {"token": "env:K2RUN_TEST_TOKEN"}) == {}, "a value is not kept, whatever it looks like"


def test_missing_inputs_are_asked_for_until_they_fit(bench: Bench, readiness: Callable) -> None:
    top = "inputs: {count: {type: integer, required: true}, key: {type: secret, required: true}, x: {default: a}}\n"
    runbook = bench.request(readiness(THREE, top)).runbook
    said = StringIO()
    values = ask_missing(runbook, {}, reads=StringIO("many\n7\n"), writes=said, hidden=lambda _: "quiet-key")
    assert values == {"count": "7", "key": "quiet-key"}
    assert "not of type integer" in said.getvalue()
    assert "quiet" not in said.getvalue()
    with pytest.raises(UsageError, match="no value"):
        ask_missing(runbook, {}, reads=StringIO(""), writes=said, hidden=lambda _: "quiet-key")


def test_inputs_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "inputs.yaml"
    file.write_text("count: 3\nwait: 5s\n")
    assert read_inputs(str(file)) == {"count": 3, "wait": "5s"}
    file.write_text("- 1\n")
    with pytest.raises(UsageError, match="not a mapping"):
        read_inputs(str(file))


def test_several_stacks_have_a_journal_each_and_one_summary(bench: Bench, readiness: Callable) -> None:
    path = bench.write(readiness("- {name: Name, assert: {that: stack.name == 'one'}}\n"))
    stacks = [bench.folder / f"{name}.yaml" for name in ("one", "two")]
    for stack in stacks:
        stack.write_text(f"stack: 1\nname: {stack.stem}\n")
    words = [word for stack in stacks for word in ("--stack", str(stack))]
    for at_once in ([], ["--at-once"]):
        code, out = bench.output("run", str(path), *words, "--plain", *at_once)
        assert code == 1, out
        summary = out.partition("=== all stacks")[2]
        assert "one.yaml  exit 0" in summary
        assert "two.yaml  exit 1" in summary
    assert len(bench.store.runs()) == 4


@pytest.mark.parametrize("at_once", [[], ["--at-once"]])
def test_several_stacks_as_json_are_one_event_a_line_each_with_its_stack(
    bench: Bench, readiness: Callable, at_once: list[str]
) -> None:
    path = bench.write(readiness("- {name: Name, assert: {that: stack.name == 'one'}}\n"))
    stacks = [str(bench.folder / f"{name}.yaml") for name in ("one", "two")]
    for stack in stacks:
        Path(stack).write_text(f"stack: 1\nname: {Path(stack).stem}\n")
    words = [word for stack in stacks for word in ("--stack", stack)]
    code, out = bench.output("run", str(path), *words, "--json", *at_once)
    assert code == 1, out
    events = [json.loads(line) for line in out.splitlines()]
    ended = {event["stack"]: event["outcome"] for event in events if event["event"] == "run_finished"}
    assert ended == {stacks[0]: "passed", stacks[1]: "failed"}


def test_a_delegated_step_sees_the_other_stack_and_only_it(sleepers: Bench, readiness: Callable) -> None:
    other = sleepers.folder / "other.yaml"
    other.write_text("stack: 1\nname: other\nvars: {colour: blue}\n")
    steps = f"""\
    - name: There
      delegate: {other}
      block:
        - {{name: Name, assert: {{that: [stack.name == 'other', stack.vars.colour == 'blue']}}}}
        - {{name: None here, service.status: {{service: one}}}}
    - {{name: Here, service.status: {{service: one}}, expect: stack.name == 'sleepers'}}
    """
    finished = sleepers.run(readiness(steps))
    assert finished.exit_code == 0, finished.verdict
    assert sleepers.outcomes() == {
        "Name": "passed",
        "None here": "not_applicable",
        "There": "passed",
        "Here": "passed",
    }


def test_a_fault_is_never_delegated(sleepers: Bench, readiness: Callable) -> None:
    other = sleepers.folder / "stacks" / "other.yaml"
    other.parent.mkdir()
    other.write_text("stack: 1\n")
    with pytest.raises(RunbookInvalid) as caught:
        sleepers.run(readiness("- {service.pause: {service: one}, delegate: other}\n"))
    [problem] = caught.value.problems
    assert problem.code == "K306"
    assert "cannot be delegated to other" in problem.message


@pytest.mark.parametrize("reference", ["nowhere", "stacks/nowhere.yaml"])
def test_a_stack_that_is_not_there_is_found_before_the_run(bench: Bench, readiness: Callable, reference: str) -> None:
    with pytest.raises(RunbookInvalid) as caught:
        bench.run(readiness(f"- {{name: Gone, when: 1 == 2, set: {{a: 1}}, delegate: {reference}}}\n"))
    [problem] = caught.value.problems
    assert (problem.code, problem.place.line) == ("K501", 8)
    assert reference in problem.message
