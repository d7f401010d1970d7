"""Redis and Valkey: whether it answers, values, its figures, replication, and how long an answer takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from k2run.actions.action import action
from k2run.actions.deadline import Deadline
from k2run.adapters.redis.client import Redis, ask
from k2run.adapters.redis.results import Figures, Latency, Pong, Replica, Replication, Value
from k2run.errors import Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis.asyncio import Redis as Client

LEAST_FOR_P99 = 100
"""Answers from which on the 99th percentile is more than the slowest of a few."""


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
