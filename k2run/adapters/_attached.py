"""What a command inside a container prints, heard over the engine's own connection."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from k2run.errors import Interrupted, TimedOut

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from docker import DockerClient

    from k2run.actions.deadline import Deadline

KEPT_BYTES = 64 * 1024
_STDOUT, _STDERR = 1, 2
_HEADER = 8
_LISTEN_S = 0.2  # how often a command that says nothing is asked whether it should end


def follow(engine: DockerClient, run: str, deadline: Deadline) -> tuple[str, str]:
    """What a command prints, until it ends.

    Raises:
        TimedOut: It did not end in time; it was ended where that is possible.
        Interrupted: The run was asked to end, and the command with it.
    """
    kept = {_STDOUT: b"", _STDERR: b""}
    answer: Any = engine.api.exec_start(run, socket=True)
    try:
        for stream, part in _frames(getattr(answer, "_sock", answer), deadline):
            kept[stream] = (kept.get(stream, b"") + part)[-KEPT_BYTES:]
    except (TimedOut, Interrupted):
        _end(engine, run)
        raise
    finally:
        answer.close()
    return kept[_STDOUT].decode(errors="replace"), kept[_STDERR].decode(errors="replace")


def _frames(connection: socket.socket, deadline: Deadline) -> Iterator[tuple[int, bytes]]:
    """The engine's frames: byte 0 says which stream, bytes 4 to 8 how long; docker-py reads them without a timeout."""
    waiting = b""
    while True:
        while len(waiting) >= _HEADER and len(waiting) >= (whole := _HEADER + int.from_bytes(waiting[4:_HEADER])):
            yield waiting[0], waiting[_HEADER:whole]
            waiting = waiting[whole:]
        connection.settimeout(deadline.at_most(_LISTEN_S))
        try:
            part = connection.recv(KEPT_BYTES)
        except TimeoutError:
            continue
        if not part:
            return
        waiting += part


def _end(engine: DockerClient, run: str) -> None:
    """End a command in a container: the engine cannot, but on the same machine its pid is known."""
    pid = engine.api.exec_inspect(run)["Pid"]
    if pid and engine.api.base_url.startswith("http+docker"):  # a socket of this machine
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
