"""WebSocket: open a stream, say what one wants, and see what comes."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from msgspec import Struct

from k2run.actions.action import Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters._clients import punctually
from k2run.adapters.http.endpoint import TRUSTING_THE_SYSTEM, Tls, target, trust
from k2run.errors import AuthorError, Refused, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Duration
from k2run.stack.services import Services

TEN_SECONDS = Duration(10)
LARGEST = 4 * 2**20
"""Bytes of one message; more is refused."""


class Arrived(Struct, frozen=True, kw_only=True):
    """One message: the JSON document or the text; hexadecimal digits of one that is bytes."""

    at_ms: float
    value: Any


class Received(Result, frozen=True, kw_only=True):
    """Messages of a stream.

    Attributes:
        count: How many came, of those asked for.
        passed_over: Others that came in between.
        opened_ms: Until the stream was open.
        seconds: From then until the last message.
        per_s: All messages over `seconds`; None for a single one.
        messages: Each with the milliseconds since the stream was open.
    """

    count: int
    passed_over: int
    opened_ms: float
    seconds: float
    per_s: float | None
    messages: list[Arrived]

    def headline(self) -> str:
        """Such as `5 messages in 1.2 s`."""
        return f"{self.count} messages in {self.seconds:.1f} s"


@action("websocket.receive")
def receive(
    services: Services,
    deadline: Deadline,
    service: str = "",
    path: str = "",
    url: str = "",
    count: int = 1,
    within: Duration = TEN_SECONDS,
    contains: str = "",
    send: list[Any] = [],
    headers: dict[str, str] = {},
    tls: Tls = TRUSTING_THE_SYSTEM,
) -> Received:
    """Open a stream and wait for messages; fewer than `count` in time are unknown.

    Args:
        service: The service to ask; its URL and headers come from the stack.
        path: Path below the service's URL, such as `/stream`.
        url: A whole URL (`ws://` or `wss://`), instead of a service.
        count: How many messages to wait for.
        within: How long to wait for them, after the stream is open.
        contains: Only messages with this text in them.
        send: Messages to send first, such as a subscription; what is not text is sent as JSON.
        headers: Sent with the opening request, beside those of the service.
        tls: How a `wss` server is trusted.
    """
    if count < 1:
        raise AuthorError("websocket.receive needs a count above 0")
    address, sent = target(services, service, path, url, headers)
    address = address.replace("http", "ws", 1) if address.startswith("http") else address
    said = [each if isinstance(each, str) else json.dumps(each) for each in send]
    stream = _Stream(address, sent, tls, deadline)
    return stream.received(count, within, contains, said)


class _Stream:
    """One stream, from its opening to its last message."""

    def __init__(self, url: str, headers: dict[str, str], tls: Tls, deadline: Deadline) -> None:
        self._url = url
        self._headers = headers
        self._tls = tls
        self._deadline = deadline
        self._arrived: list[Arrived] = []
        self._passed_over = 0
        self._opened_ms = 0.0

    def received(self, count: int, within: float, contains: str, said: list[str]) -> Received:
        from websockets.exceptions import InvalidHandshake, InvalidMessage, InvalidURI, WebSocketException

        try:
            punctually(self._listen(count, within, contains, said), self._deadline)
        except TimedOut as error:
            raise TimedOut(
                f"{self._url}: {len(self._arrived)} of {count} messages within {self._deadline.seconds:g}s",
                hint="is it up and healthy? or raise the step's timeout",
            ) from error
        except InvalidURI as error:
            raise Refused(
                f"{self._url} cannot be asked: {error}", hint="a stream begins with ws:// or wss://"
            ) from error
        except InvalidMessage as error:
            raise Unreachable(
                f"{self._url} does not answer like a web server: {error}", hint="is the service up, and its url right?"
            ) from error
        except InvalidHandshake as error:
            raise Refused(f"{self._url} refused to open a stream: {error}", hint="check its path") from error
        except OSError as error:
            raise Unreachable(
                f"{self._url} does not answer: {error.strerror or error}", hint="is the service up, and its url right?"
            ) from error
        except (WebSocketException, EOFError) as error:
            raise Unreachable(f"{self._url} broke off after {len(self._arrived)} messages: {error}") from error
        return self._result(count, within)

    async def _listen(self, count: int, within: float, contains: str, said: list[str]) -> None:
        from websockets.asyncio.client import connect

        begun = time.perf_counter()
        stream = await connect(
            self._url,
            additional_headers=self._headers,
            max_size=LARGEST,
            open_timeout=None,
            close_timeout=0.1,
            user_agent_header="k2run",
            proxy=None,
            ssl=trust(self._tls) if self._url.startswith("wss") else None,
        )
        async with stream:
            opened = time.perf_counter()
            self._opened_ms = (opened - begun) * 1000
            for each in said:
                await stream.send(each)
            while len(self._arrived) < count and (left := opened + within - time.perf_counter()) > 0:
                await self._take(stream, left, opened, contains)

    async def _take(self, stream: Any, left: float, opened: float, contains: str) -> None:
        try:
            message = await asyncio.wait_for(stream.recv(), left)
        except TimeoutError:
            return
        at_ms = (time.perf_counter() - opened) * 1000
        if contains and contains not in (message if isinstance(message, str) else message.decode(errors="replace")):
            self._passed_over += 1
            return
        self._arrived.append(Arrived(at_ms=at_ms, value=_readable(message)))

    def _result(self, count: int, within: float) -> Received:
        if len(self._arrived) < count:
            others = f" ({self._passed_over} others did)" if self._passed_over else ""
            raise Unknown(f"{len(self._arrived)} of {count} messages came from {self._url} within {within:g}s{others}")
        seconds = self._arrived[-1].at_ms / 1000
        every = count + self._passed_over
        return Received(
            count=count,
            passed_over=self._passed_over,
            opened_ms=self._opened_ms,
            seconds=seconds,
            per_s=every / seconds if every > 1 and seconds else None,
            messages=self._arrived,
            source=self._url,
        )


def _readable(message: str | bytes) -> Any:
    if isinstance(message, bytes):
        return message.hex()
    try:
        return json.loads(message)
    except ValueError:
        return message
