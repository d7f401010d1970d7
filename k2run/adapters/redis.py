"""Redis and Valkey: whether it answers, values, its figures, replication, and how long an answer takes.

Long because the adapter is one module: its connection, its results and its actions.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from k2run.actions.action import Result, action
from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.adapters._clients import cause_of, late, punctually, require_client
from k2run.errors import ActionError, Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from redis.asyncio import Redis as Client


T = TypeVar("T")
_SETTING = "see connections.redis in the stack file"
LEAST_FOR_P99 = 100
"""Answers from which on the 99th percentile is more than the slowest of a few."""


class Redis(Connection, frozen=True, kw_only=True, key="redis"):
    """A Redis server, or one that speaks its protocol (Valkey, KeyDB).

    Attributes:
        host: Name or address.
        port: TCP port.
        database: Its number.
        user: Who asks; the default user when empty.
        password: Their password; empty where none is needed.
        tls: Whether the connection is encrypted.
        ca: File with the certificates to trust, instead of the system's.
    """

    host: str = "127.0.0.1"
    port: int = 6379
    database: int = 0
    user: str = ""
    password: str = ""
    tls: bool = False
    ca: str = ""

    @property
    def address(self) -> str:
        """Where it is."""
        return f"{self.host}:{self.port}/{self.database}"

    @property
    def source(self) -> str:
        """What results give as their source."""
        return f"redis {self.address}"


def ask(redis: Redis, deadline: Deadline, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    """What some work on a connection of its own returns.

    Raises:
        Unreachable: Nothing answers, or it is no Redis.
        Refused: The server says no, or the client is not installed here.
        TimedOut: The deadline passed first.
    """
    require_client("redis", "redis")
    from redis.exceptions import RedisError

    try:
        return punctually(_session(redis, deadline, work), deadline)
    except TimedOut as error:
        hint = f"is it up and healthy? {_SETTING}, or raise the step's timeout"
        raise late(redis.address, deadline, hint) from error
    except (RedisError, OSError, ValueError) as error:
        raise _judge(redis, error) from error


async def _session(redis: Redis, deadline: Deadline, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    from redis.asyncio import Redis as Client
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    tls: dict[str, Any] = {"ssl": True, "ssl_ca_certs": redis.ca or None} if redis.tls else {}
    client = Client(
        host=redis.host,
        port=redis.port,
        db=redis.database,
        username=redis.user or None,
        password=redis.password or None,
        retry=Retry(NoBackoff(), 0),  # a step says itself how often it tries
        socket_timeout=deadline.remaining(),
        socket_connect_timeout=deadline.remaining(),
        **tls,
    )
    try:
        return await work(client)
    finally:
        await client.connection_pool.disconnect()


def _judge(redis: Redis, error: Exception) -> ActionError:
    from redis import exceptions as known

    cause = cause_of(error, redis.password)
    match error:
        case known.AuthenticationError() | known.NoPermissionError():
            return Refused(f"{redis.address} refuses: {cause}", hint=f"user, password, permissions: {_SETTING}")
        case known.BusyLoadingError():
            return Unreachable(f"{redis.address} is not ready: {cause}", hint="it reads its data from disk; try again")
        case known.ResponseError() if "NOAUTH" in cause or "WRONGPASS" in cause:
            return Refused(f"{redis.address} refuses: {cause}", hint=f"user, password: {_SETTING}")
        case known.InvalidResponse():
            return Refused(f"{redis.address} does not speak Redis: {cause}", hint=_SETTING)
        case known.ConnectionError() | known.TimeoutError() | OSError():
            return Unreachable(f"{redis.address} does not answer: {cause}", hint=f"is it up? {_SETTING}")
    return Refused(f"{redis.address} refuses: {cause}", hint=_SETTING)


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


@action("redis.ping")
def ping(redis: Redis, deadline: Deadline) -> Pong:
    """The server lets this user in and answers; an open port alone is not enough."""
    started = time.perf_counter()
    ask(redis, deadline, _ping)
    return Pong(elapsed_ms=(time.perf_counter() - started) * 1000, source=redis.source)


@action("redis.get")
def get(redis: Redis, deadline: Deadline, name: str, limit: int = 100, allow_missing: bool = False) -> Value:
    """What is kept under a key, of whatever kind; a missing key is unknown.

    Args:
        name: The key.
        limit: Entries to fetch at most, of a hash, list, set or sorted set.
        allow_missing: Whether a missing key is an answer, too.
    """

    async def work(client: Client) -> Value:
        kind = _text(await client.type(name))
        size, value = await _content(client, name, kind, limit)
        ttl_ms = await client.pttl(name)
        return Value(
            exists=kind != "none",
            kind=kind,
            value=value,
            size=size,
            truncated=kind != "string" and size > limit,
            ttl_s=ttl_ms / 1000 if ttl_ms >= 0 else None,
            source=redis.source,
        )

    found = ask(redis, deadline, work)
    if not found.exists and not allow_missing:
        hint = "is the key right, and has it expired? or set allow_missing: true"
        raise Unknown(f"{redis.address} has no key {name!r}", hint=hint)
    return found


@action("redis.info")
def info(redis: Redis, deadline: Deadline) -> Figures:
    """The figures of a server: memory and its limit, clients, evictions, hits, whether its data are saved."""
    said = _info(redis, deadline)
    limit, used = _whole(said, "maxmemory") or None, _whole(said, "used_memory")
    hits, misses = said.get("keyspace_hits", 0), said.get("keyspace_misses", 0)
    keeps_log = bool(said.get("aof_enabled"))
    return Figures(
        version=str(said.get("valkey_version") or said.get("redis_version", "")),
        role=said.get("role", ""),
        uptime_s=float(said.get("uptime_in_seconds", 0)),
        loading=bool(said.get("loading")),
        keys=said.get(f"db{redis.database}", {}).get("keys", 0),  # an empty database is not listed
        memory_bytes=used,
        memory_limit_bytes=limit,
        memory_percent=round(100 * used / limit, 2) if used is not None and limit else None,
        evicted_keys=_whole(said, "evicted_keys"),
        clients=_whole(said, "connected_clients"),
        most_clients=_whole(said, "maxclients"),
        rejected_connections=_whole(said, "rejected_connections"),
        blocked_clients=_whole(said, "blocked_clients"),
        commands_per_s=_whole(said, "instantaneous_ops_per_sec"),
        hit_percent=round(100 * hits / (hits + misses), 2) if hits + misses else None,
        last_save_ok=_is_ok(said.get("rdb_last_bgsave_status")),
        unsaved_changes=_whole(said, "rdb_changes_since_last_save"),
        append_only_ok=_is_ok(said.get("aof_last_write_status")) if keeps_log else None,
        source=redis.source,
    )


@action("redis.replication")
def replication(redis: Redis, deadline: Deadline) -> Replication:
    """Who follows this server and how far behind they are, or whom it follows and whether that link works."""
    said = _info(redis, deadline, "replication")
    offset = said.get("master_repl_offset", 0)
    named = [said[key] for key in sorted(said) if key.startswith("slave") and key[5:].isdecimal()]
    replicas = [
        Replica(
            address=f"{one['ip']}:{one['port']}",
            state=one["state"],
            behind_bytes=max(0, offset - one["offset"]),
            last_confirmed_s=float(one["lag"]),
        )
        for one in named
    ]
    follows, heard = "master_host" in said, said.get("master_last_io_seconds_ago", -1)
    return Replication(
        role=said.get("role", ""),
        replicas=replicas,
        online=sum(one.state == "online" for one in replicas),
        most_behind_bytes=max((one.behind_bytes for one in replicas), default=None),
        master=f"{said['master_host']}:{said['master_port']}" if follows else "",
        link_up=said.get("master_link_status") == "up" if follows else None,
        syncing=bool(said.get("master_sync_in_progress")),
        link_down_s=float(max(0, said.get("master_link_down_since_seconds", 0))),
        last_heard_s=float(heard) if heard >= 0 else None,
        source=redis.source,
    )


@action("redis.latency")
def latency(redis: Redis, deadline: Deadline, samples: int = 100) -> Latency:
    """How long the server takes to answer PING, one after the other on one connection.

    Args:
        samples: How many to measure.
    """

    async def work(client: Client) -> list[float]:
        await _ping(client)  # connects
        took: list[float] = []
        for _ in range(max(1, samples)):
            began = time.perf_counter()
            await _ping(client)
            took.append((time.perf_counter() - began) * 1000)
        return took

    took = sorted(ask(redis, deadline, work))
    return Latency(
        samples=len(took),
        median_ms=_share(took, 50),
        p95_ms=_share(took, 95),
        p99_ms=_share(took, 99) if len(took) >= LEAST_FOR_P99 else None,
        slowest_ms=took[-1],
        source=redis.source,
    )


def _share(ordered: list[float], percent: int) -> float:
    """The value that so many of a hundred do not exceed."""
    return ordered[-(-len(ordered) * percent // 100) - 1]


async def _ping(client: Client) -> Any:
    return await client.ping()


def _info(redis: Redis, deadline: Deadline, *section: str) -> dict[str, Any]:
    async def work(client: Client) -> dict[str, Any]:
        return dict(await client.info(*section))

    return ask(redis, deadline, work)


async def _content(client: Client, name: str, kind: str, limit: int) -> tuple[int, Any]:  # noqa: PLR0911 - one per kind
    """How large a value is, and as much of it as is wanted."""
    read: Any = client
    match kind:
        case "string":
            value = _text(await read.get(name) or b"")
            return len(value), value
        case "hash":
            size = await read.hlen(name)
            found = await read.hgetall(name) if size <= limit else (await read.hscan(name, count=limit))[1]
            return size, {_text(key): _text(item) for key, item in list(found.items())[:limit]}
        case "list":
            return await read.llen(name), [_text(item) for item in await read.lrange(name, 0, limit - 1)]
        case "set":
            size = await read.scard(name)
            found = await read.smembers(name) if size <= limit else (await read.sscan(name, count=limit))[1]
            return size, sorted(map(_text, found))[:limit]
        case "zset":
            scored = await read.zrange(name, 0, limit - 1, withscores=True)
            return await read.zcard(name), {_text(item): score for item, score in scored}
        case "stream":
            return await read.xlen(name), None
    return 0, None


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _whole(said: Mapping[str, Any], name: str) -> int | None:
    value = said.get(name)
    return int(value) if isinstance(value, int | float) else None


def _is_ok(status: Any) -> bool | None:
    return None if status is None else status == "ok"
