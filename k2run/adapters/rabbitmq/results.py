"""What the actions on RabbitMQ return."""

from __future__ import annotations

from typing import ClassVar

from k2run.actions.action import Result


class Health(Result, frozen=True, kw_only=True):
    """A broker that lets this user in; what only the management plugin tells is None without it.

    Attributes:
        cluster: Name of its cluster.
        nodes: How many the cluster has.
        nodes_running: How many of them run.
        alarms: Such as `rabbit@a: memory`, `rabbit@a: disk`: publishers are blocked while there is one.
        partitioned: Whether nodes have lost sight of each other.
        elapsed_ms: Of logging in.
    """

    unknowable: ClassVar[frozenset[str]] = frozenset({"nodes", "nodes_running", "alarms", "partitioned"})

    version: str
    cluster: str
    nodes: int | None
    nodes_running: int | None
    alarms: list[str] | None
    partitioned: bool | None
    elapsed_ms: float

    def headline(self) -> str:
        """Such as `3.10.8, 3 of 3 nodes, no alarms`."""
        if self.alarms is None:
            return f"{self.version}, lets us in"
        alarms = ", ".join(self.alarms) or "no alarms"
        return f"{self.version}, {self.nodes_running} of {self.nodes} nodes, {alarms}"


class Queue(Result, frozen=True, kw_only=True):
    """A queue; what only the management plugin tells is None without it, and up to 5 s old with it.

    Attributes:
        ready: Messages that wait for a consumer.
        consumers: How many read.
        unacknowledged: Messages that consumers have and did not acknowledge.
        kind: `classic`, `quorum`, `stream`; empty without the plugin.
        state: `running`, `idle`, `down`, …; empty without the plugin.
    """

    unknowable: ClassVar[frozenset[str]] = frozenset({"unacknowledged"})

    name: str
    ready: int
    consumers: int
    unacknowledged: int | None
    kind: str
    state: str

    def headline(self) -> str:
        """Such as `1,204 ready, 2 consumers`."""
        return f"{self.ready:,} ready, {self.consumers} consumers"


class Echo(Result, frozen=True, kw_only=True):
    """A message that came back.

    Attributes:
        round_trip_ms: From publishing it to receiving it, on one open connection.
        elapsed_ms: With logging in and declaring the queue.
    """

    round_trip_ms: float
    elapsed_ms: float

    def headline(self) -> str:
        """Such as `came back after 1.6 ms`."""
        return f"came back after {self.round_trip_ms:.1f} ms"


class Published(Result, frozen=True, kw_only=True):
    """A message that the broker has confirmed, for at least one queue."""

    elapsed_ms: float

    def headline(self) -> str:
        """Such as `confirmed in 2.1 ms`."""
        return f"confirmed in {self.elapsed_ms:.1f} ms"


class Purged(Result, frozen=True, kw_only=True):
    """Messages that were deleted from a queue.

    Attributes:
        purged: How many.
    """

    purged: int

    def headline(self) -> str:
        """Such as `1,204 messages deleted`."""
        return f"{self.purged:,} messages deleted"
