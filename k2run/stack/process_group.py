"""A process of this machine with everything in its process group; who listens on a port of this machine.

It is known by pid and start time together, so that another process is never mistaken for it when the pid is used again.
Long because groups, ports and use are read from the same table of processes, which changes while it is read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import signal
import socket
import subprocess
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import Struct

from k2run.errors import Interrupted, Refused, TimedOut
from k2run.stack.backend import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import IO

    import psutil

    from k2run.actions.deadline import Deadline
    from k2run.stack.model import Service

_SAME_START_S = 2.0  # the kernel's idea of a start time moves a little when the clock is set
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}
"""The processes that this very process started: as their parent it must reap them."""
_WHOLE = frozenset({signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL})
MARK = "K2RUN_SERVICE"
"""Environment variable by which a service is known as ours even when k2run died before it could note the pid."""
_SHOWN = 100  # characters of a command line
_DYING_S = 1.0
_POLL_S = 0.01
_CHECK_S, _CHECK_AT_MOST_S = 0.02, 0.2
"""Seconds between two checks of a child: at first, and at most."""


class Leader(Struct, frozen=True, kw_only=True):
    """The first process of a group, whose pid is the group's number.

    Attributes:
        created: When it began, by the kernel, in seconds since the epoch.
    """

    pid: int
    created: float


def start_apart(
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, which may outlive this one; it is reaped when it ends before.

    Raises:
        OSError: It cannot be run.
    """
    child = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=env, cwd=cwd, start_new_session=True
    )
    _CHILDREN[child.pid] = child
    return child


def await_end(child: subprocess.Popen[bytes], deadline: Deadline, grace_s: float) -> int:
    """The exit code of a child that leads a group; the group is ended at the deadline and on a request to stop.

    Args:
        child: The leader.
        deadline: How long it may take.
        grace_s: Seconds between SIGTERM and SIGKILL.

    Raises:
        TimedOut: The deadline passed first.
        Interrupted: The run was asked to end.
    """
    began = time.monotonic()
    try:
        while (code := child.poll()) is None:
            deadline.sleep(min(_CHECK_S + (time.monotonic() - began) / 10, _CHECK_AT_MOST_S))
    except (TimedOut, Interrupted):
        end_group(child, grace_s)
        raise
    return code


def end_group(child: subprocess.Popen[bytes], grace_s: float) -> None:
    """End a child that leads a group, the group, and descendants that left it; politely first, then for good.

    SIGKILL comes `grace_s` seconds after SIGTERM.
    """
    others = _descendants_outside(child.pid)
    _signal_all(child.pid, others, signal.SIGTERM)
    patience = time.monotonic() + grace_s
    try:
        while time.monotonic() < patience and (child.poll() is None or _is_group(child.pid)):
            time.sleep(0.01)
    finally:
        _signal_all(child.pid, others, signal.SIGKILL)
    child.wait()


def _descendants_outside(pid: int) -> list[int]:
    """Processes below `pid` that made a session of their own and so left the group."""
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True) if os.getpgid(child.pid) != pid]
    except (psutil.Error, OSError):
        return []


def _signal_all(group: int, others: Sequence[int], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
    for pid in others:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def exit_code(leader: Leader) -> int | None:
    """How it ended, negative for a signal; None when it lives or was another process's child."""
    child = _CHILDREN.get(leader.pid)
    return child.poll() if child is not None else None


def living(leader: Leader) -> psutil.Process | None:
    """The process, when it lives; one that ended and only waits to be reaped is dead."""
    import psutil

    if exit_code(leader) is not None:
        return None
    try:
        process = psutil.Process(leader.pid)
        same = abs(process.create_time() - leader.created) < _SAME_START_S
        return process if same and not _is_dead(process) else None
    except psutil.NoSuchProcess:
        return None


def _is_dead(process: psutil.Process) -> bool:
    """Whether a process has ended and only waits to be reaped.

    The first thread is shown as ended while others still end, and hold the ports and files of the process.
    """
    import psutil

    return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1


def is_stopped(process: psutil.Process) -> bool:
    """Whether a process stands still by SIGSTOP."""
    import psutil

    try:
        return process.status() in {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}
    except psutil.NoSuchProcess:
        return False


def signal_group(leader: Leader, number: signal.Signals) -> None:
    """Send a signal to the whole group; nothing happens when it is gone.

    What no process can refuse (to stand still, to go on, to be killed) also reaches those below it that left the group,
    as PostgreSQL's servers of one connection do: paused means that nothing of it works.

    Raises:
        Refused: It belongs to another user.
    """
    others = _descendants_outside(leader.pid) if number in _WHOLE else []
    try:
        os.killpg(leader.pid, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise Refused(f"pid {leader.pid} belongs to another user", hint="run k2run as that user") from error
    for pid in others:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def is_gone(leader: Leader) -> bool:
    """Neither the process nor anything else of its group is alive."""
    return living(leader) is None and not _group_lives(leader.pid)


def has_remains(leader: Leader) -> bool:
    """Whether the process is gone and others of its group are not.

    The kernel does not reuse a pid as long as it names a group, so these are certainly its own.
    """
    import psutil

    return not psutil.pid_exists(leader.pid) and _group_lives(leader.pid)


def _group_lives(group: int) -> bool:
    """Whether a group has a member that does not merely wait to be reaped."""
    import psutil

    if not _is_group(group):
        return False
    for pid in psutil.pids():
        with suppress(OSError, psutil.Error):
            if os.getpgid(pid) == group and not _is_dead(psutil.Process(pid)):
                return True
    return False


def _is_group(group: int) -> bool:
    """Whether a group has a member, one that waits to be reaped counted."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Holder(Struct, frozen=True, kw_only=True):
    """The process that listens on a port.

    Attributes:
        group: Its process group.
        says: Its pid and command line, for people.
        environment: Its environment variables; empty when they may not be seen.
    """

    pid: int
    group: int
    says: str
    environment: dict[str, str]


def busy_port(port: int) -> bool:
    """Whether a process listens on a port, on whatever address."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("0.0.0.0", port))  # noqa: S104 - a trial without listening
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


class Socket(NamedTuple):
    """A TCP socket of this machine; `pid` is None where its process may not be seen."""

    port: int
    pid: int | None
    listens: bool


def sockets_seen(leaders: Iterable[int] = ()) -> list[Socket]:
    """The TCP sockets of this machine, all read at once.

    Args:
        leaders: Processes whose sockets, and their children's, are read where only root sees those of all (macOS).
    """
    import psutil

    seen: list[tuple[int | None, Any]] = []
    try:
        seen += [(one.pid, one) for one in psutil.net_connections("tcp")]
    except psutil.AccessDenied:
        for leader in leaders:
            with suppress(psutil.Error):
                first = psutil.Process(leader)
                family = (first, *first.children(recursive=True))
                seen += [(process.pid, one) for process in family for one in process.net_connections("tcp")]
    return [Socket(one.laddr.port, pid, one.status == psutil.CONN_LISTEN) for pid, one in seen if one.laddr]


def holder_of(port: int, sockets: Iterable[Socket]) -> Holder | None:
    """Which process of those sockets listens on a port; None when it cannot be seen (another user's, or gone)."""
    import psutil

    try:
        pid = next(one.pid for one in sockets if one.listens and one.port == port and one.pid)
        process = psutil.Process(pid)
        says = described(process)
    except (psutil.Error, StopIteration):
        return None
    try:
        environment = process.environ()
    except psutil.Error:
        environment = {}
    return Holder(pid=pid, group=os.getpgid(pid), says=says, environment=environment)


def described(process: psutil.Process) -> str:
    """The pid and the command line of a process, for people.

    Raises:
        psutil.Error: It may not be seen, or is gone.
    """
    command = shlex.join(process.cmdline()) or process.name()
    return f"pid {process.pid} ({command if len(command) <= _SHOWN else command[: _SHOWN - 1] + '…'})"


class Record(Leader, frozen=True, kw_only=True):
    """What is kept on disk about a service that was started.

    Attributes:
        restarts: How often it was started again since the stack came up.
        log_from: Size of its log when it was started, in bytes.
        started_as: Fingerprint of the service that was started; empty for one that was found running.
    """

    restarts: int = 0
    log_from: int = 0
    started_as: str = ""


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept on disk about a service that k2run ended on purpose, until it is started again.

    Attributes:
        pid: The process that it was.
        at: When, in seconds since the epoch.
        how: `stopped` or `killed`.
        by: The command and the account, such as `k2run down of alice`.
    """

    pid: int
    at: float
    how: str
    by: str

    @property
    def says(self) -> str:
        """Such as `stopped on 2026-03-01 at 03:12:44 UTC by k2run down of alice`."""
        return f"{self.how} on {datetime.fromtimestamp(self.at, UTC):%Y-%m-%d at %H:%M:%S} UTC by {self.by}"


def fingerprint(service: Service) -> str:
    """Tells whether two services are started with the same command and environment, without telling those."""
    written = msgspec.json.encode([service.command, sorted(service.env.items())])
    return hashlib.sha256(written).hexdigest()[:16]


def holder_for_sure(port: int) -> Holder | None:
    """Who holds a port; a holder that cannot be seen gets a second to be gone, as a process that just ends is."""
    end = time.monotonic() + _DYING_S
    while True:
        holder = holder_of(port, sockets_seen())
        if holder is not None or not busy_port(port) or time.monotonic() > end:
            return holder
        time.sleep(_POLL_S)


def usage_of(process: psutil.Process, over_s: float, deadline: Deadline) -> Usage | None:
    """What a process and its children use, measured over so many seconds; None when they have all ended meanwhile."""
    import psutil

    members = [process, *process.children(recursive=True)]
    for member in members:
        with suppress(psutil.Error):
            member.cpu_percent()
    waited, began = _waited_s(members), time.monotonic()
    deadline.sleep(over_s)
    waiting = _waited_s(members) - waited
    elapsed = time.monotonic() - began
    cpu, rss, alive = 0.0, 0, 0
    for member in members:
        with suppress(psutil.Error):
            cpu += member.cpu_percent()
            rss += member.memory_info().rss
            alive += 1
    if not alive:
        return None
    return Usage(
        cpu_percent=round(cpu, 1),
        rss_bytes=rss,
        processes=alive,
        waiting_percent=round(max(0.0, 100 * waiting / elapsed), 1) if waited or waiting else None,
    )


def _waited_s(processes: Iterable[psutil.Process]) -> float:
    """How long the threads of some processes were ready to run without a core: proc_pid_schedstat(5), second field."""
    waited = 0
    for process in processes:
        for thread in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
            with suppress(OSError, ValueError, IndexError):
                waited += int(thread.read_text(encoding="ascii").split()[1])
    return waited / 1e9
