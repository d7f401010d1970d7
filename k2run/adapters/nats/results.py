"""What the actions on NATS and its streams return."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from k2run.actions.action import Result


class Health(Result, frozen=True, kw_only=True):
    """A server that lets this user in and answers.

    Attributes:
        server: Its name.
        jetstream: Whether it keeps streams.
        max_payload: Bytes that a message may have.
        round_trip_ms: Of a ping on the open connection.
        elapsed_ms: With connecting and logging in.
    """

    version: str
    server: str
    jetstream: bool
    max_payload: int
    round_trip_ms: float
    elapsed_ms: float

    def headline(self) -> str:
        """Such as `2.9.10, answers in 0.8 ms`."""
        return f"{self.version}, answers in {self.round_trip_ms:.1f} ms"


class Echo(Result, frozen=True, kw_only=True):
    """A message that came back.

    Attributes:
        round_trip_ms: From publishing it to receiving it, on one open connection.
        elapsed_ms: With connecting and subscribing.
    """

    round_trip_ms: float
    elapsed_ms: float

    def headline(self) -> str:
        """Such as `came back after 0.6 ms`."""
        return f"came back after {self.round_trip_ms:.1f} ms"


class Stream(Result, frozen=True, kw_only=True):
    """A stream of JetStream.

    Attributes:
        messages: How many it keeps.
        bytes: How large they are.
        first: Sequence number of the oldest.
        last: Sequence number of the newest; it counts all that were ever stored.
        consumers: How many it has.
        subjects: What it stores.
        replicas: On how many servers it is kept.
        replicas_current: How many of those have all of it; None where it is on one server alone.
        leader: The server that answers for it; empty outside a cluster, or while there is none.
    """

    name: str
    messages: int
    bytes: int
    first: int
    last: int
    consumers: int
    subjects: list[str]
    replicas: int
    replicas_current: int | None
    leader: str

    def headline(self) -> str:
        """Such as `orders: 1,204 messages, 2 consumers`."""
        return f"{self.name}: {self.messages:,} messages, {self.consumers} consumers"


class Lag(Result, frozen=True, kw_only=True):
    """What a consumer of a stream still has to do.

    Attributes:
        pending: Messages that it has not been given yet.
        unacknowledged: Messages that it was given and has not acknowledged.
        redelivered: How many of those it was given more than once.
        waiting: Requests for messages that wait, of a consumer that pulls: someone is there to read.
        bound: Whether someone reads, of a consumer that is pushed to; None of one that pulls.
        paused: Whether it is paused.
    """

    stream: str
    consumer: str
    pending: int
    unacknowledged: int
    redelivered: int
    waiting: int
    bound: bool | None
    paused: bool

    def headline(self) -> str:
        """Such as `12 pending, 3 unacknowledged`."""
        return f"{self.pending:,} pending, {self.unacknowledged:,} unacknowledged"


class Message(Struct, frozen=True, kw_only=True):
    """A message of a stream.

    Attributes:
        value: Its text; parsed where it is JSON.
    """

    sequence: int
    subject: str
    value: Any


class Messages(Result, frozen=True, kw_only=True):
    """The newest messages of a stream, the newest last.

    Attributes:
        count: How many are in `messages`.
    """

    count: int
    messages: list[Message]

    def headline(self) -> str:
        """How many, and where the newest stands."""
        return f"{self.count:,} messages" + (f", newest {self.messages[-1].sequence:,}" if self.messages else "")


class Published(Result, frozen=True, kw_only=True):
    """A message that was published.

    Attributes:
        stream: The stream that has stored it; empty when that was not asked for.
        sequence: Its number there; 0 likewise.
        duplicate: Whether the stream had it already, by its `id`.
    """

    stream: str
    sequence: int
    duplicate: bool
    elapsed_ms: float

    def headline(self) -> str:
        """Such as `orders 1,205`."""
        return f"{self.stream} {self.sequence:,}" if self.stream else "published"


class Purged(Result, frozen=True, kw_only=True):
    """Messages that were deleted from a stream.

    Attributes:
        purged: How many.
    """

    purged: int

    def headline(self) -> str:
        """Such as `1,204 messages deleted`."""
        return f"{self.purged:,} messages deleted"
