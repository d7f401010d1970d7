"""The ansible actions with the real ansible-playbook, on this machine."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters import ansible
from k2run.errors import Interrupted, Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TESTED_ON = {"ansible": "the real `ansible-playbook` on this machine; a host that cannot be reached over SSH"}


def soon(seconds: float = 120) -> Deadline:
    return Deadline(seconds)


@pytest.fixture
def write(tmp_path) -> Callable[[str], str]:
    """Writes a playbook with these tasks; returns its path."""

    def make(tasks: str, hosts: str = "localhost") -> str:
        path = tmp_path / "site.yaml"
        listed = "".join(f"    {line}\n" for line in tasks.splitlines())
        path.write_text(
            f"- name: Site\n  hosts: {hosts}\n  connection: local\n  gather_facts: false\n  tasks:\n{listed}"
        )
        return str(path)

    return make


def config(folder: Path) -> str:
    """A line of inventory that runs modules with this Python."""
    import sys

    inventory = folder / "hosts"
    inventory.write_text(f"localhost ansible_connection=local ansible_python_interpreter={sys.executable}\n")
    return str(inventory)


def test_a_playbook_tells_what_each_task_did_and_check_what_it_would_do(write, tmp_path):
    made = tmp_path / "made"
    book = write(
        f"- name: Write it\n  copy: {{content: '{{{{ text }}}}', dest: '{made}'}}\n"
        "- name: Say it\n  debug: {msg: 'it is {{ text }}'}\n"
        "- name: Never\n  debug: {msg: x}\n  when: false\n"
        "- name: Hidden\n  debug: {msg: a-secret}\n  no_log: true\n"
        "- name: May fail\n  command: 'false'\n  changed_when: false\n  ignore_errors: true\n"
    )
    given = {"path": book, "inventory": config(tmp_path), "variables": {"text": "hello"}}
    tried = ansible.check(soon(), **given)
    assert tried.changed == 1
    assert not made.exists()
    done = ansible.playbook(soon(), **given)
    assert made.read_text() == "hello"
    assert [(task.task, task.status) for task in done.tasks] == [
        ("Write it", "changed"),
        ("Say it", "ok"),
        ("Hidden", "ok"),
        ("May fail", "ignored"),
    ]
    assert (done.tasks[1].message, done.tasks[2].message) == ("it is hello", "hidden (no_log)")
    assert (done.changed, done.ok, done.failed, done.skipped, done.unreachable) == (1, 4, 0, 1, 0)
    assert [task.task for task in done.changes] == ["Write it"]
    assert (done.hosts[0].host, done.hosts[0].ignored) == ("localhost", 1)
    assert done.headline() == "1 hosts, 4 ok, 1 changed, 0 failed"
    assert ansible.check(soon(), **given).changed == 0


def test_a_failed_task_is_named_with_its_host_and_its_reason(write, tmp_path):
    book = write(
        "- name: First\n  debug: {msg: x}\n"
        "- name: Each of them\n  command: 'ls /nowhere-{{ item }}'\n  loop: [a, b]\n"
        "- name: Not reached\n  debug: {msg: y}\n"
    )
    with pytest.raises(
        Refused, match=r'1 tasks failed: "Each of them" on localhost: .*nowhere-a.*nowhere-b'
    ) as refused:
        ansible.playbook(soon(), book, inventory=config(tmp_path))
    found = refused.value.result
    assert [task.status for task in found.tasks] == ["ok", "failed"]
    assert [task.task for task in found.failures] == ["Each of them"]


def test_what_ansible_hides_stays_hidden_when_it_fails(write, tmp_path):
    book = write("- name: Log in\n  command: 'ls /a-secret-{{ item }}'\n  loop: [x, y]\n  no_log: true\n")
    with pytest.raises(Refused, match=r'"Log in" on localhost: hidden \(no_log\)') as refused:
        ansible.playbook(soon(), book, inventory=config(tmp_path))
    assert "a-secret" not in f"{refused.value} {refused.value.result.plain()}"


def test_a_rescued_task_fails_nothing(write, tmp_path):
    book = write("- block:\n    - command: 'false'\n  rescue:\n    - debug: {msg: mended}\n")
    found = ansible.playbook(soon(), book, inventory=config(tmp_path))
    assert (found.failed, found.hosts[0].rescued) == (0, 1)


def test_a_host_that_cannot_be_reached_is_told_apart_from_a_failed_task(tmp_path):
    book = tmp_path / "site.yaml"
    book.write_text("- {name: Site, hosts: all, gather_facts: false, tasks: [{name: Look, ping: {}}]}\n")
    hosts = tmp_path / "hosts"
    hosts.write_text("web1 ansible_host=127.0.0.1 ansible_port=1 ansible_ssh_common_args='-o BatchMode=yes'\n")
    with pytest.raises(Unreachable, match=r'1 of 1 hosts: "Look" on web1: .*port 1') as refused:
        ansible.playbook(soon(), str(book), inventory=str(hosts))
    assert refused.value.result.unreachable == 1


def test_tags_and_limit_choose_and_no_host_is_unknown(write, tmp_path):
    book = write("- {name: One, debug: {msg: x}, tags: [a]}\n- {name: Two, debug: {msg: y}, tags: [b]}\n")
    inventory = config(tmp_path)
    assert [task.task for task in ansible.playbook(soon(), book, inventory=inventory, tags=["a"]).tasks] == ["One"]
    assert [task.task for task in ansible.check(soon(), book, inventory=inventory, skip_tags=["a"]).tasks] == ["Two"]
    with pytest.raises(Unknown, match="ran on no host"):
        ansible.playbook(soon(), write("- debug: {msg: x}", hosts="databases"), inventory=inventory)
    with pytest.raises(Refused, match=r"exited 1"):
        ansible.playbook(soon(), write("- debug: {msg: x}"), inventory=inventory, limit="nobody-at-all")


def test_what_is_wrong_with_a_playbook_is_quoted(write, tmp_path):
    with pytest.raises(Refused, match=r"(?s)exited [14] on .*no_such_module.*--syntax-check"):
        ansible.playbook(soon(), write("- no_such_module: {a: 1}"), inventory=config(tmp_path))
    with pytest.raises(Refused, match="is not a file on this machine"):
        ansible.playbook(soon(), str(tmp_path / "gone.yaml"))


@pytest.mark.slow  # it waits twelve seconds
def test_it_ends_with_the_step_and_hears_a_request_to_stop(write, tmp_path):
    note = tmp_path / "pid"
    book = write(f"- {{name: Begin, debug: {{msg: x}}}}\n- name: Wait\n  shell: 'echo $$ > {note}; exec sleep 300'\n")
    deadline = soon()

    def stop_when_it_waits() -> None:
        while not note.exists():
            time.sleep(0.05)
        deadline.stop.set()

    threading.Thread(target=stop_when_it_waits, daemon=True).start()
    with pytest.raises(Interrupted):
        ansible.playbook(deadline, book, inventory=config(tmp_path))
    pid = int(note.read_text())
    end = time.monotonic() + 5
    while _runs(pid):
        assert time.monotonic() < end
        time.sleep(0.05)
    started = time.monotonic()
    with pytest.raises(TimedOut, match=r"did not finish within 8s, in the task after \"Begin\" on localhost"):
        ansible.playbook(soon(8), book, inventory=config(tmp_path))
    assert time.monotonic() - started < 10


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
