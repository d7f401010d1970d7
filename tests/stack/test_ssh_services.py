"""A service on another host: started, stopped, checked and read through `ssh` on a real sshd."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from ssh_server import running_sshd
from wheel_programs import free_ports

from k2run.actions.deadline import Deadline
from k2run.errors import NotApplicable, Refused, StackUnavailable, Unknown
from k2run.stack import lifecycle
from k2run.stack.backend import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Undo = Callable[[], subprocess.CompletedProcess[str]]

    from ssh_server import Sshd

    from k2run.stack.stack import Stack

pytestmark = pytest.mark.xdist_group("sshd")
STACK = """
connections:
  ssh: {{hosts: {{db1: {{address: 127.0.0.1, port: {port}}}}}, user: {user}, private_key: {key}, known_hosts: {known}}}
services:
  worker:
    run: ssh
    host: db1
    start:
      - sh
      - -c
      - echo "$(date -u +%FT%TZ) started" >> {place}/log; sleep 600 >/dev/null 2>&1 & echo $! > {place}/pid
    stop: [sh, -c, 'kill $(cat {place}/pid); rm {place}/pid; echo "$(date -u +%FT%TZ) stopped" >> {place}/log']
    status: [sh, -c, 'kill -0 $(cat {place}/pid 2>/dev/null) 2>/dev/null || exit 3']
    logs: [cat, {place}/log]
"""


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if shutil.which("ssh") is None:
        pytest.skip("ssh is not installed (Debian: openssh-client)")
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def make(sshd: Sshd, tmp_path: Path, make_stack: Callable[..., Stack]) -> Iterator[Callable[..., Stack]]:
    """Loads the stack, with the settings that a test wants otherwise."""

    def made(**wrong: object) -> Stack:
        usual = {
            "port": sshd.ssh.hosts["db1"].port,
            "user": getpass.getuser(),
            "key": sshd.folder / "user_key",
            "known": sshd.folder / "known_hosts",
            "place": tmp_path,
        }
        return make_stack(STACK.format(**{**usual, **wrong}))

    yield made
    with suppress(OSError, ValueError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_it_is_started_stopped_and_checked_on_its_host(
    make: Callable[..., Stack], call: Callable[..., Any], state: Callable[..., Any]
) -> None:
    stack = make()
    assert state(stack) is State.STOPPED
    assert lifecycle.start(stack, None, Deadline(30), outside=True) == ["worker"]
    assert call(stack, "service.status", service="worker").running
    assert call(stack, "service.stop", service="worker").state == "stopped"
    assert not call(stack, "service.status", service="worker").running
    assert call(stack, "service.start", service="worker").changed
    assert call(stack, "service.restart", service="worker").changed


def test_its_log_is_read_by_its_command_and_searched(make: Callable[..., Stack], call: Callable[..., Any]) -> None:
    stack = make()
    with pytest.raises(Unknown, match=r"the log of worker cannot be read: its `logs` command exits 1: .*No such file"):
        call(stack, "service.logs", service="worker")
    call(stack, "service.start", service="worker")
    call(stack, "service.stop", service="worker")
    found = call(stack, "service.logs", service="worker", pattern="stopped", since="1m")
    assert (found.matches, found.searched) == (1, 2)
    assert [line.text.split()[1] for line in lifecycle.logs(stack, "worker")] == ["started", "stopped"]
    assert [line.text.split()[1] for line in lifecycle.logs(stack, "worker", lines=1)] == ["stopped"]
    assert call(stack, "service.logs", service="worker", since="0s").searched == 0


def test_lines_without_a_time_cannot_be_searched_by_time(
    make: Callable[..., Stack], tmp_path: Path, call: Callable[..., Any]
) -> None:
    stack = make()
    (tmp_path / "log").write_text("no time here\n")
    with pytest.raises(Unknown, match="does not say when its lines were written"):
        call(stack, "service.logs", service="worker", since="1m")
    assert call(stack, "service.logs", service="worker").matches == 1


def test_without_a_command_for_its_log_that_is_not_applicable(
    make_stack: Callable[..., Stack], call: Callable[..., Any]
) -> None:
    stack = make_stack("services: {worker: {start: ['true'], status: ['true']}}")
    with pytest.raises(NotApplicable, match=r"does not say how to read the log of worker.*give it `logs:`"):
        call(stack, "service.logs", service="worker")


@pytest.mark.slow  # one of the undos after kill -9
def test_after_a_killed_run_undo_starts_it_again_through_ssh(
    make: Callable[..., Stack], state: Callable[..., Any], kill_a_run_that_stopped: Callable[[Stack], Undo]
) -> None:
    stack = make()
    lifecycle.start(stack, None, Deadline(30), outside=True)
    undo = kill_a_run_that_stopped(stack)
    assert state(stack) is State.STOPPED
    done = undo()
    assert done.returncode == 0, done.stdout + done.stderr
    assert state(stack) is State.RUNNING


def _wrong(what: str, sshd: Sshd, tmp_path: Path) -> dict[str, object]:
    """Settings with which the host cannot be reached."""
    match what:
        case "wrong key":
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
            return {"key": tmp_path / "other"}
        case "unknown host key":
            (tmp_path / "empty").write_text("")
            return {"known": tmp_path / "empty"}
        case "host down":
            return {"port": free_ports(1)[0]}
    message = f"no such case: {what}"
    raise ValueError(message)


REASONS = {
    "wrong key": "Permission denied",
    "unknown host key": "Host key verification failed",
    "host down": "Connection refused",
}


@pytest.mark.parametrize("what", REASONS)
def test_a_host_that_cannot_be_reached_is_told_and_never_taken_for_a_state(
    make: Callable[..., Stack],
    sshd: Sshd,
    tmp_path: Path,
    what: str,
    call: Callable[..., Any],
) -> None:
    stack = make(**_wrong(what, sshd, tmp_path))
    told = rf"its host db1 cannot be reached through ssh: (.|\n)*{REASONS[what]}"
    with pytest.raises(Unknown, match=told):
        call(stack, "service.status", service="worker")
    [look] = lifecycle.status(stack)
    assert not look.is_known
    assert REASONS[what] in look.status.detail
    with pytest.raises(Unknown, match=told):  # no fault is injected into what cannot be seen
        call(stack, "service.stop", service="worker")
    with pytest.raises(Refused, match=told) as refused:
        call(stack, "service.start", service="worker")
    assert "connections.ssh" in refused.value.hint
    with pytest.raises(StackUnavailable, match=told):
        lifecycle.start(stack, None, Deadline(30), outside=True)
    with pytest.raises(Unknown, match=told):
        call(stack, "service.logs", service="worker")


def test_a_host_that_does_not_answer_is_given_up(make: Callable[..., Stack], call: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stack = make(port=silent.getsockname()[1])
        began = time.monotonic()
        with pytest.raises(Unknown, match="cannot be known"):
            call(stack, "service.status", service="worker")
        assert time.monotonic() - began < 10
