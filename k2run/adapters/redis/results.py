"""What the Redis actions find."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from k2run.actions.action import Result


class Pong(Result, frozen=True, kw_only=True):
    """A server that let this user in and answered.

    Attributes:
        elapsed_ms: With connecting.
    """

    elapsed_ms: float

    def headline(self) -> str:
        """Such as `answers in 0.8 ms`."""
        return f"answers in {self.elapsed_ms:.1f} ms"


class Value(Result, frozen=True, kw_only=True):
    """What is kept under a key.

    Attributes:
        exists: Whether there is such a key; false only with `allow_missing`.
        kind: `string`, `hash`, `list`, `set`, `zset`, `stream`, …; `none` without a key.
        value: A text, a mapping (of a hash, and of a sorted set to its scores), or a list; None of another kind.
        size: Characters of a string, entries of the others.
        truncated: Whether there are more entries than `limit`.
        ttl_s: Seconds until it expires; None when it does not.
    """

    exists: bool
    kind: str
    value: Any
    size: int
    truncated: bool
    ttl_s: float | None

    def headline(self) -> str:
        """The value of a string, or how many entries there are."""
        if not self.exists:
            return "no such key"
        return str(self.value)[:60] if self.kind == "string" else f"{self.kind} of {self.size:,} entries"


class Figures(Result, frozen=True, kw_only=True):
    """What a server says about itself; what it does not say is None.

    Attributes:
        role: `master` or `slave`, in its own words.
        loading: Whether it still reads its data from disk and answers no queries.
        keys: In this database.
        memory_bytes: What it uses.
        memory_limit_bytes: `maxmemory`; None when it has no limit.
        memory_percent: Of the limit; None without one.
        evicted_keys: Keys dropped for lack of memory since it was started.
        clients: Connected ones.
        most_clients: How many it accepts.
        rejected_connections: Since it was started, for lack of room.
        blocked_clients: Waiting in a blocking command.
        commands_per_s: At the moment.
        hit_percent: Of the keys that were asked for since it was started; None when none were.
        last_save_ok: Whether the last snapshot could be written.
        unsaved_changes: Since that snapshot.
        append_only_ok: Whether the last write to the append-only file worked; None when it keeps none.
    """

    version: str
    role: str
    uptime_s: float
    loading: bool
    keys: int
    memory_bytes: int | None
    memory_limit_bytes: int | None
    memory_percent: float | None
    evicted_keys: int | None
    clients: int | None
    most_clients: int | None
    rejected_connections: int | None
    blocked_clients: int | None
    commands_per_s: int | None
    hit_percent: float | None
    last_save_ok: bool | None
    unsaved_changes: int | None
    append_only_ok: bool | None

    def headline(self) -> str:
        """Such as `7.0.15, master, 12,345 keys, 41 clients`."""
        return f"{self.version}, {self.role}, {self.keys:,} keys, {self.clients or 0:,} clients"


class Replica(Struct, frozen=True, kw_only=True):
    """A replica, as its master sees it.

    Attributes:
        state: `online` when it follows; `wait_bgsave`, `send_bulk` while it gets its first copy.
        behind_bytes: Of the replication stream, that it has not confirmed.
        last_confirmed_s: Seconds since it last confirmed anything.
    """

    address: str
    state: str
    behind_bytes: int
    last_confirmed_s: float


class Replication(Result, frozen=True, kw_only=True):
    """Who follows whom, as this server sees it.

    Attributes:
        role: `master` or `slave`, in its own words.
        replicas: Those that follow this server.
        online: How many of them follow.
        most_behind_bytes: Of whichever replica is furthest behind; None without replicas.
        master: Whom this server follows; empty when it follows no one.
        link_up: Whether the link to its master works; None when it follows no one.
        syncing: Whether it gets its first copy just now.
        link_down_s: Seconds since the link broke; 0 while it works.
        last_heard_s: Seconds since its master said anything; None when it follows no one, or its link is down.
    """

    role: str
    replicas: list[Replica]
    online: int
    most_behind_bytes: int | None
    master: str
    link_up: bool | None
    syncing: bool
    link_down_s: float
    last_heard_s: float | None

    def headline(self) -> str:
        """Such as `master, 2 of 2 replicas online, 0 bytes behind`."""
        if self.master:
            return f"follows {self.master}, link {'up' if self.link_up else 'DOWN'}"
        behind = "" if self.most_behind_bytes is None else f", {self.most_behind_bytes:,} bytes behind"
        return f"{self.role}, {self.online} of {len(self.replicas)} replicas online{behind}"


class Latency(Result, frozen=True, kw_only=True):
    """How long answers to PING took on one open connection.

    Attributes:
        samples: How many were measured.
        p99_ms: None from fewer than 100 samples.
    """

    samples: int
    median_ms: float
    p95_ms: float
    p99_ms: float | None
    slowest_ms: float

    def headline(self) -> str:
        """Such as `median 0.21 ms, slowest 1.4 ms of 100`."""
        return f"median {self.median_ms:.2f} ms, slowest {self.slowest_ms:.2f} ms of {self.samples}"
