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
from typing import Any

from k2run.k2.platform.program import LOOPBACK, give_up, log, require_free_port
from k2run.k2.platform.proxy_link import Link, Speech, address
from k2run.k2.platform.toxics import Toxic

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
