"""When an answer arrived: as the operating system noted it, where it does, not when its turn came in this process.

A generator that is busy with one answer sees the next one late, and on a busy machine both wait for a processor:
neither is the time of the service that was asked. Linux stamps what it receives (SO_TIMESTAMPNS); elsewhere, and under
TLS, an answer counts to the moment at which the event loop was told of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import selectors
import socket
import struct
import sys
import time

_STAMPED = 35
"""SO_TIMESTAMPNS of Linux, which Python's socket module does not name: to ask for it, and to know it by."""
_TIMESPEC = struct.Struct("@ll")
_ROOM = socket.CMSG_SPACE(_TIMESPEC.size)
_LOOKS = 100
"""How often it is checked, a millisecond apart, that the system stamps; it takes one or two on Linux."""


class StampedSelector(selectors.DefaultSelector):
    """Waits to the microsecond, and knows when what is being read arrived.

    epoll rounds waits up to whole milliseconds, which an open loop would add to its latencies.

    Attributes:
        woke: When the last wait ended (monotonic).
        arrived: When the data that are being read arrived; `woke`, unless the system knows better.
    """

    def __init__(self) -> None:
        super().__init__()
        self.woke = self.arrived = self._asked = self._asked_before = time.monotonic()
        self._stamping = _stamping() if can_stamp() else None

    def close(self) -> None:
        """Close the selector, and let the system stop stamping."""
        if self._stamping is not None:
            self._stamping.close()
        super().close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """The events that are ready, waited for at most `timeout` seconds."""
        self._asked_before, self._asked = self._asked, time.monotonic()
        if timeout is None or timeout <= 0:
            events = super().select(timeout)
        elif timeout > 0.002:  # noqa: PLR2004 - coarse first; the event loop comes back for the rest
            events = super().select(timeout - 0.001)
        else:
            select.select([self.fileno()], [], [], timeout)
            events = super().select(0)
        self.woke = self.arrived = time.monotonic()
        return events

    def note(self, stamp_ns: int) -> None:
        """The data that are being read arrived at this time of day (nanoseconds since the epoch).

        What cannot be true is not believed: the time of day may have been set in between. What came after the last wait
        had begun may have been missed by it, for as long as the process stood still at its end.
        """
        at = time.monotonic() - (time.time_ns() - stamp_ns) / 1e9
        self.arrived = at if self._asked_before <= at <= time.monotonic() else self.woke


class StampedSocket(socket.socket):
    """A TCP socket that tells a selector when the system received what is read from it."""

    def __init__(self, selector: StampedSelector, family: int, kind: int, protocol: int) -> None:
        super().__init__(family, kind, protocol)
        self._selector = selector
        self.setblocking(False)
        with contextlib.suppress(OSError):  # the selector's own time will do
            self.setsockopt(socket.SOL_SOCKET, _STAMPED, 1)

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Read, as asyncio's transports do."""
        data, notes, _, _ = self.recvmsg(bufsize, _ROOM, flags)
        self._selector.arrived = self._selector.woke
        for _, kind, note in notes:
            if kind == _STAMPED and len(note) >= _TIMESPEC.size:
                seconds, rest = _TIMESPEC.unpack_from(note)
                self._selector.note(seconds * 1_000_000_000 + rest)
        return data


def _stamping() -> socket.socket:
    """An open socket that keeps the system stamping; returns once the stamps really come.

    Linux begins to stamp a moment after the first socket asks for it, and ends with the last one: what arrives in
    between has no stamp. A load must not find that out with its first answers.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        keeper = socket.create_connection(listening.getsockname())
        with contextlib.suppress(OSError):
            keeper.setsockopt(socket.SOL_SOCKET, _STAMPED, 1)
            peer, _ = listening.accept()
            with peer:
                for _ in range(_LOOKS):
                    peer.sendall(b".")
                    if keeper.recvmsg(1, _ROOM)[1]:
                        break
                    time.sleep(0.001)
    return keeper


def can_stamp() -> bool:
    """Whether this system notes when it received something."""
    return sys.platform == "linux"


async def connected(selector: StampedSelector, host: str, port: int) -> StampedSocket:
    """A connection to the first address that takes one.

    Raises:
        OSError: None does; the reason of the last.
    """
    failed = OSError("there is no address of this name")
    for family, kind, protocol, _, address in await _addresses(host, port):
        stamped = StampedSocket(selector, family, kind, protocol)
        try:
            await asyncio.get_running_loop().sock_connect(stamped, address)
        except OSError as error:
            failed = error
            stamped.close()
        except BaseException:
            stamped.close()
            raise
        else:
            return stamped
    raise failed


async def _addresses(host: str, port: int) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    """An address as it is; a name takes a thread, because it may take a while."""
    stream = socket.SOCK_STREAM
    try:
        return [*socket.getaddrinfo(host, port, type=stream, flags=socket.AI_NUMERICHOST)]
    except socket.gaierror:
        return [*await asyncio.get_running_loop().getaddrinfo(host, port, type=stream)]
