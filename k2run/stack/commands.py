"""Runs a service by the commands that its stack file gives: on this machine, or on another host through `ssh`."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from k2run.actions.deadline import Deadline
from k2run.errors import NotApplicable, Refused, StackUnavailable, TimedOut, Unknown
from k2run.stack.backend import LogLine, ServiceStatus, State, Usage, has_times, probe, read_tail, readiness
from k2run.stack.model import RunBy, Service
from k2run.stack.process_group import await_end, start_apart

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

LOOK_S = 2.0
STATUS_S = 5.0
"""Seconds that a `status` command may take."""
_GRACE_S = 1.0
_QUOTED = 400
_NO_ANSWER = frozenset({126, 127, 255})
"""Exit codes of a shell that cannot run a command, and of an `ssh` that reaches no host: no word on a service."""
_NO_CONNECTION = 255
GIVE_COMMANDS = "give it `start:`, `stop:` and `status:` in the stack file, or `run: process` or `run: docker`"
GIVE_LOGS = "give it `logs:` in the stack file, a command that prints its log; or `run: process` or `run: docker`"


def refusal(service: Service, done: str) -> str:
    """Why k2run cannot do something to a service; empty when it can.

    `done` is `start`, `stop`, or another word for what is to be done to it.
    """
    if service.run not in {RunBy.EXTERNAL, RunBy.SSH} or (done in {"start", "stop"} and getattr(service, done)):
        return ""
    if service.start or service.stop:
        return f"the stack file does not say how to {done} {service.name}"
    return f"k2run does not run {service.name}, it only reaches it over the network"


class CommandBackend:
    """Looks at one service from outside; starts and stops it where its stack file says how.

    Args:
        service: The service.
        ssh: The settings of `connections.ssh`.
        redact: Takes secrets out of what a command printed.
    """

    def __init__(self, service: Service, ssh: Mapping[str, Any], redact: Callable[[str], str]) -> None:
        self._service = service
        self._ssh = ssh
        self._redact = redact

    def status(self) -> ServiceStatus:
        """Whether it runs, by its `status` command; else whether it answers, by its `ready` probe.

        Raises:
            NotApplicable: The stack file does not say how to see that.
        """
        if self._service.status:
            return self._asked()
        ready = readiness(self._service)
        if ready is None:
            raise NotApplicable(
                f"{self._service.name} cannot be checked: {refusal(self._service, 'check')}",
                hint="give it a `ready` probe or a `status` command in the stack file",
            )
        seen = probe(ready, LOOK_S, self._service.headers)
        state = State.RUNNING if seen.ready else State.UNHEALTHY if seen.answered else State.STOPPED
        return ServiceStatus(service=self._service.name, state=state, detail=seen.detail)

    def start(self, deadline: Deadline) -> bool:
        """Run its `start` command, unless it is seen to run.

        Raises:
            StackUnavailable: The command failed; the message has what it printed.
            NotApplicable: There is none.
        """
        self._require("start")
        if self.status().state in {State.RUNNING, State.UNHEALTHY}:
            return False
        code, said = self._run(self._service.start, deadline)
        if code:
            raise StackUnavailable(
                f"{self._service.name} cannot be started: {self._told('start', code, said)}",
                hint=self._look_at("start", code),
            )
        return True

    def stop(self, deadline: Deadline) -> bool:
        """Run its `stop` command, and wait until it is seen not to run.

        Raises:
            Refused: The command failed; the message has what it printed.
            TimedOut: It still runs.
            NotApplicable: There is none.
        """
        self._require("stop")
        if self.status().state is State.STOPPED:
            return False
        code, said = self._run(self._service.stop, deadline)
        if code:
            raise Refused(
                f"{self._service.name} cannot be stopped: {self._told('stop', code, said)}",
                hint=self._look_at("stop", code),
            )
        while self.status().state is not State.STOPPED:  # what cannot be seen may still run
            deadline.sleep(0.1)
        return True

    def kill(self, deadline: Deadline) -> None:  # noqa: ARG002
        """Cannot be done."""
        self._refuse("kill")

    def pause(self, deadline: Deadline) -> None:  # noqa: ARG002
        """Cannot be done."""
        self._refuse("pause")

    def resume(self, deadline: Deadline) -> bool:  # noqa: ARG002
        """Cannot be done; one with commands is never paused, so there is nothing to do."""
        if not self._service.start:
            self._refuse("resume")
        return False

    def log(self, *, lines: int, since: datetime | None, deadline: Deadline) -> list[LogLine]:
        """The newest lines that its `logs` command prints, its complaints included.

        Raises:
            Unknown: The command failed; or `since` was asked, and the lines do not say when they were written.
            NotApplicable: There is none.
        """
        if not self._service.logs:
            self._refuse("read the log of", hint=GIVE_LOGS)
        with tempfile.NamedTemporaryFile() as out:
            code = self._exit_code(self._service.logs, deadline, out)
            printed = Path(out.name)
            if code:
                told = self._told("logs", code, self._end_of(out))
                raise Unknown(
                    f"the log of {self._service.name} cannot be read: {told}", hint=self._look_at("logs", code)
                )
            if since is not None and printed.stat().st_size and not has_times(printed):
                hint = "leave `since` out, or let the command print the time of each line"
                message = f"the log of {self._service.name} does not say when its lines were written"
                raise Unknown(message, hint=hint)
            return read_tail(printed, lines=lines, since=since)

    def last_words(self, lines: int = 12) -> str:  # noqa: ARG002
        """Not known: what its `logs` command prints does not say when it was started last."""
        return ""

    def usage(self, over_s: float, deadline: Deadline) -> Usage:  # noqa: ARG002
        """Cannot be done."""
        self._refuse("measure")

    def _asked(self) -> ServiceStatus:
        """What its `status` command says; one that cannot be run says nothing."""
        try:
            code, said = self._run(self._service.status, Deadline(STATUS_S))
        except (TimedOut, StackUnavailable) as error:
            return self._unknown(f"its `status` command: {error.message}")
        last = said.splitlines()[-1] if said else ""
        if code in _NO_ANSWER:
            return self._unknown(self._told("status", code, said))
        if code == 0:
            return ServiceStatus(service=self._service.name, state=State.RUNNING, detail=last)
        detail = last or f"its `status` command exits {code}"
        return ServiceStatus(service=self._service.name, state=State.STOPPED, detail=detail)

    def _unknown(self, detail: str) -> ServiceStatus:
        where = (
            f"host {self._service.host}" if self._service.run is RunBy.SSH else f"services.{self._service.name}.status"
        )
        return ServiceStatus(service=self._service.name, state=State.UNKNOWN, detail=f"{detail} (check {where})")

    def _run(self, words: Sequence[str], deadline: Deadline) -> tuple[int, str]:
        """The exit code of a command and the end of what it printed."""
        with tempfile.TemporaryFile() as out:
            return self._exit_code(words, deadline, out), self._end_of(out)

    def _exit_code(self, words: Sequence[str], deadline: Deadline, out: IO[bytes]) -> int:
        """Run a command that prints into a file; at the deadline it is ended.

        What it leaves running in the background goes on, and is not waited for.
        """
        service = self._service
        try:
            child = start_apart(
                self._there(words),
                env={**os.environ, **service.env},
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=Path(service.cwd) if service.cwd and service.run is not RunBy.SSH else None,
            )
        except OSError as error:
            name = error.filename or words[0]
            raise StackUnavailable(
                f"a command of {service.name} cannot be run: {name}: {error.strerror}",
                hint="see its `start`, `stop`, `status` and `logs` in the stack file",
            ) from error
        return await_end(child, deadline, _GRACE_S)

    def _end_of(self, out: IO[bytes]) -> str:
        out.seek(max(0, out.seek(0, os.SEEK_END) - _QUOTED))
        return self._redact(out.read().decode("utf-8", "replace").strip())

    def _there(self, words: Sequence[str]) -> list[str]:
        """The command where the service is: on this machine, or on its host."""
        if self._service.run is not RunBy.SSH:
            return list(words)
        return [*ssh_command(self._service.host, self._ssh), "--", shlex.join(words)]

    def _told(self, key: str, code: int, said: str) -> str:
        says = f": {said}" if said else ""
        if self._unconnected(code):
            return f"its host {self._service.host} cannot be reached through ssh{says}"
        return f"its `{key}` command exits {code}{says}"

    def _look_at(self, key: str, code: int) -> str:
        place = f"services.{self._service.name}"
        if self._unconnected(code):
            return f"host, user, port, private_key, known_hosts: see connections.ssh and {place}.host in the stack file"
        return f"look at its `{key}` command in the stack file: {place}.{key}"

    def _unconnected(self, code: int) -> bool:
        """Whether `ssh` says that it did not get to the host; a command that exits with the same code is rare."""
        return self._service.run is RunBy.SSH and code == _NO_CONNECTION

    def _require(self, done: str) -> None:
        if refusal(self._service, done):
            self._refuse(done)

    def _refuse(self, done: str, hint: str = GIVE_COMMANDS) -> NoReturn:
        raise NotApplicable(f"cannot {done} {self._service.name}: {refusal(self._service, done)}", hint=hint)


def ssh_command(host: str, settings: Mapping[str, Any]) -> list[str]:
    """The program `ssh` and its options for a host of `connections.ssh`; it never asks for a password.

    Args:
        host: A name under `hosts`, or an address.
        settings: Those of the connection.
    """
    named = (settings.get("hosts") or {}).get(host) or {"address": host}
    words = ["ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
    if settings.get("private_key"):
        words += ["-i", str(settings["private_key"]), "-o", "IdentitiesOnly=yes"]
    if settings.get("known_hosts"):
        words += ["-o", f"UserKnownHostsFile={settings['known_hosts']}"]
    port, user = named.get("port") or settings.get("port"), named.get("user") or settings.get("user")
    words += ["-p", str(port)] if port else []
    words += ["-l", str(user)] if user else []
    return [*words, str(named["address"])]
