"""SSH: run commands on other hosts, and copy files to and from them.

Long because the adapter is one module: its sessions, its results and its actions.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from k2run.actions.action import Effect, Result, action, beginning, ending
from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.adapters._clients import cause_of, punctually, require_client
from k2run.adapters._command import Kept, Printed
from k2run.errors import ActionError, Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from asyncssh import SSHClientConnection, SSHReader

T = TypeVar("T")
PORT = 22
_SETTING = "see connections.ssh in the stack file"


class Host(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A host that steps name.

    Attributes:
        address: Its name in DNS, or its IP address.
        port: Its SSH port; the connection's when 0.
        user: Who logs in; the connection's when empty.
    """

    address: str
    port: int = 0
    user: str = ""


class Ssh(Connection, frozen=True, kw_only=True, key="ssh"):
    """Hosts that are reached over SSH. `~/.ssh/config`, its keys and the agent apply as they do for the program `ssh`.

    Attributes:
        hosts: By the name that steps use; a step may also name an address that is not listed.
        user: Who logs in.
        port: TCP port.
        private_key: File with the key to log in with; those of the agent and of `~/.ssh` when empty.
        passphrase: Of that key.
        password: To log in with, where keys are not accepted.
        known_hosts: File with the keys of the hosts; `~/.ssh/known_hosts` when empty. A host that it does not name is
            refused.
    """

    hosts: dict[str, Host] = {}
    user: str = ""
    port: int = PORT
    private_key: str = ""
    passphrase: str = ""
    password: str = ""
    known_hosts: str = ""

    def find(self, host: str) -> Host:
        """The host of that name, or at that address, with the connection's settings where it has none of its own."""
        named = self.hosts.get(host) or Host(address=host)
        return Host(address=named.address, port=named.port or self.port, user=named.user or self.user)


def session(
    ssh: Ssh, host: str, deadline: Deadline, work: Callable[[SSHClientConnection], Coroutine[Any, Any, T]]
) -> T:
    """What some work in a session on a host returns; the session ends with it.

    Raises:
        Unreachable: Nothing answers there, or the connection broke.
        Refused: The host is not known, it lets the user not in, or the client is not installed here.
        TimedOut: The deadline passed first.
    """
    require_client("ssh", "asyncssh")
    import asyncssh

    there = ssh.find(host)
    try:
        return punctually(_session(ssh, there, deadline, work), deadline)
    except TimedOut as error:
        message = f"{shown(there)} did not finish within {deadline.seconds:g}s"
        raise TimedOut(
            message, hint=f"is it up, and is the work fast enough? {_SETTING}, or raise the step's timeout"
        ) from error
    except (asyncssh.Error, asyncssh.KeyImportError, OSError, ValueError) as error:
        raise _judge(ssh, host, there, error) from error


def shown(host: Host) -> str:
    """Where a host is: `ops@db1.example:22`."""
    return f"{host.user}@{host.address}:{host.port}" if host.user else f"{host.address}:{host.port}"


async def _session(
    ssh: Ssh, host: Host, deadline: Deadline, work: Callable[[SSHClientConnection], Coroutine[Any, Any, T]]
) -> T:
    async with _connected(ssh, host, deadline) as link:
        return await work(link)


@contextlib.asynccontextmanager
async def _connected(ssh: Ssh, host: Host, deadline: Deadline) -> AsyncIterator[SSHClientConnection]:
    import asyncssh

    patience = deadline.remaining()
    settings: dict[str, Any] = {"username": host.user, "client_keys": ssh.private_key, "known_hosts": ssh.known_hosts}
    link = await asyncssh.connect(
        host.address,
        host.port,
        connect_timeout=patience,
        login_timeout=patience,
        password=ssh.password or None,
        passphrase=ssh.passphrase or None,
        **{name: value for name, value in settings.items() if value},
    )
    try:
        yield link
    finally:
        link.abort()  # at once: a polite farewell waits for an answer


async def end(link: SSHClientConnection, pid: int) -> None:
    """End the process group of a command on the other host; politely first, then for good.

    By a second command: a server ends nothing with a connection, and sshd passes no signals on to what root runs.
    """
    import asyncssh

    ends = (f"kill -s {name} -- -{pid} 2>/dev/null || kill -s {name} {pid} 2>/dev/null" for name in ("TERM", "KILL"))
    with contextlib.suppress(asyncssh.Error, OSError):
        await link.run(f"sh -c '{'; sleep 0.1; '.join(ends)}'")


def _judge(ssh: Ssh, host: str, there: Host, error: Exception) -> ActionError:
    import asyncssh

    cause = cause_of(error, ssh.password, ssh.passphrase)
    where, unlisted = shown(there), bool(ssh.hosts) and host not in ssh.hosts
    hint = f"connections.ssh.hosts names {', '.join(ssh.hosts)}" if unlisted else _SETTING
    match error:
        case asyncssh.HostKeyNotVerifiable():
            advice = f"compare the host's key, then add it: ssh-keyscan -p {there.port} {there.address}; {hint}"
            verdict: ActionError = Refused(f"{where} is not known here: {cause}", hint=advice)
        case asyncssh.PermissionDenied():
            verdict = Refused(f"{where} denies access: {cause}", hint=f"user, key, password: {hint}")
        case asyncssh.KeyImportError() | asyncssh.KeyEncryptionError():
            verdict = Refused(f"the key for {where} cannot be used: {cause}", hint=f"private_key, passphrase: {hint}")
        case asyncssh.SFTPError():
            verdict = Refused(
                f"{where} refuses: {error.reason}", hint="does the path exist there, and may the user use it?"
            )
        case FileNotFoundError() if error.filename:
            verdict = Refused(f"{error.filename} is missing on this machine", hint=hint)
        case asyncssh.ConnectionLost() | asyncssh.DisconnectError() | OSError():
            verdict = Unreachable(
                f"{where} does not answer: {cause}", hint=f"is it up, and is that its SSH port? {hint}"
            )
        case _:
            verdict = Refused(f"{where} refuses: {cause}", hint=hint)
    return verdict


QUOTED = 300
"""Characters of an output that an error quotes."""
CHUNK = 64 * 1024
_NAMED = 'echo "k2run:$$" >&2; exec "${SHELL:-/bin/sh}" -c "$1"'
"""Runs a line as sshd does, and says first which process it is, so that it can be ended."""
_PID = re.compile(rb"k2run:(\d+)\n")
FAREWELL_S = 3.0
"""Seconds that the start of a command is waited for that is to be ended."""
NOT_FOUND = 127
"""The exit code of a shell that finds no such program."""


class Finished(Printed, frozen=True, kw_only=True):
    """A command on another host that ended by itself.

    Attributes:
        host: Where it ran.
        exit_code: Its exit code.
        stdout: What it printed, without the last line break; of more than 8 MiB the beginning and the end.
        stderr: Its complaints, likewise.
        elapsed_ms: From its start to its end, without logging in.
        truncated: Only the beginning and the end of one of them are here; what an expression would find is unknown.
    """

    host: str
    exit_code: int
    elapsed_ms: float

    def headline(self) -> str:
        """The exit code and the last line printed."""
        last = beginning(self.stdout.rsplit("\n", 1)[-1], 80)
        return f"{self.host}: exit {self.exit_code}" + (f", {last}" if last else "")


class Copied(Result, frozen=True, kw_only=True):
    """A file that was copied.

    Attributes:
        inside: Its path on the other host.
        outside: Its path on this machine.
        bytes: How large it is.
    """

    host: str
    inside: str
    outside: str
    bytes: int
    elapsed_ms: float

    def headline(self) -> str:
        """Such as `12,288 bytes`."""
        return f"{self.bytes:,} bytes"


@action("ssh.run", effect=Effect.CHANGES)
def run(
    ssh: Ssh, deadline: Deadline, host: str, command: str | list[str], stdin: str = "", ok_codes: list[int] = [0]
) -> Finished:
    """Run a command on another host and keep what it prints; it ends there at the step's deadline.

    A process that it leaves in the background has to close its outputs, or the step waits for it, as `ssh` does.

    Args:
        host: A name of `connections.ssh.hosts`, or an address.
        command: A line for the user's shell there, or a list of a program and its arguments.
        stdin: Text for its standard input.
        ok_codes: Exit codes that count as success.
    """
    return _finished(ssh, deadline, host, command, stdin, ok_codes)


@action("ssh.probe")
def probe(
    ssh: Ssh, deadline: Deadline, host: str, command: str | list[str], stdin: str = "", ok_codes: list[int] = [0]
) -> Finished:
    """Run a command that only observes, so it may be a symptom; that it changes nothing is its author's promise.

    Args:
        host: A name of `connections.ssh.hosts`, or an address.
        command: A line for the user's shell there, or a list of a program and its arguments.
        stdin: Text for its standard input.
        ok_codes: Exit codes that are an answer; with any other the step fails, and as a symptom it is unseen then.
    """
    return _finished(ssh, deadline, host, command, stdin, ok_codes)


@action("ssh.copy_to", effect=Effect.CHANGES)
def copy_to(ssh: Ssh, deadline: Deadline, host: str, outside: str, inside: str) -> Copied:
    """Copy a file to another host; it appears there as a whole, and replaces one that is there.

    Args:
        host: A name of `connections.ssh.hosts`, or an address.
        outside: Path of the file on this machine.
        inside: Path to write to on the host; its folder must be there.
    """
    if not Path(outside).is_file():
        raise Refused(f"{outside} is not a file on this machine", hint="is the path right? folders are not copied")

    async def work(link: SSHClientConnection) -> int:
        async with link.start_sftp_client() as files:
            part = f"{inside}.k2run-{os.getpid()}-{time.monotonic_ns():x}"
            try:
                await files.put(outside, part, preserve=True)
                await files.posix_rename(part, inside)
            except BaseException:
                if await files.exists(part):
                    await files.remove(part)
                raise
            return int((await files.stat(inside)).size or 0)

    return _copied(ssh, deadline, host, inside, outside, work)


@action("ssh.copy_from")
def copy_from(ssh: Ssh, deadline: Deadline, host: str, inside: str, outside: str) -> Copied:
    """Copy a file from another host to this machine.

    Args:
        host: A name of `connections.ssh.hosts`, or an address.
        inside: Path of the file on the host.
        outside: Path to write to; a file that is there is replaced as a whole.
    """
    target = Path(outside)
    part = target.with_name(f"{target.name}.k2run-{os.getpid()}-{time.monotonic_ns():x}")

    async def work(link: SSHClientConnection) -> int:
        async with link.start_sftp_client() as files:
            await files.get(inside, part)
        return part.stat().st_size

    try:
        copied = _copied(ssh, deadline, host, inside, outside, work)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return copied


def _copied(ssh: Ssh, deadline: Deadline, host: str, inside: str, outside: str, work: Any) -> Copied:
    started = time.perf_counter()
    size = session(ssh, host, deadline, work)
    elapsed_ms = (time.perf_counter() - started) * 1000
    source = f"ssh {shown(ssh.find(host))}"
    return Copied(host=host, inside=inside, outside=outside, bytes=size, elapsed_ms=elapsed_ms, source=source)


def _finished(
    ssh: Ssh, deadline: Deadline, host: str, command: str | list[str], stdin: str, ok_codes: Sequence[int]
) -> Finished:
    line = command if isinstance(command, str) else shlex.join(command)
    where = shown(ssh.find(host))

    async def work(link: SSHClientConnection) -> Finished:
        return await _run(link, line, stdin, host, where)

    finished = session(ssh, host, deadline, work)
    if finished.exit_code not in ok_codes:
        said = (finished.stderr or finished.stdout).strip()
        quoted = f": {ending(said, QUOTED)}" if said else ""
        hint = "is it installed there, and on the PATH of a login without a terminal?"
        raise Refused(
            f"`{_shown(line)}` exited {finished.exit_code} on {where}{quoted}",
            hint=hint if finished.exit_code == NOT_FOUND else "",
            result=finished,
        )
    return finished


async def _run(link: SSHClientConnection, line: str, stdin: str, host: str, where: str) -> Finished:
    started = time.perf_counter()
    out, err, pids = Kept(), Kept(), list[int]()
    named = shlex.join(["sh", "-c", _NAMED, "k2run", line])
    starting = asyncio.ensure_future(link.create_process(named, encoding=None))
    try:
        process = await asyncio.shield(starting)
        if stdin:
            process.stdin.write(stdin.encode())
        process.stdin.write_eof()
        await asyncio.gather(_hear(process.stdout, out), _hear_the_rest(process.stderr, pids, err))
        await process.wait_closed()
    except asyncio.CancelledError:
        await _end(link, starting, pids)
        raise
    if process.exit_signal is not None:
        raise Refused(f"`{_shown(line)}` was ended by SIG{process.exit_signal[0]} on {where}")
    if process.exit_status is None:
        raise Unknown(f"{where} does not say how `{_shown(line)}` ended", hint="was the connection lost?")
    return Finished(
        host=host,
        exit_code=process.exit_status,
        stdout=out.text(),
        stderr=err.text(),
        elapsed_ms=(time.perf_counter() - started) * 1000,
        truncated=out.truncated or err.truncated,
        source=f"ssh {where}",
    )


async def _end(link: SSHClientConnection, starting: asyncio.Future[Any], pids: list[int]) -> None:
    """End a command, also one of which it is not yet known whether it has begun."""
    import asyncssh

    with contextlib.suppress(TimeoutError, asyncssh.Error, OSError):
        async with asyncio.timeout(FAREWELL_S):
            process = await starting
            if not pids:
                await _hear_the_pid(process.stderr, pids, Kept())
    for pid in pids:
        await end(link, pid)


def _shown(line: str) -> str:
    return beginning(" ".join(line.split()), 100)


async def _hear_the_rest(reader: SSHReader[bytes], pids: list[int], kept: Kept) -> None:
    await _hear_the_pid(reader, pids, kept)
    await _hear(reader, kept)


async def _hear_the_pid(reader: SSHReader[bytes], pids: list[int], kept: Kept) -> None:
    """The line before the complaints of a command, which names its process; a forced command has none."""
    first = await reader.readline()
    if named := _PID.fullmatch(first):
        pids.append(int(named[1]))
    else:
        kept.add(first)


async def _hear(reader: SSHReader[bytes], kept: Kept) -> None:
    while data := await reader.read(CHUNK):
        kept.add(data)
