"""A process of this machine with everything in its process group.

It is known by pid and start time together, so that another process is never mistaken for it when the pid is used again.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.errors import Refused

if TYPE_CHECKING:
    import signal
    import subprocess

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


def adopt(child: subprocess.Popen[bytes]) -> None:
    """Take note of a child, so that it is reaped when it ends."""
    _CHILDREN[child.pid] = child


def exit_code(leader: Leader) -> int | None:
    """How it ended, negative for a signal; None when it lives or was somebody else's child."""
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

    Raises:
        Refused: It belongs to another user.
    """
    try:
        os.killpg(leader.pid, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise Refused(f"pid {leader.pid} belongs to another user", hint="run k2run as that user") from error


def is_gone(leader: Leader) -> bool:
    """Neither the process nor anything else of its group is alive."""
    return living(leader) is None and not _group_lives(leader.pid)


def has_remains(leader: Leader) -> bool:
    """Whether the process is gone and others of its group are not.

    The kernel gives a pid to nobody as long as it names a group, so these are certainly its own.
    """
    import psutil

    return not psutil.pid_exists(leader.pid) and _group_lives(leader.pid)


def _group_lives(group: int) -> bool:
    """Whether a group has a member that does not merely wait to be reaped."""
    import psutil

    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    for pid in psutil.pids():
        with suppress(OSError, psutil.Error):
            if os.getpgid(pid) == group and not _is_dead(psutil.Process(pid)):
                return True
    return False
