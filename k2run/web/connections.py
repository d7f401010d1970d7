"""Limits of connections: how many at once, how long for a request's head, one log line a minute."""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, ClassVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio
    import socket

HEAD_S = 10.0
"""Seconds in which the head of a request must have arrived."""
QUIET_S = 60.0
"""Seconds between two identical log records."""
MOST, LEAST, RESERVED = 1000, 16, 96
"""Connections at once; file descriptors that are left to everything else: pages read files, and start runs."""
AT_ONCE, QUEUE = 16, 512
"""Connections accepted in one go before the first is served, and connections that may wait for that."""


def most_connections() -> int:
    """How many connections this process may hold."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(LEAST, min(MOST, soft - RESERVED - AT_ONCE))


class Gate:
    """Limits the number of connections: an idle one makes way for a new one.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: OrderedDict[Connection, None] = OrderedDict()
        self._working: set[Connection] = set()
        self._cut = 0
        self._told = -QUIET_S

    def opened(self, connection: Connection) -> None:
        """Count a new connection; with too many, close the one that has been idle longest."""
        self._waiting[connection] = None
        if len(self._waiting) + len(self._working) > self._most:
            oldest = next(iter(self._waiting))
            self.closed(oldest)
            oldest.transport.abort()
            self.cut()

    def works(self, connection: Connection) -> None:
        """It has sent a request."""
        if self._waiting.pop(connection, self) is not self:
            self._working.add(connection)

    def waits(self, connection: Connection) -> None:
        """Its request is answered."""
        if connection in self._working:
            self._working.discard(connection)
            self._waiting[connection] = None

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        self._waiting.pop(connection, None)
        self._working.discard(connection)

    def cut(self) -> None:
        """Count a closed connection, and warn at most once a minute."""
        self._cut += 1
        if time.monotonic() - self._told >= QUIET_S:
            self._told = time.monotonic()
            print(
                f"warning: idle connections were closed ({self._cut:,} since the last such warning); "
                f"{self._most} may be open at once (`ulimit -n`), and a request's head must arrive within {HEAD_S:g}s",
                file=sys.stderr,
                flush=True,
            )
            self._cut = 0


class Connection(H11Protocol):
    """One connection of a gate, with a time limit for the head of its request."""

    gate: ClassVar[Gate]
    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Start the time limit."""
        super().connection_made(transport)
        self._head = self.loop.call_later(HEAD_S, self._too_slow)
        self.gate.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._in_time()
        self.gate.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive a part of a request."""
        super().data_received(data)
        if self._is_answered():
            self._head = self._head or self.loop.call_later(HEAD_S, self._too_slow)
        else:
            self._in_time()
            self.gate.works(self)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if self._is_answered():
            self.gate.waits(self)

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _in_time(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _too_slow(self) -> None:
        self._head = None
        if not self.transport.is_closing() and self._is_answered():
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()
            self.gate.cut()


def through(gate: Gate) -> type[Connection]:
    """The connections of a gate."""
    return type("GatedConnection", (Connection,), {"gate": gate})


class Server(uvicorn.Server):
    """A server whose sockets keep their queue: asyncio would make it as short as what is accepted in one go."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(QUEUE)


class OncePerMinute(logging.Filter):
    """Let the same log record through once a minute: clients decide how often there is cause for it."""

    REMEMBERED = 64

    def __init__(self) -> None:
        super().__init__()
        self._said: OrderedDict[str, float] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record was not logged within the last minute."""
        now, text = time.monotonic(), str(record.msg)
        if now - self._said.get(text, -QUIET_S) < QUIET_S:
            return False
        self._said[text] = now
        self._said.move_to_end(text)
        if len(self._said) > self.REMEMBERED:
            self._said.popitem(last=False)
        return True


def log_seldom() -> None:
    """Log complaints about connections at most once a minute."""
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(OncePerMinute())
