"""One connection to a Redis server, under a deadline and with errors that say who must act."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from k2run.actions.connection import Connection
from k2run.adapters._clients import punctually, require_client
from k2run.errors import ActionError, Refused, TimedOut, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from redis.asyncio import Redis as Client

    from k2run.actions.deadline import Deadline

T = TypeVar("T")
_SETTING = "see connections.redis in the stack file"


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
        message = f"{redis.address} has not answered within {deadline.seconds:g}s"
        raise TimedOut(message, hint=f"is it up and healthy? {_SETTING}, or raise the step's timeout") from error
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

    cause = " ".join(str(error).split()).replace(redis.password or "\0", "***")
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
