"""TCP ports of this machine, and who holds them."""

from __future__ import annotations

import errno
import os
import shlex
import socket

from msgspec import Struct

MARK = "K2RUN_SERVICE"
"""Environment variable by which a service is known as ours even when k2run died before it could note the pid."""
_SHOWN = 100  # characters of a command line


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


def holder_of(port: int) -> Holder | None:
    """The process that listens on a port; None when it cannot be seen (another user's, or gone)."""
    import psutil

    try:
        listening = [
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        ]
        pid = next(pid for pid in listening if pid)
        process = psutil.Process(pid)
        command = shlex.join(process.cmdline()) or process.name()
    except (psutil.Error, StopIteration):
        return None
    try:
        environment = process.environ()
    except psutil.Error:
        environment = {}
    shown = command if len(command) <= _SHOWN else command[: _SHOWN - 1] + "…"
    return Holder(pid=pid, group=os.getpgid(pid), says=f"pid {pid} ({shown})", environment=environment)
