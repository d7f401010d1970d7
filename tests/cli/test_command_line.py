"""The command line as a person meets it: what is printed, and the exit code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from wheel_programs import free_ports

BIN = Path(sys.executable).parent
NONE = "stack: 1\nname: none\n"


class Shell:
    """A folder with a home of its own, and commands in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.write("stack.yaml", NONE)

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(textwrap.dedent(text))
        return name

    def __call__(self, *words: str) -> tuple[int, str]:
        done = subprocess.run(
            [str(BIN / "k2run"), *words],
            cwd=self.folder,
            env={**os.environ, "K2RUN_HOME": str(self.home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stdout, done.stdout
        return done.returncode, done.stdout

    def run(self, text: str, *words: str) -> tuple[int, str]:
        return self("run", self.write("it.yaml", text), "--stack", "stack.yaml", "--plain", *words)


@pytest.fixture
def k2run(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def readiness(*steps: str) -> str:
    return "runbook: 1\nkind: readiness\nname: it\ntitle: It\nsections:\n  - name: S\n    steps:\n" + "".join(
        f"      - {step}\n" for step in steps
    )


def test_a_service_whose_program_is_not_here_is_left_out_by_up_and_status(k2run: Shell) -> None:
    web = "{run: process, command: [sleep, '600'], program: PROGRAM, url: 'http://127.0.0.1:9'}"
    services = f"services:\n  graphs: {web.replace('PROGRAM', 'no-such')}\n  it: {web.replace('PROGRAM', 'sleep')}\n"
    k2run.write("bare.yaml", f"stack: 1\nname: bare\n{services}")
    try:
        code, said = k2run("up", "--stack", "bare.yaml")
        assert code == 0
        assert "not applicable: no-such is not installed" in said
        assert [line.split()[0] for line in said.splitlines() if "http://" in line] == ["it"]
        code, said = k2run("status", "--stack", "bare.yaml")
        assert (code, "not applicable" in said) == (0, True)
    finally:
        k2run("down", "--stack", "bare.yaml")


@pytest.mark.parametrize("folder", ["stacks", "runbooks/stacks"])
def test_status_and_diagnose_take_the_only_stack_here(k2run: Shell, folder: str) -> None:
    (k2run.folder / folder).mkdir(parents=True)
    k2run.write(f"{folder}/mine.yaml", "stack: 1\nname: mine\ntitle: My stack\n")
    assert "My stack" in k2run("status")[1]
    assert "mine is healthy" in k2run("diagnose")[1]
    k2run.write(f"{folder}/other.yaml", "stack: 1\nname: other\n")
    code, said = k2run("status")
    assert code == 2
    assert "there are 2 stacks here, and none was chosen" in said
    assert "mine, other" in said
    k2run.write(f"{folder}/sandbox.yaml", "stack: 1\nname: sandbox\ntitle: Their own sandbox\n")
    assert "Their own sandbox" in k2run("status")[1]


@pytest.mark.parametrize("option", ["--tags", "--skip-tags"])
def test_a_tag_that_no_step_has_is_refused_with_the_nearest_one(k2run: Shell, option: str) -> None:
    text = readiness("{name: A, tags: [quick], assert: {that: true}}", "{name: B, assert: {that: true}}")
    code, said = k2run.run(text, option, "quik")
    assert code == 2
    assert f"{option}: no step of it has the tag 'quik'" in said
    assert "did you mean `quick`?" in said
    assert not list((k2run.folder / "home").rglob("journal.jsonl"))


def test_a_refused_start_has_an_exit_code_of_its_own(k2run: Shell) -> None:
    k2run.write("stack.yaml", f"{NONE}protected: true\nservices: {{it: {{run: process, command: [sleep, '600']}}}}\n")
    code, said = k2run.run(readiness("{name: A, service.kill: {service: it}}"))
    assert code == 6
    assert "is protected" in said


TEN_MISTAKES = """\
runbook: 1
kind: raediness
name: ten
title: Ten mistakes
objective: {within: 12}
sections:
  - name: S
    steps:
      - kafka.lagg: {topic: t, group: g}
      - kafka.lag: {topic: t, grup: g}
      - wait: {for: soon}
      - assert: {that: 1 ==}
      - assert: {that: backlog > 3}
      - {name: Both, wait: {for: 1s}, set: {a: 1}}
      - {name: Sure, assert: {that: true}, severity: fatal}
      - shell.run: {command: "true"}
        register: done
      - assert: {that: done.exitcode == 0}
"""
PLACES = [(2, 7), (5, 21), (9, 9), (10, 31), (11, 21), (12, 28), (13, 23), (14, 39), (15, 54), (18, 29)]


def test_ten_mistakes_are_ten_problems_each_at_its_own_place(k2run: Shell) -> None:
    code, out = k2run("validate", k2run.write("ten.yaml", TEN_MISTAKES))
    assert code == 2
    found = [line.split(":")[1:3] for line in out.splitlines() if line.startswith("ten.yaml:")]
    assert len(found) >= 10, out
    assert {int(line) for line, _ in found} == {line for line, _ in PLACES}, out
    assert "did you mean `readiness`?" in out
    assert "did you mean `kafka.lag`?" in out


def test_a_run_of_a_wrong_runbook_does_nothing_and_exits_with_two(k2run: Shell) -> None:
    code, out = k2run.run(readiness("{name: A, asert: {that: true}}"))
    assert code == 2
    assert "did you mean `assert`?" in out
    assert not (k2run.folder / "home" / "runs").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runbook: 1\n\tkind: readiness\n", "tab"),
        ("runbook: 1\nrunbook: 1\n", "duplicate key `runbook`"),
        ("", "empty"),
        ("runbook: [1\n", ""),
        ("- a\n- b\n", ""),
    ],
)
def test_malformed_yaml_is_a_problem_with_its_place(k2run: Shell, text: str, said: str) -> None:
    code, out = k2run.run(text)
    assert code == 2
    assert "it.yaml:" in out
    assert said in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "there is no command 'nonsense'"),
        (["validat"], "did you mean `validate`?"),
        (["--help", "nonsense"], "there is no command 'nonsense'"),
        (["run"], "`run` needs 'runbook'"),
        (["run", "--foo"], "`run` has no option --foo"),
        (["run", "x", "--tags"], "--tags needs a value"),
        (["run", "x", "y"], "unexpected 'y'"),
        (["run", "--check", "x"], "'x' follows an option that may take a value"),
        (["status", "--json=yes"], "--json takes no value"),
        (["--pty", "run", "x"], "k2run has no option --pty"),
        (["run", "x", "--prompt-for-sudo-password"], "`run` has no option --prompt-for-sudo-password"),
        (["--print-completion-script=bash"], "k2run has no option --print-completion-script"),
        (["-e", "a=b", "run", "x"], "-e comes after the command"),
        (["-T", "abc", "run", "x"], "-T has no effect on a runbook"),
        (["baseline", "foo"], "unknown baseline command: foo"),
        (["history", "--last", "-3"], "--last -3: expected a whole number, 0 or more"),
        (["history", f"--last={10**30}"], "expected a whole number"),
        (["run", "missing.yaml"], "there is no runbook 'missing.yaml'"),
        (["run", "api-failing"], "choose one: recovery/api-failing, scenarios/api-failing"),
        (["run", "elsewhere/api-failing"], "there is no runbook 'elsewhere/api-failing'"),
        (["resume", "last"], "there is no run 'last'"),
        (["status", "--stack", "nowhere"], "there is no stack 'nowhere'"),
        (["doc", "kafka.lagg"], "did you mean `kafka.lag`?"),
        (["validate", "no-such-folder"], "there is no file no-such-folder"),
        (["logs", "consumer", "--lines", "abc"], "--lines abc: expected a whole number"),
        (["history", "--last=abc"], "--last abc: expected a whole number"),
        (["serve", "--port", "99999999"], "--port 99999999: not a port number"),
        (["drill", "--rounds", "0"], "at least one round, not 0"),
        (["graph", "api-crash", "--output", "/nosuch/a.svg"], "/nosuch/a.svg: No such file or directory"),
        (["graph", "api-crash", "--output", "/etc"], "/etc: Is a directory"),
        (["publish", "--stack", "stack.yaml"], "has no iceberg connection"),
        (["graph", "api-crash", "--output", "a.pdf"], "cannot draw .pdf"),
        (["graph", "api-crash", "--svg", "--output", "a.md"], "cannot draw .md with --svg"),
        (["recover", "api-dwn"], "did you mean `api-down`?"),
        (["recover", "api-down"], "guided recovery needs an interactive terminal"),
        (["validate", "api-crsh"], "did you mean `api-crash`?"),
        (["backup"], "run it first: `k2run run demo-day`"),
    ],
)
def test_a_command_that_makes_no_sense_exits_with_two_and_says_why(k2run: Shell, words: list[str], said: str) -> None:
    code, out = k2run(*words)
    assert code == 2
    assert said in out


def test_validate_and_lint_take_names_as_run_does(k2run: Shell) -> None:
    for words in (["validate", "api-crash"], ["lint", "api-crash"], ["validate", "sandbox"]):
        code, out = k2run(*words)
        assert (code, "1 file checked" in out) == (0, True), out


def test_a_service_that_cannot_start_keeps_the_others_from_being_waited_for(k2run: Shell) -> None:
    fails = "{run: process, command: [sh, -c, 'sleep 0.5; echo no program; exit 3'], ready: {tcp: '127.0.0.1:1'}}"
    waits = "{run: process, command: [sleep, '600'], ready: {tcp: '127.0.0.1:2', within: 40s}}"
    k2run.write("stack.yaml", f"stack: 1\nname: s\nservices:\n  a: {waits}\n  b: {fails}\n")
    began = time.monotonic()
    code, out = k2run("up", "--stack", "stack.yaml")
    assert (code, "no program" in out) == (5, True), out
    assert time.monotonic() - began < 30
    assert k2run("down", "--stack", "stack.yaml")[1].startswith("no service of s was up")


def test_up_says_that_the_runbook_of_the_data_path_is_missing(k2run: Shell) -> None:
    k2run.write(
        "stack.yaml",
        "stack: 1\nname: s\ndata_path: gone.yaml\nservices:\n  a: {run: process, command: [sleep, '600']}\n",
    )
    try:
        code, out = k2run("up", "--stack", "stack.yaml")
        assert (code, "gone.yaml, which `data_path` names" in out, "k2run validate stack.yaml" in out) == (
            0,
            True,
            True,
        )
    finally:
        k2run("down", "--stack", "stack.yaml")


def test_a_path_is_no_url_to_be_ready_at(k2run: Shell) -> None:
    service = "{run: process, command: [sleep, '600'], url: 'http://127.0.0.1:9000', ready: {http: /health}}"
    k2run.write("stack.yaml", f"stack: 1\nname: s\nservices:\n  a: {service}\n")
    code, out = k2run("up", "--stack", "stack.yaml")
    assert (code, "`ready: {http: /health}` is no URL" in out, "http://127.0.0.1:9000/health" in out) == (2, True, True)


def test_one_step_is_not_told_as_steps(k2run: Shell) -> None:
    code, out = k2run.run(readiness("shell.run: {command: 'true'}"), "--check")
    assert (code, "checked: 1 step would run" in out) == (0, True), out


def test_what_the_machine_does_not_give_exits_with_five_and_says_why(k2run: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, out = k2run("serve", "--port", port)
        assert (code, "cannot listen on 127.0.0.1:" in out) == (5, True), out
    catalog = f"connections: {{iceberg: {{uri: 'http://127.0.0.1:{port}', type: rest}}}}\n"
    k2run.write("away.yaml", f"stack: 1\nname: away\n{catalog}")
    code, out = k2run("publish", "--stack", "away.yaml")
    assert (code, f"127.0.0.1:{port}" in out) == (5, True), out
    k2run.write("file", "no folder")
    k2run.home = k2run.folder / "file" / "home"
    code, out = k2run.run(readiness("{name: A, assert: {that: true}}"))
    assert (code, "cannot write in" in out) == (5, True), out


def test_a_failed_step_shows_cause_and_exits_with_one(k2run: Shell) -> None:
    code, out = k2run.run(readiness("{name: Sum, assert: {that: 1 + 1 == 3}, on_failure: Learn to count}"))
    assert code == 1
    assert "expected 1 + 1 == 3" in out
    assert "Learn to count" in out


IGNORING = """\
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # what it starts inherits this
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_failed_commands_fail_also_where_the_end_of_children_was_to_be_ignored(k2run: Shell) -> None:
    runbook = k2run.write("it.yaml", readiness("shell.run: {command: exit 3}", "shell.run: {command: exit 4, cwd: /}"))
    done = subprocess.run(
        [sys.executable, "-c", IGNORING, BIN / "k2run", "run", runbook, "--stack", "stack.yaml", "--plain"],
        cwd=k2run.folder,
        env={**os.environ, "K2RUN_HOME": str(k2run.folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "exited 3" in done.stdout
    assert "exited 4" in done.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_run_whose_standard_streams_are_closed_runs_to_its_end(k2run: Shell, closed: str) -> None:
    runbook = k2run.write("it.yaml", readiness("shell.run: {command: 'echo out; echo err >&2; exit 3'}"))
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", BIN / "k2run", "run", runbook, "--stack", "stack.yaml"],
        cwd=k2run.folder,
        env={**os.environ, "K2RUN_HOME": str(k2run.folder / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    [journal] = (k2run.folder / "home").rglob("journal.jsonl")
    assert "exited 3: err" in journal.read_text()


def test_json_is_one_event_a_line(k2run: Shell) -> None:
    k2run.write("it.yaml", readiness("{name: A, assert: {that: true}}"))
    done = subprocess.run(
        [str(BIN / "k2run"), "run", "it.yaml", "--json", "--stack", "stack.yaml"],
        cwd=k2run.folder,
        env={**os.environ, "K2RUN_HOME": str(k2run.folder / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    kinds = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert kinds[0] == "run_started"
    assert kinds[-1] == "run_finished"


def test_a_taken_port_names_its_holder_and_exits_with_five(k2run: Shell) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        k2run.write(
            "stack.yaml",
            f"stack: 1\nname: s\nservices: {{a: {{run: process, command: [sleep, '9'], ports: [{port}]}}}}\n",
        )
        code, out = k2run("up", "--stack", "stack.yaml")
    assert code == 5
    assert str(port) in out
    assert str(os.getpid()) in out


def test_a_service_that_dies_at_its_start_is_told_with_its_last_words(k2run: Shell) -> None:
    start = "command: [sh, -c, 'echo no such volume; exit 3'], ready: {tcp: '127.0.0.1:1'}"
    stack = f"stack: 1\nname: s\nservices: {{a: {{run: process, {start}}}}}\n"
    k2run.write("stack.yaml", stack)
    code, out = k2run.run(readiness("{name: A, service.status: {service: a}}"))
    assert code == 5
    assert "no such volume" in out


def test_up_status_logs_and_down_of_a_stack(k2run: Shell) -> None:
    k2run.write(
        "stack.yaml",
        "stack: 1\nname: s\nservices: {a: {run: process, command: [sh, -c, 'echo hello; exec sleep 60']}}\n",
    )
    where = ("--stack", "stack.yaml")
    assert k2run("status", *where)[0] == 1
    assert k2run("up", *where)[0] == 0
    code, out = k2run("status", *where)
    assert (code, "running" in out) == (0, True)
    assert "hello" in k2run("logs", "a", *where)[1]
    assert k2run("down", *where)[0] == 0
    assert k2run("status", *where)[0] == 1


def test_up_names_services_that_had_ended_without_down(k2run: Shell) -> None:
    serves = "{{run: process, command: [python, -m, http.server, '{0}'], ready: {{tcp: '127.0.0.1:{0}'}}}}"
    services = "".join(f"  {name}: {serves.format(port)}\n" for name, port in zip("abc", free_ports(3), strict=True))
    job = "  job: {run: process, command: [sleep, '600']}\n"
    k2run.write("stack.yaml", f"stack: 1\nname: s\nservices:\n{services}{job}")
    where = ("--stack", "stack.yaml")
    assert "had ended" not in k2run("up", *where)[1]
    found = json.loads(k2run("status", "--json", *where)[1])["services"]
    for row in found:
        if row["service"] != "c":
            os.kill(row["pid"], signal.SIGKILL)
    code, out = k2run("up", *where)
    assert (code, "had ended without `k2run down`: a, b;" in out) == (0, True), out
    assert k2run("down", *where)[0] == 0
    assert "had ended" not in k2run("up", *where)[1]
    assert k2run("down", *where)[0] == 0


def test_history_and_trend_refuse_a_name_that_is_none_and_say_that_there_are_no_runs_yet(k2run: Shell) -> None:
    (k2run.folder / "runbooks").mkdir()
    text = readiness("{name: A, assert: {that: true}}").replace("name: test", "name: morning", 1)
    k2run.write("runbooks/first.yaml", text)
    name = next(line.split()[-1] for line in text.splitlines() if line.startswith("name:"))
    for command in ("history", "trend"):
        code, said = k2run(command, "--runbook", name)
        assert (code, f"no runs of {name} yet" in said) == (0, True), said
        code, said = k2run(command, "--runbook", f"{name}x")
        assert (code, f"did you mean `{name}`?" in said) == (2, True), said
        code, said = k2run(command, "--stack", "sandbx")
        assert (code, "did you mean `sandbox`?" in said) == (2, True), said
        assert "no runs yet" in k2run(command)[1]
    assert k2run("run", "first", "--stack", "stack.yaml", "--plain")[0] == 0
    assert name in k2run("history", "--runbook", name, "--stack", "none")[1]
    assert "no runs on sandbox yet" in k2run("history", "--stack", "sandbox")[1]


def test_list_shows_runbooks_with_their_last_verdict(k2run: Shell) -> None:
    (k2run.folder / "runbooks").mkdir()
    k2run.write("runbooks/it.yaml", readiness("{name: A, assert: {that: true}}"))
    assert "never run" in k2run("list")[1]
    assert k2run("run", "it", "--stack", "stack.yaml", "--plain")[0] == 0
    assert "passed" in k2run("list")[1]


def test_what_asked_duckdb_leaves_without_its_complaint_of_what_is_left(k2run: Shell) -> None:
    figures = "      - {shell.run: {command: echo 3}, figures: {found: result.stdout | int}}\n"
    code, said = k2run.run(
        f"runbook: 1\nkind: readiness\nname: it\ntitle: It\nsections:\n  - name: Only\n    steps:\n{figures}"
    )
    assert code == 0, said
    code, said = k2run("trend", "found")
    assert code == 0, said
    assert "leaked" not in said


@pytest.fixture
def two_runs(k2run):
    """Two runs of a runbook with letters beyond ASCII; their ids."""
    text = readiness('{name: "Größe ≤ 3", assert: {that: 1 <= 3}}')
    assert [k2run.run(text)[0] for _ in range(2)] == [0, 0]
    return sorted(run.name for run in (k2run.folder / "home" / "runs").iterdir())


def test_a_terminal_that_knows_only_ascii_gets_plainer_signs(k2run, two_runs, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    for words in (
        ["graph", "it.yaml"],
        ["trend"],
        ["trend", "seconds"],
        ["trend", "step: Größe ≤ 3"],
        ["compare", *two_runs],
        ["history"],
    ):
        code, text = k2run(*words)
        assert (code, text.isascii(), bool(text.strip())) == (0, True, True), text


@pytest.mark.parametrize(
    "words", ["--dry run {}", "-R run {}", "run {} --dry", "run {} -R", "--dry-run run {}", "run {} --dry-run"]
)
def test_a_dry_run_is_refused_with_the_word_for_it(k2run: Shell, words: str) -> None:
    k2run.write("it.yaml", readiness("{shell.run: {command: touch proof}}"))
    code, said = k2run(*words.format("it.yaml").split(), "--stack", "stack.yaml")
    assert (code, "--check" in said) == (2, True), said
    assert not (k2run.folder / "proof").exists()


def test_a_limit_of_invoke_is_refused_with_the_words_of_a_runbook(k2run: Shell) -> None:
    k2run.write("it.yaml", readiness("{shell.run: {command: touch proof}}"))
    for words in (("-T", "5", "run", "it.yaml"), ("run", "it.yaml", "-T", "5")):
        code, said = k2run(*words, "--stack", "stack.yaml")
        assert (code, "`timeout`" in said) == (2, True), said
    assert not (k2run.folder / "proof").exists()


def test_help_names_commands_in_groups_and_no_option_of_invoke(k2run: Shell) -> None:
    for words in (["--help"], ["--list"], []):
        code, said = k2run(*words)
        assert code == 0
        titles = [line for line in said.splitlines() if line.endswith(":") and not line.startswith(" ")]
        assert titles[:2] == ["Runs:", "Stacks:"]
        assert not {"Core options", "sudo", "--pty", "Development"} & {*said.split()}
    code, said = k2run("validate", "--help")
    assert (code, said.splitlines()[0]) == (0, "Usage: k2run validate [PATHS …] [options]")


def test_the_old_name_of_a_command_works_for_one_release(k2run: Shell) -> None:
    assert "works until the next release" in k2run("docs", "--help")[1]
    assert "there is no document 'nosuch'" in k2run("docs", "nosuch")[1]


@pytest.mark.parametrize("words", [["--help"], ["list"], ["doc"]])
def test_a_reader_that_has_enough_is_no_failure_to_tell_of(k2run: Shell, words: list[str]) -> None:
    command = [str(BIN / "k2run"), *words]
    process = subprocess.Popen(command, cwd=k2run.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    _, complaints = process.communicate(timeout=60)
    assert "Traceback" not in complaints
    assert "BrokenPipe" not in complaints


def test_one_runbook_that_cannot_be_read_leaves_the_others_in_the_list(k2run: Shell) -> None:
    folder = k2run.folder / "runbooks"
    folder.mkdir()
    (folder / "fine.yaml").write_text(readiness("{set: {a: 1}}").replace("name: it", "name: fine"))
    (folder / "large.yaml").write_text("title: " + "x" * 3_000_000)
    code, said = k2run("list")
    assert code == 0
    assert "fine" in said
    assert "has more than 2 MiB" in said
