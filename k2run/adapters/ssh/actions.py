"""SSH: run commands on other hosts, and copy files to and from them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2run.actions.action import Effect, Result, action, beginning, ending
from k2run.actions.deadline import Deadline
from k2run.adapters._command import Kept, Printed
from k2run.adapters.ssh.client import Ssh, end, session, shown
from k2run.errors import Refused, Unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncssh import SSHClientConnection, SSHReader

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
    stdout: str
    stderr: str
    elapsed_ms: float
    truncated: bool = False

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
