"""One link of the sandbox's network: a port that leads to another, with whatever is wrong in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from k2run.sandbox.program import log

if TYPE_CHECKING:
    from k2run.sandbox.toxics import Toxic

PIECE = 64 * 1024
_WAITING = 32  # pieces that may be under way in one direction
_SIZE = 4  # bytes that say how long a Kafka message is

Piece = tuple[float, bytes]
Change = Callable[[bytes], bytes]


class Link:
    """Takes connections on `listen` and leads each to `upstream`.

    Args:
        name: By which the interface knows it.
        listen: Address that it takes connections on.
        upstream: Address that it leads to.
        kafka: There is a Kafka broker, whose own address must read as that of the link.
    """

    def __init__(self, name: str, listen: str, upstream: str, *, kafka: bool = False) -> None:
        self.name = name
        self.listen = listen
        self.upstream = upstream
        self._kafka = kafka
        self._server: asyncio.Server | None = None
        self._toxics: dict[str, Toxic] = {}
        self._open: set[asyncio.Task[None]] = set()
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
        """Make something wrong."""
        self._toxics[toxic.name] = toxic
        self._changed()

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
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        with suppress(asyncio.CancelledError):
            try:
                await self._flows.wait()
                beyond, onward = await asyncio.open_connection(*address(self.upstream))
            except OSError as problem:
                log("link_leads_nowhere", "warning", name=self.name, error=problem.strerror)
                writer.transport.abort()
                return
            there = asyncio.create_task(self._pump("upstream", reader, onward, None))
            back = asyncio.create_task(self._pump("downstream", beyond, writer, self._reader()))
            try:
                await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
                back.cancel()
                writer.transport.abort()
                onward.transport.abort()

    def _reader(self) -> Change | None:
        return Readdress(self.upstream, self.listen).read if self._kafka else None

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
        with suppress(ConnectionError):
            while piece := await source.read(PIECE):
                delay = sum(toxic.delay(len(piece)) for toxic in self._toxics.values() if toxic.concerns(stream))
                due = max(due, now() + delay)  # what was sent later does not arrive earlier
                await waiting.put((due, change(piece) if change else piece))
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
