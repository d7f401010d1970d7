"""Services that k2run does not run are started, stopped and looked at by the commands of their stack file."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from k2run.actions.deadline import Deadline
from k2run.errors import K2runError, NotApplicable, Refused, StackUnavailable, Unknown
from k2run.language.document import read_document
from k2run.language.problems import render
from k2run.stack import lifecycle
from k2run.stack.backend import State
from k2run.stack.commands import ssh_command
from k2run.stack.validation import problems_of

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Undo = Callable[[], subprocess.CompletedProcess[str]]

    from k2run.stack.stack import Stack

SERVICE = """
services:
  worker:
    run: external
    start: [sh, -c, 'sleep 600 >/dev/null 2>&1 & echo $! > {folder}/pid; echo "token $TOKEN"']
    stop: [sh, -c, 'kill $(cat {folder}/pid); rm {folder}/pid']
    status: [sh, -c, 'kill -0 $(cat {folder}/pid 2>/dev/null) 2>/dev/null || exit 3']
    env: {TOKEN: "{{ secret('env:NO_SUCH_TOKEN', 'very-secret-token') }}"}
"""


@pytest.fixture
def stack(tmp_path: Path, make_stack: Callable[..., Stack]) -> Iterator[Stack]:
    yield make_stack(SERVICE.replace("{folder}", str(tmp_path)))
    with suppress(OSError, ValueError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_up_starts_it_and_a_run_and_down_leave_it_alone(stack: Stack, state: Callable[..., Any]) -> None:
    assert state(stack) is State.STOPPED
    assert lifecycle.start(stack, None, Deadline(20)) == []
    assert state(stack) is State.STOPPED
    assert lifecycle.start(stack, None, Deadline(20), outside=True) == ["worker"]
    assert state(stack) is State.RUNNING
    assert lifecycle.start(stack, None, Deadline(20), outside=True) == []
    assert lifecycle.stop(stack) == []
    [look] = lifecycle.status(stack)
    assert look.status.state is State.RUNNING
    assert look.is_known


def test_it_is_stopped_as_a_fault_and_started_as_its_undo(stack: Stack, call: Callable[..., Any]) -> None:
    call(stack, "service.start", service="worker")
    struck = call(stack, "service.stop", service="worker")
    assert struck.state == "stopped"
    assert not call(stack, "service.probe", service="worker").answered
    assert call(stack, "service.start", service="worker").changed
    assert call(stack, "service.restart", service="worker").changed
    assert call(stack, "service.status", service="worker").running


@pytest.mark.parametrize("action", ["service.kill", "service.pause"])
def test_what_it_has_no_command_for_does_not_apply(
    stack: Stack, action: str, call: Callable[..., Any], state: Callable[..., Any]
) -> None:
    call(stack, "service.start", service="worker")
    with pytest.raises(NotApplicable, match="the stack file does not say how to"):
        call(stack, action, service="worker")
    assert state(stack) is State.RUNNING


def test_a_command_that_fails_says_what_it_printed_without_secrets(
    make_stack: Callable[..., Stack], call: Callable[..., Any]
) -> None:
    stack = make_stack("""
        services:
          worker:
            start: [sh, -c, 'echo no licence, $TOKEN; exit 4']
            stop: [sh, -c, 'exit 5']
            status: [sh, -c, 'test -e /no/such/file']
            env: {TOKEN: "{{ secret('env:NO_SUCH_TOKEN', 'very-secret-token') }}"}
    """)
    with pytest.raises(Refused, match="its `start` command exits 4: no licence") as raised:
        call(stack, "service.start", service="worker")
    assert "very-secret-token" not in str(raised.value)
    with pytest.raises(K2runError, match="exits 4"):
        lifecycle.start(stack, None, Deadline(20), outside=True)


def test_a_status_command_that_cannot_be_run_says_nothing(
    make_stack: Callable[..., Stack], call: Callable[..., Any]
) -> None:
    stack = make_stack("services: {worker: {start: ['true'], status: [no-such-program-here]}}")
    with pytest.raises(Unknown, match="cannot be known"):
        call(stack, "service.status", service="worker")
    [look] = lifecycle.status(stack)
    assert not look.is_known


def test_a_start_that_does_not_return_is_ended_at_the_deadline(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack("services: {worker: {start: [sleep, '600'], status: ['false']}}")
    began = time.monotonic()
    with pytest.raises((StackUnavailable, K2runError)):
        lifecycle.start(stack, None, Deadline(0.5), outside=True)
    assert time.monotonic() - began < 10


def test_a_killed_run_is_undone_through_the_command_and_the_journal_has_no_command(
    stack: Stack, tmp_path: Path, state: Callable[..., Any], kill_a_run_that_stopped: Callable[[Stack], Undo]
) -> None:
    lifecycle.start(stack, None, Deadline(20), outside=True)
    undo = kill_a_run_that_stopped(stack)
    assert state(stack) is State.STOPPED
    [journal] = (tmp_path / "home" / "runs").glob("*/journal.jsonl")
    assert "very-secret-token" not in journal.read_text()
    assert '"action":"service.start","args":{"service":"worker"}' in journal.read_text()
    undo()
    assert state(stack) is State.RUNNING


WRONG = {
    "{run: process, command: [a], start: [b]}": "`start` has no use",
    "{start: [b]}": "need a `status` command or `ready`",
    "{run: ssh, status: [a]}": "needs `host`",
    "{host: db1}": "`host` is for services on other hosts",
}


@pytest.mark.parametrize("form", WRONG)
def test_commands_that_make_no_sense_are_told_at_their_place(form: str) -> None:
    found = problems_of(read_document(f"stack: 1\nservices: {{worker: {form}}}\n", "shop.yaml"))
    assert len(found) == 1, render(found)
    assert WRONG[form] in found[0].message
    assert found[0].place.line == 2


def test_ssh_is_called_with_the_settings_of_the_connection_and_never_asks() -> None:
    settings = {"hosts": {"db1": {"address": "10.0.0.1", "port": 2222}}, "user": "ops", "private_key": "/k"}
    words = ssh_command("db1", settings)
    assert words[0] == "ssh"
    assert words[-1] == "10.0.0.1"
    assert " ".join(words[1:-1]) == (
        "-T -o BatchMode=yes -o ConnectTimeout=5 -i /k -o IdentitiesOnly=yes -p 2222 -l ops"
    )
    assert ssh_command("plain.example", {})[-1] == "plain.example"
