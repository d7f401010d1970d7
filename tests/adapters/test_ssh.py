"""The ssh actions against a real sshd, started on a free port as the user of the test."""

from __future__ import annotations

import getpass
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import asyncssh
import psutil
import pytest
from msgspec import structs
from ssh_server import Sshd, running_sshd

from k2run.actions.deadline import Deadline
from k2run.adapters import ssh as actions
from k2run.adapters.ssh import Host, Ssh
from k2run.errors import Interrupted, Refused, TimedOut, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

# program: sshd openssh-server
TESTED_ON = {
    "ssh": "Debian's `sshd`, started on a free port as the user of the test; services with `run: ssh` likewise"
}

pytestmark = pytest.mark.xdist_group("sshd")  # one server, not one a process


@pytest.fixture(scope="module")
def sshd(tmp_path_factory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def ssh(sshd) -> Ssh:
    return sshd.ssh


def soon(seconds: float = 60) -> Deadline:
    return Deadline(seconds)


def group_gone(pid: int, within: float = 20) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_a_command_runs_there_and_both_outputs_are_kept(ssh):
    found = actions.run(ssh, soon(), "db1", "echo one | tr a-z A-Z; echo trouble >&2; cat", stdin="fed")
    assert (found.exit_code, found.stdout, found.stderr) == (0, "ONE\nfed", "trouble")
    assert found.source == f"ssh {getpass.getuser()}@127.0.0.1:{ssh.hosts['db1'].port}"
    assert found.headline() == "db1: exit 0, fed"
    assert actions.run(ssh, soon(), "db1", ["echo", "$HOME; true"]).stdout == "$HOME; true"
    assert actions.run(structs.replace(ssh, hosts={}, port=ssh.hosts["db1"].port), soon(), "127.0.0.1", "id").stdout


def test_another_exit_code_fails_the_step_and_a_probe_may_list_it(ssh):
    with pytest.raises(Refused, match=r"`echo no >&2; exit 3` exited 3 on .*127\.0\.0\.1.*: no") as refused:
        actions.run(ssh, soon(), "db1", "echo no >&2; exit 3")
    assert refused.value.result.exit_code == 3
    assert actions.probe(ssh, soon(), "db1", "exit 1", ok_codes=[0, 1]).exit_code == 1
    with pytest.raises(Refused, match="is it installed there"):
        actions.probe(ssh, soon(), "db1", "no-such-program")
    with pytest.raises(Refused, match="was ended by SIGKILL"):
        actions.run(ssh, soon(), "db1", "kill -9 $$")


@pytest.mark.parametrize("line", ["echo $$; sleep 300", "trap '' TERM HUP; echo $$; sleep 300; sleep 300"])
def test_a_command_ends_there_with_all_that_it_started(ssh, tmp_path, line):
    note = tmp_path / "pid"
    deadline = soon()

    def stop_when_it_runs() -> None:
        while not (note.exists() and note.read_text()):
            time.sleep(0.02)
        deadline.stop.set()

    threading.Thread(target=stop_when_it_runs, daemon=True).start()
    with pytest.raises(Interrupted):
        actions.run(ssh, deadline, "db1", line.replace("echo $$", f"echo $$ > {note}"))
    assert group_gone(int(note.read_text()))


def test_a_step_does_not_wait_past_its_deadline(ssh):
    started = time.monotonic()
    with pytest.raises(TimedOut, match=r"127\.0\.0\.1:\d+ did not finish within 2s"):
        actions.run(ssh, soon(2), "db1", "sleep 300")
    assert time.monotonic() - started < 4


@pytest.mark.parametrize("after_s", [0.0, 0.2, 0.5, 1.0, 1.5])
def test_a_request_to_stop_is_heard_whenever_it_comes(ssh, tmp_path, after_s):
    deadline = soon()
    threading.Timer(after_s, deadline.stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        actions.run(ssh, deadline, "db1", f"touch {tmp_path}/begun; exec sleep 31{after_s}")
    assert time.monotonic() - started < after_s + 3
    if (tmp_path / "begun").exists():
        end = time.monotonic() + 20
        while (
            left := [one for one in psutil.process_iter() if f"31{after_s}" in _words(one)]
        ) and time.monotonic() < end:
            time.sleep(0.05)
        assert left == []


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_chatty_command_takes_bounded_memory(ssh):
    found = actions.run(ssh, soon(60), "db1", "head -c 20000000 /dev/zero")
    assert found.truncated
    assert len(found.stdout) < 100_000


def test_files_are_copied_to_a_host_and_back_as_a_whole(ssh, tmp_path):
    ours, there, back = (tmp_path / name for name in ("ours", "there", "back"))
    ours.write_bytes(os.urandom(300_000))
    ours.chmod(0o640)
    there.write_text("old")
    sent = actions.copy_to(ssh, soon(), "db1", str(ours), str(there))
    assert (sent.bytes, sent.headline()) == (300_000, "300,000 bytes")
    assert there.read_bytes() == ours.read_bytes()
    assert there.stat().st_mode & 0o777 == 0o640
    assert actions.copy_from(ssh, soon(), "db1", str(there), str(back)).bytes == 300_000
    assert back.read_bytes() == ours.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "ours", "there"]


def test_a_copy_that_fails_leaves_what_was_there(ssh, tmp_path):
    ours, back = tmp_path / "ours", tmp_path / "back"
    ours.write_text("x")
    back.write_text("kept")
    with pytest.raises(Refused, match=r"does the path exist there"):
        actions.copy_from(ssh, soon(), "db1", str(tmp_path / "gone"), str(back))
    with pytest.raises(Refused, match=r"does the path exist there"):
        actions.copy_to(ssh, soon(), "db1", str(ours), str(tmp_path / "no-folder" / "there"))
    with pytest.raises(Refused, match="is not a file on this machine"):
        actions.copy_to(ssh, soon(), "db1", str(tmp_path / "gone"), "/tmp/there")
    assert back.read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "ours"]


def test_what_keeps_us_out_is_told_with_what_to_check(ssh, sshd, tmp_path):
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(tmp_path / "other"))
    (tmp_path / "empty").write_text("")
    locked = str(sshd.folder / "locked_key")
    open_ = structs.replace(ssh, private_key=locked, passphrase="open sesame")
    assert actions.run(open_, soon(), "db1", "true").exit_code == 0
    cases = {
        r"denies access.*connections\.ssh": {"private_key": str(tmp_path / "other")},
        r"key for .* cannot be used": {"private_key": locked, "passphrase": "wrong-secret"},
        r"is not known here.*ssh-keyscan -p \d+ 127\.0\.0\.1": {"known_hosts": str(tmp_path / "empty")},
        r"gone.* is missing on this machine": {"private_key": str(tmp_path / "gone")},
    }
    for told, settings in cases.items():
        with pytest.raises(Refused, match=told) as refused:
            actions.run(structs.replace(ssh, **settings), soon(), "db1", "true")
        assert "wrong-secret" not in str(refused.value)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 does not answer.*connections\.ssh"):
        actions.run(structs.replace(ssh, hosts={"db1": Host(address="127.0.0.1", port=1)}), soon(), "db1", "true")
    with pytest.raises(Unreachable, match=r"connections\.ssh\.hosts names db1"):
        actions.run(ssh, soon(), "db2.invalid", "true")


def test_a_frozen_server_does_not_hold_the_step(ssh, sshd):
    os.kill(sshd.process.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises((TimedOut, Unreachable), match=r"127\.0\.0\.1"):
            actions.run(ssh, soon(0.6), "db1", "true")
        assert time.monotonic() - started < 3
    finally:
        os.kill(sshd.process.pid, signal.SIGCONT)
