"""One HTTP/1.1 connection of the load generator: little work per request, and the system's own time of each answer.

It knows what a load generator needs and no more: requests are bytes made beforehand, one is under way at a time, and
answers are framed by Content-Length, by chunks, or by the end of the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import select
import selectors
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

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


LONGEST_HEAD = 64 * 1024
"""Bytes."""
_FRAMING = re.compile(
    rb"\r\n(?:(content-length):[ \t]*(\d+)|(transfer-encoding):[ \t]*chunked|(connection):[ \t]*close)(?=[ \t]*\r\n)",
    re.IGNORECASE,
)
_BODILESS = frozenset({204, 304})


class Listener(Protocol):
    """Who is told how a request ended."""

    def answered(self, connection: Connection, status: int, size: int, body: bytes | None, at: float) -> None:
        """The whole answer is there since `at` (monotonic)."""
        ...

    def broken(self, connection: Connection, why: str) -> None:
        """The connection ended in the middle of a request."""
        ...


class Connection(asyncio.Protocol):
    """One connection; reusable until it is closed.

    Attributes:
        busy: A request is under way.
        closed: It can take no request any more.
        intended: When the request under way should have started (monotonic).
        sent: When it was sent.
        late: How long after it could be sent the request under way was sent, in seconds.
        doubt: How much shorter its latency might have been, had it and those before it been sent in time.
        rested: Seconds that it had been idle, after an earlier answer, before the request under way; 0 for its first.
    """

    __slots__ = (
        "_buffer",
        "_chunked",
        "_idle_since",
        "_keep_body",
        "_left",
        "_listener",
        "_selector",
        "_size",
        "_status",
        "_transport",
        "_until_close",
        "_wants_close",
        "busy",
        "closed",
        "doubt",
        "intended",
        "late",
        "rested",
        "sent",
    )

    def __init__(self, listener: Listener, selector: StampedSelector, *, keep_body: bool) -> None:
        self._listener = listener
        self._selector = selector
        self._keep_body = keep_body
        self._transport: asyncio.Transport | None = None
        self.busy = False
        self.closed = False
        self.intended = self.sent = self.late = self.doubt = self.rested = self._idle_since = 0.0
        self._reset()

    def send(self, request: bytes, intended: float) -> None:
        """Send a whole request that should start at `intended`; only while not busy."""
        self._reset()
        self.busy = True
        self.intended = intended
        self.sent = time.monotonic()
        self.rested = self.sent - self._idle_since if self._idle_since else 0.0
        cast("asyncio.Transport", self._transport).write(request)

    def is_unanswered(self) -> bool:
        """Nothing has come back for the request under way, not even the beginning of an answer."""
        return not self._status and not self._buffer

    def close(self) -> None:
        """Close without a report."""
        self.busy = False
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def abort(self, why: str) -> None:
        """Close at once; a request under way is reported as broken."""
        if self._transport is not None:
            self._transport.abort()
        self._end(why)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio's protocol."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio's protocol."""
        if self.busy and self._until_close and exc is None:
            self._complete()
        self._end("connection reset" if isinstance(exc, ConnectionResetError) else "connection closed")

    def data_received(self, data: bytes) -> None:
        """Part of asyncio's protocol."""
        if not self.busy:
            self.abort("an answer without a request")
            return
        if self._status == 0:
            self._buffer += data
            self._read_head()
        elif self._chunked:
            self._buffer += data
            self._read_chunks()
        else:
            self._take(data)

    def _reset(self) -> None:
        self._buffer = bytearray()
        self._status = 0
        self._left = 0
        self._size = 0
        self._chunked = self._until_close = self._wants_close = False

    def _read_head(self) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > LONGEST_HEAD:
                self.abort("not HTTP")
            return
        head, rest = bytes(self._buffer[: end + 2]), bytes(self._buffer[end + 4 :])
        if not head.startswith(b"HTTP/1.") or not head[9:12].isdigit():
            self.abort("not HTTP")
            return
        status = int(head[9:12])
        if status < 200:  # noqa: PLR2004 - 1xx announce the answer
            self._buffer = bytearray(rest)
            self._read_head()
            return
        self._status = status
        self._frame(head, bodiless=status in _BODILESS)
        self._buffer = bytearray()
        if self._chunked:
            self._buffer += rest
            self._read_chunks()
        else:
            self._take(rest)

    def _frame(self, head: bytes, *, bodiless: bool) -> None:
        length = -1
        for sized, number, chunked, _close in _FRAMING.findall(head):
            if sized:
                length = int(number)
            elif chunked:
                self._chunked = not bodiless
            else:
                self._wants_close = True
        if head.startswith(b"HTTP/1.0") and b"keep-alive" not in head.lower():
            self._wants_close = True
        self._until_close = length < 0 and not self._chunked and not bodiless
        self._left = 0 if bodiless else max(0, length)

    def _take(self, data: bytes) -> None:
        self._size += len(data)
        if self._keep_body:
            self._buffer += data
        if not self._until_close and self._size >= self._left:
            self._complete()

    def _read_chunks(self) -> None:
        """Look for the end; the sizes of chunks are read only up to where the data have come."""
        while True:
            line = self._buffer.find(b"\r\n", self._left)
            if line < 0:
                return
            try:
                size = int(bytes(self._buffer[self._left : line]).partition(b";")[0], 16)
            except ValueError:
                self.abort("not HTTP")
                return
            after = line + 2 + size + 2
            if size == 0:
                if self._buffer.find(b"\r\n", line + 2) >= 0:
                    self._complete()
                return
            if len(self._buffer) < after:
                return
            self._size += size
            # Cut the framing out, so that the buffer ends up as the body alone.
            del self._buffer[line + 2 + size : after]
            del self._buffer[self._left : line + 2]
            self._left += size

    def _complete(self) -> None:
        body = None
        if self._keep_body:
            body = bytes(self._buffer[: self._left]) if self._chunked else bytes(self._buffer)
        self.busy = False
        self._idle_since = self._selector.arrived
        if self._wants_close or self._until_close:
            self.closed = True
            if self._transport is not None:
                self._transport.close()
        self._listener.answered(self, self._status, self._size, body, self._selector.arrived)

    def _end(self, why: str) -> None:
        self.closed = True
        if self.busy:
            self.busy = False
            self._listener.broken(self, why)


def request_bytes(method: str, target: str, headers: Mapping[str, str], content: bytes) -> bytes:
    """A whole HTTP/1.1 request; `headers` must name the host."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if content or method in {"POST", "PUT", "PATCH"}:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content
