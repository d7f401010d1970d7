"""One HTTP/1.1 connection of the load generator: as little work per request as Python allows.

It knows what a load generator needs and no more: requests are bytes made beforehand, one is under way at a time, and
answers are framed by Content-Length, by chunks, or by the end of the connection.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k2run.bench.arrival import StampedSelector

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
