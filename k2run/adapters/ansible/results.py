"""What a playbook did."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from k2run.actions.action import Result


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
