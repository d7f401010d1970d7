"""The network of the sandbox: a TCP proxy between its services that can be slow, narrow, lossy, stuck or cut.

Long because the interface, the links and what is done to their data speak of the same toxics.

It speaks the part of Toxiproxy's HTTP interface that k2run needs, so that a real Toxiproxy can take its place, and does
three things more: the toxic `loss`; links to a Kafka broker on which the addresses that the broker tells its clients
are those of the link (else they would go round it); and links on which HTTP is spoken, with the toxic `error`, which
answers some requests in the place of the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Self

from k2run.k2.platform.program import LOOPBACK, give_up, log, require_free_port

RETRANSMISSION_S = 0.2  # what a lost packet costs TCP at least, on Linux
PACKET = 1460
_SIZE = 4  # bytes that say how long a Kafka message is
_END = b"\r\n\r\n"
_LARGEST_HEAD = 64 * 1024
PIECE = 64 * 1024
_WAITING = 32  # pieces that may be under way in one direction
_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: a close that tells the other side of a reset
_LARGEST_BODY = 64 * 1024


@dataclass(frozen=True, slots=True)
class Toxic:
    """One thing that is wrong, in Toxiproxy's words.

    Attributes:
        name: By which it is taken away again.
        type: `latency`, `bandwidth`, `timeout` (nothing goes through), `reset_peer`, `loss` or `error` (of requests).
        attributes: latency and jitter in ms; rate in KB/s; timeout in ms; the share of packets lost, or of requests
            answered with `status`, in per cent.
        stream: `upstream`, `downstream`, or both when empty.
        toxicity: The share of connections that `reset_peer` concerns, 0 to 1.
    """

    KINDS: ClassVar[dict[str, tuple[str, ...]]] = {
        "latency": ("latency", "jitter"),
        "bandwidth": ("rate",),
        "timeout": ("timeout",),
        "reset_peer": ("timeout",),
        "loss": ("percent",),
        "error": ("percent", "status"),
    }

    name: str
    type: str
    attributes: dict[str, float] = field(default_factory=dict)
    stream: str = ""
    toxicity: float = 1.0

    @classmethod
    def of(cls, body: dict[str, Any]) -> Self:
        """What a request asks for.

        Raises:
            ValueError: There is no such toxic, or its figures are invalid.
        """
        kind = body["type"]
        if kind not in cls.KINDS:
            raise ValueError(f"unknown toxic {kind!r}")
        given = body.get("attributes") or {}
        attributes = {name: float(given.get(name, 0)) for name in cls.KINDS[kind]}
        if any(value < 0 for value in attributes.values()) or (kind == "bandwidth" and not attributes["rate"]):
            raise ValueError(f"{kind} with {attributes}")
        return cls(body.get("name") or kind, kind, attributes, body.get("stream", ""), float(body.get("toxicity", 1)))

    def plain(self) -> dict[str, Any]:
        """As the interface shows it."""
        return {
            "name": self.name,
            "type": self.type,
            "stream": self.stream,
            "toxicity": self.toxicity,
            "attributes": self.attributes,
        }

    def concerns(self, stream: str) -> bool:
        """Whether it lies in that direction."""
        return self.stream in {"", stream}

    def delay(self, size: int) -> float:
        """Seconds that it holds a piece of `size` bytes, beside those before it."""
        if self.type == "latency":
            jitter = self.attributes["jitter"]
            return max(0.0, self.attributes["latency"] + random.uniform(-jitter, jitter)) / 1000  # noqa: S311 - no secret
        if self.type == "loss":
            share = min(self.attributes["percent"] / 100, 0.99)
            lost = sum(random.random() < share for _ in range(max(1, size // PACKET)))  # noqa: S311
            return min(lost, 5) * RETRANSMISSION_S
        return 0.0

    def seconds_for(self, size: int) -> float:
        """Seconds that `size` bytes occupy the link, during which nothing else goes through."""
        return size / (self.attributes["rate"] * 1000) if self.type == "bandwidth" else 0.0

    @property
    def stops_all(self) -> bool:
        """Whether nothing goes through."""
        return self.type == "timeout"

    @property
    def of_requests(self) -> bool:
        """Whether it needs to tell requests from each other."""
        return self.type == "error"

    def refusal(self) -> int | None:
        """The status that the next request is answered with; None when it goes through."""
        share = self.attributes["percent"] / 100 if self.type == "error" else 0.0
        return int(self.attributes["status"]) if random.random() < share else None  # noqa: S311 - no secret

    def reset_after(self) -> float | None:
        """Seconds after which a connection is reset; None when it is not."""
        if self.type != "reset_peer" or random.random() >= self.toxicity:  # noqa: S311 - no secret
            return None
        return self.attributes["timeout"] / 1000


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


Piece = tuple[float, bytes]
Change = Callable[[bytes], bytes]


class Speech(StrEnum):
    """What is spoken on a link, as far as the link has to understand it."""

    ANY = ""
    KAFKA = "kafka"  # the broker's own address must read as that of the link
    HTTP = "http"  # single requests can be answered without the server


class Link:
    """Takes connections on `listen` and leads each to `upstream`."""

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


Answer = tuple[int, Any]


def arguments() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="k2run.k2.platform.network", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--port", type=int, default=18474, help="port of the HTTP interface (default: 18474)")
    parser.add_argument(
        "--link",
        action="append",
        default=[],
        metavar="NAME=PORT,HOST:PORT",
        help="a link: the port it listens on, and where to it leads; may be given several times",
    )
    parser.add_argument("--kafka", action="store_true", help="the links lead to Kafka brokers")
    parser.add_argument(
        "--web",
        action="append",
        default=[],
        metavar="NAME=PORT,HOST:PORT",
        help="a link on which HTTP is spoken; may be given several times",
    )
    return parser


class Control:
    """The HTTP interface, one request a connection."""

    def __init__(self, links: dict[str, Link]) -> None:
        self._links = links

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            method, path, body = await _request(reader)
            status, answer = await self._answer(method, path.strip("/").split("/"), body)
        except (ValueError, KeyError, TypeError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as problem:
            status, answer = 400, {"error": f"bad request: {problem}"}
        text = b"" if answer is None else json.dumps(answer).encode()
        head = f"HTTP/1.1 {status} k2run\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + text)
        try:
            await writer.drain()
            writer.close()
        except ConnectionError:
            return

    async def _answer(self, method: str, parts: list[str], body: Any) -> Answer:
        match parts:
            case ["version"]:
                return 200, {"version": "k2run"}
            case ["proxies"]:
                return 200, {name: link.plain() for name, link in self._links.items()}
            case ["proxies", name, *rest] if name in self._links:
                return await _about(self._links[name], method, rest, body)
        return 404, {"error": "proxy not found"}


async def _about(link: Link, method: str, parts: list[str], body: Any) -> Answer:
    """Answer a request about one link."""
    match (method, *parts):
        case ("GET",):
            return 200, link.plain()
        case ("POST" | "PATCH",):
            await link.enable(on=bool(body.get("enabled", True)))
            return 200, link.plain()
        case ("POST", "toxics"):
            toxic = Toxic.of(body)
            link.put(toxic)
            return 200, toxic.plain()
        case ("DELETE", "toxics", name):
            return (204, None) if link.take(name) else (404, {"error": "toxic not found"})
    return 405, {"error": f"{method} is not known here"}


async def _request(reader: asyncio.StreamReader) -> tuple[str, str, Any]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length") or 0)
    if length > _LARGEST_BODY:
        raise ValueError("the body is too large")
    body = await reader.readexactly(length)
    return method, path, json.loads(body) if body else {}


async def run(links: list[Link], port: int) -> None:
    """Open the links and the interface, until a signal ends the program."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    for link in links:
        await link.enable(on=True)
        log("link_open", name=link.name, listen=link.listen, upstream=link.upstream)
    control = Control({link.name: link for link in links})
    server = await asyncio.start_server(control.serve, LOOPBACK, port)
    log("network_ready", port=port)
    await stopping.wait()
    server.close()
    for link in links:
        await link.enable(on=False)


def main() -> None:
    """Run the proxy until a signal ends it."""
    options = arguments().parse_args()
    plain = Speech.KAFKA if options.kafka else Speech.ANY
    links = [_link(text, plain) for text in options.link] + [_link(text, Speech.HTTP) for text in options.web]
    for port in (options.port, *(address(link.listen)[1] for link in links)):
        require_free_port(port)
    try:
        asyncio.run(run(links, options.port))
    except OSError as problem:
        give_up(f"a link cannot be opened: {problem.strerror}")
    log("network_stopped")


def _link(text: str, speech: Speech) -> Link:
    name, _, rest = text.partition("=")
    port, _, upstream = rest.partition(",")
    try:
        address(upstream)
        return Link(name, f"{LOOPBACK}:{int(port)}", upstream, speech)
    except ValueError:
        give_up(f"link {text}: expected NAME=PORT,HOST:PORT")


if __name__ == "__main__":
    main()
