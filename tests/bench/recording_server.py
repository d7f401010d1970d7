"""An HTTP server that answers after a known delay, and remembers how long each request really took it.

    recording_server.py [--delay MS] [--jitter MS] [--stall-at N --stall S] [--status N --every N] [--body TEXT]
                        [--framing length|chunked|close|old]

Prints its port; at a line on its input it prints the seconds of every request as JSON, and ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from typing import ClassVar

HEAD = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n"


class Answering(asyncio.Protocol):
    taken: ClassVar[list[float]] = []
    count = 0
    stalled_until = 0.0
    options: argparse.Namespace

    def connection_made(self, transport):
        self.transport = transport
        self.buffer = b""

    def data_received(self, data):
        now = time.monotonic()
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
        status = options.status if options.every and kind.count % options.every == 0 else 200
        body = options.body.encode()
        if b"empty=true" in head:
            body = b'{"data": []}'
        if delay > 0:
            asyncio.get_running_loop().call_later(delay, self.answer, now, status, body)
        else:
            self.answer(now, status, body)

    def answer(self, asked, status, body):
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
        self.taken.append(time.monotonic() - asked)


async def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("delay", "jitter", "stall"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    for name in ("stall-at", "status", "every"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--body", default='{"data": [1]}')
    parser.add_argument("--framing", default="length")
    Answering.options = parser.parse_args()
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(json.dumps(Answering.taken), flush=True)


asyncio.run(main())
