"""The command line as a person meets it: what is printed, and the exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
NONE = "stack: 1\nname: none\n"


class Shell:
    """A folder with a home of its own, and commands in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("stack.yaml", NONE)

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(textwrap.dedent(text))
        return name

    def __call__(self, *words: str) -> tuple[int, str]:
        done = subprocess.run(
            [str(BIN / "k2run"), *words],
            cwd=self.folder,
            env={**os.environ, "K2RUN_HOME": str(self.folder / "home")},
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
        ("runbook: 1\nrunbook: 1\n", "twice"),
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
        (["nonsense"], "No idea what 'nonsense' is"),
        (["run"], "runbook"),
        (["run", "missing.yaml"], "there is no runbook 'missing.yaml'"),
        (["resume", "last"], "there is no run 'last'"),
        (["status", "--stack", "nowhere"], "there is no stack 'nowhere'"),
        (["doc", "kafka.lagg"], "did you mean `kafka.lag`?"),
        (["validate", "no-such-folder"], "there is no file no-such-folder"),
    ],
)
def test_a_command_that_makes_no_sense_exits_with_two_and_says_why(k2run: Shell, words: list[str], said: str) -> None:
    code, out = k2run(*words)
    assert code == 2
    assert said in out


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


def test_list_shows_runbooks_with_their_last_verdict(k2run: Shell) -> None:
    (k2run.folder / "runbooks").mkdir()
    k2run.write("runbooks/it.yaml", readiness("{name: A, assert: {that: true}}"))
    assert "never run" in k2run("list")[1]
    assert k2run("run", "it", "--stack", "stack.yaml", "--plain")[0] == 0
    assert "passed" in k2run("list")[1]


def test_what_asked_duckdb_leaves_without_its_complaint_of_what_is_left(k2run: Shell) -> None:
    figures = "      - {set: {found: 3}, figures: {found: result.found}}\n"
    code, said = k2run.run(
        f"runbook: 1\nkind: readiness\nname: it\ntitle: It\nsections:\n  - name: Only\n    steps:\n{figures}"
    )
    assert code == 0, said
    code, said = k2run("trend", "found")
    assert code == 0, said
    assert "leaked" not in said
