"""Ansible: runs playbooks, or tries them without changing anything, and says what each task did on each host."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from k2run.actions.action import Effect, Result, action, ending
from k2run.actions.deadline import Deadline
from k2run.adapters._command import Child
from k2run.errors import Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence


PROGRAM = "ansible-playbook"
PLUGINS = Path(__file__).with_name("_ansible_callback")
MOST_TASKS = 2000
MOST_TOLD = 5
"""Failed tasks that an error lists."""
QUOTED = 600
"""Characters of what Ansible said that an error quotes."""
_LOCALES = ("LC_ALL", "LC_CTYPE", "LANG")


class Task(Struct, frozen=True, kw_only=True):
    """A task on a host.

    Attributes:
        status: `ignored` for one that failed and may.
        changed: Whether it changed something (would change, with `ansible.check`), also when it failed after that.
        message: What it said; `hidden (no_log)` where Ansible hides it.
        seconds: None when Ansible does not say when it began.
    """

    play: str
    task: str
    host: str
    status: Literal["ok", "changed", "failed", "ignored", "unreachable", "skipped"]
    changed: bool
    message: str
    seconds: float | None

    def shown(self) -> str:
        """Such as `"Install nginx" on web1: no package matches`."""
        return f'"{self.task}" on {self.host}' + (f": {self.message}" if self.message else "")


class Host(Struct, frozen=True, kw_only=True):
    """The recap of a host, in Ansible's words: how many tasks ended in which way."""

    host: str
    ok: int
    changed: int
    failures: int
    unreachable: int
    skipped: int
    rescued: int
    ignored: int


class Played(Result, frozen=True, kw_only=True):
    """A playbook that was run, or tried with `--check`.

    Attributes:
        changed: Tasks that changed something (that would, with `ansible.check`), over all hosts.
        ok: Tasks that passed, those that changed something included.
        failed: Tasks that failed, of those that were neither rescued nor ignored.
        skipped: Tasks that were left out.
        unreachable: Hosts that could not be reached.
        hosts: The recap of each host.
        tasks: Each task on each host, of more than 2,000 the last ones; those that were left out are not listed.
        changes: Those that changed something.
        failures: Those that failed, or whose host could not be reached.
        elapsed_s: From the start of Ansible to its end.
    """

    changed: int
    ok: int
    failed: int
    skipped: int
    unreachable: int
    hosts: list[Host]
    tasks: list[Task]
    changes: list[Task]
    failures: list[Task]
    elapsed_s: float

    def headline(self) -> str:
        """Such as `3 hosts, 41 ok, 2 changed, 0 failed`."""
        gone = f", {self.unreachable} unreachable" if self.unreachable else ""
        return f"{len(self.hosts)} hosts, {self.ok} ok, {self.changed} changed, {self.failed} failed{gone}"


class _Ended(NamedTuple):
    """How Ansible ended, what it said last, and the lines that its callback wrote."""

    code: int
    said: str
    lines: list[dict[str, Any]]
    elapsed_s: float


@action("ansible.playbook", effect=Effect.CHANGES)
def playbook(
    deadline: Deadline,
    path: str,
    inventory: str = "",
    limit: str = "",
    tags: list[str] = [],
    skip_tags: list[str] = [],
    variables: dict[str, Any] = {},
    vault_password_file: str = "",
    options: list[str] = [],
    cwd: str = "",
) -> Played:
    """Run a playbook; a failed task or a host that cannot be reached fails the step, and is named.

    Args:
        path: The playbook.
        inventory: File, folder or list of hosts (`web1,web2,`); Ansible's own setting when empty.
        limit: Only hosts that match this pattern.
        tags: Only tasks with one of these tags.
        skip_tags: No tasks with one of these tags.
        variables: Extra variables; handed over in a file, not on the command line.
        vault_password_file: File with the password of Ansible's vault.
        options: Further words for `ansible-playbook`, such as `--forks=20`.
        cwd: Directory to run in, where Ansible looks for its `ansible.cfg`; the working directory when empty.
    """
    words = _words(path, inventory, limit, tags, skip_tags, vault_password_file, cwd)
    return _played(deadline, [*words, *options], variables, path, cwd)


@action("ansible.check")
def check(
    deadline: Deadline,
    path: str,
    inventory: str = "",
    limit: str = "",
    tags: list[str] = [],
    skip_tags: list[str] = [],
    variables: dict[str, Any] = {},
    vault_password_file: str = "",
    options: list[str] = [],
    cwd: str = "",
) -> Played:
    """Try a playbook with `--check`: what it would change, so it may be a symptom (`expect: result.changed > 0`).

    Tasks with `check_mode: false` run all the same; that they only observe is the playbook's promise.

    Args:
        path: The playbook.
        inventory: File, folder or list of hosts (`web1,web2,`); Ansible's own setting when empty.
        limit: Only hosts that match this pattern.
        tags: Only tasks with one of these tags.
        skip_tags: No tasks with one of these tags.
        variables: Extra variables; handed over in a file, not on the command line.
        vault_password_file: File with the password of Ansible's vault.
        options: Further words for `ansible-playbook`.
        cwd: Directory to run in; the working directory when empty.
    """
    words = _words(path, inventory, limit, tags, skip_tags, vault_password_file, cwd)
    return _played(deadline, [*words, *options, "--check"], variables, path, cwd)


def _words(
    path: str, inventory: str, limit: str, tags: Sequence[str], skip_tags: Sequence[str], vault: str, cwd: str
) -> list[str]:
    program = shutil.which(PROGRAM) or shutil.which(PROGRAM, path=str(Path(sys.executable).parent))
    if program is None:
        hint = "pip install ansible-core, or put it on PATH"
        raise Unreachable(f"{PROGRAM} is not installed on this machine", hint=hint)
    if not (Path(cwd) / path).is_file():
        raise Refused(f"{Path(cwd) / path} is not a file on this machine", hint="give the path of the playbook")
    given = {"inventory": inventory, "limit": limit, "tags": ",".join(tags), "skip-tags": ",".join(skip_tags)}
    given["vault-password-file"] = vault
    return [program, *(f"--{name}={value}" for name, value in given.items() if value), path]


def _played(deadline: Deadline, words: Sequence[str], variables: dict[str, Any], path: str, cwd: str) -> Played:
    ended = _run(deadline, words, variables, cwd)
    recap = next((line["recap"] for line in ended.lines if "recap" in line), None)
    if not recap:
        if ended.code:
            said = ending(ended.said, QUOTED)
            raise Refused(f"{PROGRAM} exited {ended.code} on {path}: {said}", hint=f"{PROGRAM} --syntax-check {path}")
        raise Unknown(f"{path} ran on no host", hint="do its hosts match the inventory and the limit?")
    found = _result(recap, [line for line in ended.lines if "task" in line], path, ended.elapsed_s)
    if ended.code:
        raise _failure(found, ended, path)
    return found


def _result(recap: list[dict[str, Any]], lines: list[dict[str, Any]], path: str, elapsed_s: float) -> Played:
    hosts = msgspec.convert(recap, list[Host])
    tasks = msgspec.convert(lines, list[Task])
    done = [task for task in tasks if task.status != "skipped"]
    return Played(
        changed=sum(host.changed for host in hosts),
        ok=sum(host.ok for host in hosts),
        failed=sum(host.failures for host in hosts),
        skipped=sum(host.skipped for host in hosts),
        unreachable=sum(bool(host.unreachable) for host in hosts),
        hosts=hosts,
        tasks=done[-MOST_TASKS:],
        changes=[task for task in done if task.changed][-MOST_TASKS:],
        failures=[task for task in done if task.status in {"failed", "unreachable"}][-MOST_TASKS:],
        elapsed_s=round(elapsed_s, 3),
        source=f"ansible {path}",
    )


def _failure(found: Played, ended: _Ended, path: str) -> Refused | Unreachable:
    told = "; ".join(task.shown() for task in found.failures[:MOST_TOLD]) or ending(ended.said, QUOTED)
    more = f"; and {len(found.failures) - MOST_TOLD} more" if len(found.failures) > MOST_TOLD else ""
    if found.unreachable and not found.failed:
        hint = "does `ssh` reach it with these settings of the inventory?"
        return Unreachable(
            f"{path}: {found.unreachable} of {len(found.hosts)} hosts: {told}{more}", hint=hint, result=found
        )
    hint = "completed tasks are not undone; fix the cause and run the playbook again"
    return Refused(f"{path}: {found.failed} tasks failed: {told}{more}", hint=hint, result=found)


def _run(deadline: Deadline, words: Sequence[str], variables: dict[str, Any], cwd: str) -> _Ended:
    """Run Ansible to its end, with the callback that writes what its tasks do."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="k2run-ansible-") as folder:
        events, given = Path(folder) / "events", Path(folder) / "variables.json"
        events.touch(mode=0o600)
        if variables:
            given.touch(mode=0o600)
            given.write_bytes(msgspec.json.encode(variables))
            words = [*words, f"--extra-vars=@{given}"]
        try:
            with Child(words, program=None, env=_environment(events), cwd=cwd, stdin=b"") as child:
                code = child.until_exit(deadline)
        except TimedOut as error:
            raise TimedOut(
                f"{PROGRAM} did not finish within {deadline.seconds:g}s, in {_last(_lines(events))}",
                hint="completed tasks are not undone; raise the step's timeout, or check what that host waits for",
            ) from error
        return _Ended(code, child.last_words(), _lines(events), time.monotonic() - started)


def _environment(events: Path) -> dict[str, str]:
    env = dict(os.environ)
    plugins = filter(None, (str(PLUGINS), env.get("ANSIBLE_CALLBACK_PLUGINS")))
    enabled = filter(None, ("k2run_events", env.get("ANSIBLE_CALLBACKS_ENABLED")))
    env |= {
        "ANSIBLE_CALLBACK_PLUGINS": os.pathsep.join(plugins),
        "ANSIBLE_CALLBACKS_ENABLED": ",".join(enabled),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": "0",
        "K2RUN_EVENTS": str(events),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    locale = next((env[name] for name in _LOCALES if env.get(name)), "")
    if "utf" not in locale.lower():  # Ansible refuses to run in any other
        env["LC_ALL"] = "C.UTF-8"
    return env


def _lines(events: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in events.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _last(lines: Sequence[dict[str, Any]]) -> str:
    return f'the task after "{lines[-1]["task"]}" on {lines[-1]["host"]}' if lines else "its first task"
