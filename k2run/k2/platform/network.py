"""The network of the sandbox: a TCP proxy between its services that can be slow, narrow, lossy, stuck or cut.

It speaks the part of Toxiproxy's HTTP interface that k2run needs, so that a real Toxiproxy can take its place, and does
three things more: the toxic `loss`; links to a Kafka broker on which the addresses that the broker tells its clients
are those of the link (else they would go round it); and links on which HTTP is spoken, with the toxic `error`, which
answers some requests in the place of the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Any

from k2run.k2.platform.program import LOOPBACK, give_up, log, require_free_port
from k2run.k2.platform.toxics import Readdress, Refused, Requests, Toxic, address

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


_LARGEST_BODY = 64 * 1024
Answer = tuple[int, Any]


def arguments() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="k2run.k2.platform.network", description=__doc__)
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
