"""One link of the sandbox's network: a port that leads to another, with whatever is wrong in between."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from k2run.k2.platform.program import log

if TYPE_CHECKING:
    from k2run.k2.platform.toxics import Toxic

_SIZE = 4  # bytes that say how long a Kafka message is


class Readdress:
    """Replaces a broker's address by the link's in what the broker says on one connection.

    A broker tells its clients where it is, as text and a port of four bytes. Only the port is changed, so no length is.

    Args:
        upstream: The broker's address.
        listen: The link's address, on the same host.
    """

    def __init__(self, upstream: str, listen: str) -> None:
        host, port = address(upstream)
        self._old = host.encode() + port.to_bytes(_SIZE)
        self._new = host.encode() + address(listen)[1].to_bytes(_SIZE)
        self._held = b""
        self._head = b""
        self._left = 0

    def read(self, piece: bytes) -> bytes:
        """The next piece as the client may see it; in the middle of a message a few bytes may be held back."""
        data = (self._held + piece).replace(self._old, self._new)
        held = _beginning_of(self._old, data) if self._is_inside(piece) else 0
        self._held = data[len(data) - held :]
        return data[: len(data) - held]

    def _is_inside(self, piece: bytes) -> bool:
        """Whether a message is still incomplete after this piece; each begins with its length."""
        at = 0
        while at < len(piece):
            if self._left:
                step = min(self._left, len(piece) - at)
                self._left -= step
            else:
                step = min(_SIZE - len(self._head), len(piece) - at)
                self._head += piece[at : at + step]
                if len(self._head) == _SIZE:
                    self._left, self._head = int.from_bytes(self._head), b""
            at += step
        return bool(self._left or self._head)


def address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`.

    Raises:
        ValueError: It is no such thing.
    """
    host, colon, port = text.rpartition(":")
    if not host or not colon:
        raise ValueError(f"{text!r} is not host:port")
    return host, int(port)


def _beginning_of(pattern: bytes, data: bytes) -> int:
    """How many bytes at the end of `data` may be the beginning of `pattern`."""
    return next((size for size in range(len(pattern) - 1, 0, -1) if data.endswith(pattern[:size])), 0)


_END = b"\r\n\r\n"
_LARGEST_HEAD = 64 * 1024

Refusal = Callable[[], int | None]


class Refused(Exception):
    """A request is not let through.

    Attributes:
        answer: What the client gets instead, after which the connection ends.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        body = b'{"detail":{"error":"INJECTED","message":"k2run let this request fail"}}'
        head = f"HTTP/1.1 {status} Injected\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.answer = head.encode() + b"Connection: close\r\n\r\n" + body


class Requests:
    """Finds where each request of a connection begins, and asks whether it may go through.

    A body of unknown length (chunked, or a connection that becomes a WebSocket) ends the asking: the rest goes through.

    Args:
        refusal: The status to answer a request with instead of letting it through; None lets it through.
    """

    def __init__(self, refusal: Refusal) -> None:
        self._refusal = refusal
        self._head = b""
        self._left = 0
        self._blind = False

    def read(self, piece: bytes) -> bytes:
        """The next piece as the server may see it; the head of a request is held until it is complete.

        Raises:
            Refused: A request in it is not let through.
        """
        given = b""
        while piece and not self._blind:
            body, piece = piece[: self._left], piece[self._left :]
            self._left -= len(body)
            given += body
            if piece:
                head, piece = self._take_head(piece)
                given += head
        return given + piece

    def _take_head(self, piece: bytes) -> tuple[bytes, bytes]:
        """The head of the next request, when it is complete, and what comes after it."""
        head, end, rest = (self._head + piece).partition(_END)
        if not end:
            self._blind = len(head) > _LARGEST_HEAD
            self._head = b"" if self._blind else head
            return (head, b"") if self._blind else (b"", b"")
        self._head = b""
        if (status := self._refusal()) is not None:
            raise Refused(status)
        fields = _fields(head)
        self._blind = bool({"transfer-encoding", "upgrade"} & fields.keys())
        self._left = int(fields.get("content-length") or 0)
        return head + end, rest


def _fields(head: bytes) -> dict[str, str]:
    """The header fields of a head, their names in small letters."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


PIECE = 64 * 1024
_WAITING = 32  # pieces that may be under way in one direction

Piece = tuple[float, bytes]
Change = Callable[[bytes], bytes]

_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: a close that tells the other side of a reset


class Speech(StrEnum):
    """What is spoken on a link, as far as the link has to understand it."""

    ANY = ""
    KAFKA = "kafka"  # the broker's own address must read as that of the link
    HTTP = "http"  # single requests can be answered without the server


class Link:
    """Takes connections on `listen` and leads each to `upstream`.

    Args:
        name: By which the interface knows it.
        listen: Address that it takes connections on.
        upstream: Address that it leads to.
        speech: What is spoken on it.
    """

    def __init__(self, name: str, listen: str, upstream: str, speech: Speech = Speech.ANY) -> None:
        self.name = name
        self.listen = listen
        self.upstream = upstream
        self._speech = speech
        self._server: asyncio.Server | None = None
        self._toxics: dict[str, Toxic] = {}
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._flows = asyncio.Event()
        self._flows.set()

    def plain(self) -> dict[str, Any]:
        """As the interface shows it."""
        return {
            "name": self.name,
            "listen": self.listen,
            "upstream": self.upstream,
            "enabled": self._server is not None,
            "toxics": [toxic.plain() for toxic in self._toxics.values()],
        }

    def put(self, toxic: Toxic) -> None:
        """Make something wrong.

        Raises:
            ValueError: It cannot be on such a link.
        """
        if toxic.of_requests and self._speech is not Speech.HTTP:
            raise ValueError(f"{toxic.type} needs a link on which HTTP is spoken")
        self._toxics[toxic.name] = toxic
        self._changed()
        for task in self._open:
            self._doom(task, toxic)

    def take(self, name: str) -> bool:
        """Take something wrong away; False when there is no such thing."""
        found = self._toxics.pop(name, None)
        self._changed()
        return found is not None

    async def enable(self, *, on: bool) -> None:
        """Take connections, or refuse them and end those that are open."""
        if on and self._server is None:
            self._server = await asyncio.start_server(self._lead, *address(self.listen))
        elif not on and self._server is not None:
            self._server.close()
            self._server = None
            for task in self._open:
                task.cancel()

    def _changed(self) -> None:
        if any(toxic.stops_all for toxic in self._toxics.values()):
            self._flows.clear()
        else:
            self._flows.set()

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._open[task] = writer
            task.add_done_callback(self._forget)
            for toxic in self._toxics.values():
                self._doom(task, toxic)
        with suppress(asyncio.CancelledError):
            try:
                await self._flows.wait()
                beyond, onward = await asyncio.open_connection(*address(self.upstream))
            except OSError as problem:
                log("link_leads_nowhere", "warning", name=self.name, error=problem.strerror)
                writer.transport.abort()
                return
            there = asyncio.create_task(self._pump("upstream", reader, onward, self._change_of_requests()))
            back = asyncio.create_task(self._pump("downstream", beyond, writer, self._change_of_answers()))
            try:
                await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
                await _answer_if_refused(there, writer)
            finally:
                there.cancel()
                back.cancel()
                writer.transport.abort()
                onward.transport.abort()

    def _change_of_requests(self) -> Change | None:
        return Requests(self._refusal).read if self._speech is Speech.HTTP else None

    def _change_of_answers(self) -> Change | None:
        return Readdress(self.upstream, self.listen).read if self._speech is Speech.KAFKA else None

    def _refusal(self) -> int | None:
        """The status by which the next request is refused, when it is."""
        return next((status for toxic in self._toxics.values() if (status := toxic.refusal())), None)

    def _doom(self, task: asyncio.Task[None], toxic: Toxic) -> None:
        """Plan the reset of a connection, when the toxic wants it."""
        if (seconds := toxic.reset_after()) is not None:
            asyncio.get_running_loop().call_later(seconds, self._reset, task, toxic)

    def _reset(self, task: asyncio.Task[None], toxic: Toxic) -> None:
        writer = self._open.get(task)
        if writer is not None and toxic in self._toxics.values():
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            task.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._open.pop(task, None)

    async def _pump(
        self,
        stream: str,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        change: Change | None,
    ) -> None:
        """Move what comes from one side to the other, each piece when it may go."""
        waiting: asyncio.Queue[Piece | None] = asyncio.Queue(_WAITING)
        taking = asyncio.create_task(self._take_in(stream, source, waiting, change))
        try:
            await self._give_out(stream, sink, waiting)
            if taking.done() and not taking.cancelled() and (problem := taking.exception()):
                raise problem
        finally:
            taking.cancel()

    async def _take_in(
        self,
        stream: str,
        source: asyncio.StreamReader,
        waiting: asyncio.Queue[Piece | None],
        change: Change | None,
    ) -> None:
        now = asyncio.get_running_loop().time
        due = 0.0
        try:
            while piece := await source.read(PIECE):
                delay = sum(toxic.delay(len(piece)) for toxic in self._toxics.values() if toxic.concerns(stream))
                due = max(due, now() + delay)  # what was sent later does not arrive earlier
                await waiting.put((due, change(piece) if change else piece))
        except ConnectionError:
            return
        finally:
            await waiting.put(None)

    async def _give_out(self, stream: str, sink: asyncio.StreamWriter, waiting: asyncio.Queue[Piece | None]) -> None:
        now = asyncio.get_running_loop().time
        with suppress(ConnectionError):
            while (item := await waiting.get()) is not None:
                due, piece = item
                busy = sum(toxic.seconds_for(len(piece)) for toxic in self._toxics.values() if toxic.concerns(stream))
                if (wait := max(0.0, due - now()) + busy) > 0:
                    await asyncio.sleep(wait)
                await self._flows.wait()
                sink.write(piece)
                await sink.drain()


async def _answer_if_refused(there: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
    """Give the client the answer that stands for the server's, when a request was refused."""
    problem = there.exception() if there.done() else None
    if isinstance(problem, Refused):
        with suppress(ConnectionError):
            writer.write(problem.answer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
    elif problem is not None:
        raise problem
