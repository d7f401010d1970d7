"""Who holds a lock on a file of this machine, by the kernel's own list."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path

_LIST = Path("/proc/locks")
_FIELDS = 8
_SHOWN = 100  # characters of a command line


def lock_holders(paths: list[Path]) -> list[str]:
    """The processes that hold a lock for writing on one of these files, for people; empty where it is unknown.

    Args:
        paths: The files; those that are missing are passed over.
    """
    import psutil

    wanted = set()
    for path in paths:
        with suppress(OSError):
            wanted.add(path.stat().st_ino)
    holders: list[str] = []
    for pid in sorted(_writers(wanted) - {os.getpid()}):
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            command = shlex.join(process.cmdline()) or process.name()
            holders.append(f"pid {pid} ({command if len(command) <= _SHOWN else command[: _SHOWN - 1] + '…'})")
    return holders


def _writers(inodes: set[int]) -> set[int]:
    """Pids with a write lock on one of these inodes; lines that wait for a lock begin with an arrow."""
    try:
        lines = _LIST.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    found = set()
    for line in lines:
        fields = line.split()
        if len(fields) == _FIELDS and fields[3] == "WRITE" and int(fields[5].rpartition(":")[2]) in inodes:
            found.add(int(fields[4]))
    return found - {-1, 0}
