"""What is wrong with a link: when a piece of data that comes in may go out again."""

from __future__ import annotations

import random
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
