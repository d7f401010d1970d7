"""What is done to the data of a link: when a piece may go on, and what of it is changed or refused on the way."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

RETRANSMISSION_S = 0.2  # what a lost packet costs TCP at least, on Linux
PACKET = 1460


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
