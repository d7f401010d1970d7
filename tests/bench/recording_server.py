"""An HTTP server that answers after a known delay, and remembers how long each request really took it.

    recording_server.py [--delay MS] [--jitter MS] [--stall-at N --stall S] [--hang-at N --hang S]
                        [--status N --every N] [--body TEXT] [--framing length|chunked|close|old] [--port N]
                        [--tail-every N --tail S] [--when]

From request number `--stall-at` on all answers wait for `--stall` seconds; `--hang-at` holds that one alone; with
`--tail-every` each such request takes `--tail` seconds longer.

Prints its port; at a line on its input it prints the seconds of every request as JSON, and ends. With `--when` each is
a pair: when it was answered (monotonic), and its seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import struct
import sys
import time
from typing import ClassVar

STAMPED = 35
"""Linux's SO_TIMESTAMPNS. Else the record would forgive the time for which a request lies here before it is read."""
HEAD = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n"


def both_clocks():
    """The monotonic clock (s) and the time of day (ns) of one moment: another process may get the core in between."""
    while True:
        before, wall, after = time.monotonic(), time.time_ns(), time.monotonic()
        if after - before < 50e-6:
            return before, wall


class Asked(socket.socket):
    """Knows when the system received what is read from it."""

    def __init__(self, accepted):
        super().__init__(fileno=accepted.detach())
        self.setblocking(False)
        if sys.platform == "linux":
            self.setsockopt(socket.SOL_SOCKET, STAMPED, 1)

    def recv(self, size, flags=0, /):
        data, notes, _, _ = self.recvmsg(size, socket.CMSG_SPACE(16), flags)
        self.arrived, wall = both_clocks()
        for _, kind, note in notes:
            if kind == STAMPED:
                seconds, rest = struct.unpack("@ll", note[:16])
                self.arrived -= (wall - seconds * 1_000_000_000 - rest) / 1e9
        return data


class Answering(asyncio.Protocol):
    taken: ClassVar[list[float]] = []
    when: ClassVar[list[float]] = []
    count = 0
    stalled_until = 0.0
    options: argparse.Namespace

    def __init__(self, asked):
        self.asked = asked

    def connection_made(self, transport):
        self.transport = transport
        self.buffer = b""

    def data_received(self, data):
        now = time.monotonic()
        arrived = self.asked.arrived
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        self.buffer = rest
        kind, options = type(self), self.options
        kind.count += 1
        if kind.count == options.stall_at:
            kind.stalled_until = now + options.stall
        delay = options.delay / 1000 + random.uniform(0, options.jitter) / 1000
        delay = max(delay, kind.stalled_until - now)
        if kind.count == options.hang_at:
            delay += options.hang
        if options.tail_every and kind.count % options.tail_every == 0:
            delay += options.tail
        status = options.status if options.every and kind.count % options.every == 0 else 200
        body = options.body.encode()
        if b"empty=true" in head:
            body = b'{"data": []}'
        if delay > 0:
            asyncio.get_running_loop().call_later(delay, self.answer, arrived, status, body)
        else:
            self.answer(arrived, status, body)

    def answer(self, arrived, status, body):
        self.when.append(time.monotonic())
        self.taken.append(self.when[-1] - arrived)
        head = HEAD % status
        if self.options.framing == "chunked":
            middle = len(body) // 2
            parts = [body[:middle], body[middle:], b""]
            content = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
            self.transport.write(head + b"Transfer-Encoding: chunked\r\n\r\n" + content)
        elif self.options.framing == "old":
            length = b"Content-Length: %d\r\n\r\n" % len(body)
            self.transport.write(head.replace(b"HTTP/1.1", b"HTTP/1.0") + length + body)
            self.transport.close()
        elif self.options.framing == "close":
            self.transport.write(head + b"\r\n" + body)
            self.transport.close()
        else:
            self.transport.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


async def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("delay", "jitter", "stall", "hang", "tail"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    for name in ("stall-at", "hang-at", "status", "every", "tail-every", "port"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--body", default='{"data": [1]}')
    parser.add_argument("--framing", default="length")
    parser.add_argument("--when", action="store_true")
    Answering.options = parser.parse_args()
    listening = socket.create_server(("127.0.0.1", Answering.options.port), backlog=512)
    listening.setblocking(False)
    accepting = asyncio.create_task(accept(listening))
    print(listening.getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    accepting.cancel()
    pairs = list(zip(Answering.when, Answering.taken, strict=True))
    print(json.dumps(pairs if Answering.options.when else Answering.taken), flush=True)


async def accept(listening):
    loop = asyncio.get_running_loop()
    while True:
        asked = Asked((await loop.sock_accept(listening))[0])
        await loop.connect_accepted_socket(lambda asked=asked: Answering(asked), asked)


asyncio.run(main())
