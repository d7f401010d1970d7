"""A process of this machine with everything in its process group.

It is known by pid and start time together, so that another process is never mistaken for it when the pid is used again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import IO

    import psutil

_SAME_START_S = 2.0  # the kernel's idea of a start time moves a little when the clock is set
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}
"""The processes that this very process started: as their parent it must reap them."""


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


def end_group(child: subprocess.Popen[bytes], grace_s: float) -> None:
    """End a child that leads a group, the group, and descendants that left it; politely first, then for good.

    Args:
        child: The leader.
        grace_s: Seconds between SIGTERM and SIGKILL.
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


_WHOLE = frozenset({signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL})


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
