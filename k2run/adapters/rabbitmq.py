"""RabbitMQ: whether a broker takes and delivers messages, how full queues are and who reads them.

Long because the adapter is one module: its connection, its results and its actions.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from urllib.parse import quote

import msgspec

from k2run.actions.action import Blast, Effect, Result, action
from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.adapters._clients import apart, cause_of, late, require_client
from k2run.adapters.http.client import Api, basic
from k2run.errors import ActionError, AuthorError, Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pika import BlockingConnection
    from pika.adapters.blocking_connection import BlockingChannel

# It prints what it also raises, between our lines.
logging.getLogger("pika").addHandler(logging.NullHandler())


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


T = TypeVar("T")
_SETTING = "see connections.rabbitmq in the stack file"
_OK = 200
_NOT_FOUND = 404


class Rabbitmq(Connection, frozen=True, kw_only=True, key="rabbitmq"):
    """A RabbitMQ broker.

    Attributes:
        host: Name or address.
        port: TCP port for AMQP 0-9-1.
        vhost: The virtual host.
        user: Who logs in.
        password: Their password.
        tls: Whether the connection is encrypted, and the broker's certificate and name are verified.
        ca: File with the certificates to trust, instead of the system's.
        management: URL of the management plugin, for what AMQP does not tell: alarms, nodes, unacknowledged messages.
    """

    host: str = "127.0.0.1"
    port: int = 5672
    vhost: str = "/"
    user: str = "guest"
    password: str = ""
    tls: bool = False
    ca: str = ""
    management: str = ""

    @property
    def address(self) -> str:
        """Where it is."""
        return f"{self.host}:{self.port}/{self.vhost.lstrip('/')}"

    @property
    def source(self) -> str:
        """What results give as their source."""
        return f"rabbitmq {self.address}"


def managed(rabbitmq: Rabbitmq, deadline: Deadline, path: str, kind: Any) -> Any:
    """What the management plugin says; None where the stack names none.

    Raises:
        Refused: It does not let this user in.
        Unreachable: It does not answer.
    """
    if not rabbitmq.management:
        return None
    url, headers = rabbitmq.management, basic(rabbitmq.user, rabbitmq.password)
    api = Api("the management plugin of RabbitMQ", url, "connections.rabbitmq.management", headers)
    answer = api.ask(deadline, path)
    if answer.status != _OK:
        raise api.refusal(answer, f"show {path}")
    return api.read(answer, kind)


def on_channel(rabbitmq: Rabbitmq, deadline: Deadline, work: Callable[[BlockingChannel], T], what: str) -> T:
    """What some work on a channel returns."""
    return ask(rabbitmq, deadline, lambda link: work(link.channel()), what)


def ask(rabbitmq: Rabbitmq, deadline: Deadline, work: Callable[[BlockingConnection], T], what: str = "") -> T:
    """What some work on a connection of its own returns.

    Raises:
        Unreachable: Nothing answers, or it is no RabbitMQ.
        Refused: The broker says no, or the client is not installed here.
        Unknown: It has no such thing.
        TimedOut: The deadline passed first.
    """
    require_client("rabbitmq", "pika")
    from pika.adapters.utils.connection_workflow import AMQPConnectorException
    from pika.exceptions import AMQPError

    try:
        return apart(lambda: _session(rabbitmq, deadline, work), deadline)
    except TimedOut as error:
        hint = f"is it up, and does an alarm block its publishers? {_SETTING}, or raise the step's timeout"
        raise late(rabbitmq.address, deadline, hint) from error
    except (AMQPError, AMQPConnectorException, OSError, ValueError) as error:
        raise _judge(rabbitmq, error, what) from error


def _session(rabbitmq: Rabbitmq, deadline: Deadline, work: Callable[[BlockingConnection], T]) -> T:
    import ssl

    import pika

    left = deadline.remaining()
    tls = pika.SSLOptions(ssl.create_default_context(cafile=rabbitmq.ca or None), rabbitmq.host)
    link = pika.BlockingConnection(
        pika.ConnectionParameters(
            rabbitmq.host,
            rabbitmq.port,
            rabbitmq.vhost,
            pika.PlainCredentials(rabbitmq.user, rabbitmq.password),
            connection_attempts=1,
            socket_timeout=left,
            stack_timeout=left,
            blocked_connection_timeout=left,
            ssl_options=tls if rabbitmq.tls else None,
        )
    )
    try:
        return work(link)
    finally:
        if link.is_open:
            link.close()


def _judge(rabbitmq: Rabbitmq, error: Exception, what: str) -> ActionError:
    from pika import exceptions as known

    cause = cause_of(_innermost(error), rabbitmq.password)
    where = rabbitmq.address
    match error:
        case known.ProbableAuthenticationError() | known.ProbableAccessDeniedError() | known.AuthenticationError():
            verdict: ActionError = Refused(f"{where} refuses: {cause}", hint=f"user, password, vhost: {_SETTING}")
        case known.ChannelClosedByBroker() if error.reply_code == _NOT_FOUND:
            verdict = Unknown(f"{where} has no {what}", hint="are its name and the vhost right?")
        case known.UnroutableError():
            verdict = Refused(f"{where} has no queue for the message", hint="are exchange and routing_key right?")
        case known.NackError():
            verdict = Refused(f"{where} did not take the message", hint="is the queue full, or its leader away?")
        case known.ChannelClosedByBroker() | known.ConnectionClosedByBroker():
            verdict = Refused(f"{where} refuses: {cause}", hint=_SETTING)
        case known.IncompatibleProtocolError() | known.ProtocolVersionMismatch() | known.InvalidFrameError():
            verdict = Refused(f"{where} does not speak AMQP 0-9-1: {cause}", hint=_SETTING)
        case FileNotFoundError() if error.filename:
            verdict = Refused(f"{error.filename} is missing on this machine", hint=f"ca: {_SETTING}")
        case _:
            verdict = Unreachable(f"{where} does not answer: {cause}", hint=f"is it up, and RabbitMQ? {_SETTING}")
    return verdict


def _innermost(error: BaseException) -> BaseException:
    """The error that says something; pika wraps the socket's own several times, and often says nothing itself."""
    inner = getattr(error, "exception", None) or next((one for one in error.args if isinstance(one, Exception)), None)
    return error if inner is None else _innermost(inner)


_SLICE_S = 0.05


class _Node(msgspec.Struct):
    name: str
    running: bool
    mem_alarm: bool = False
    disk_free_alarm: bool = False
    partitions: list[str] = []


class _Seen(msgspec.Struct):
    messages_unacknowledged: int | None = None
    type: str = ""
    state: str = ""


@action("rabbitmq.health")
def health(rabbitmq: Rabbitmq, deadline: Deadline) -> Health:
    """The broker lets this user in; with `management`, its nodes and alarms."""
    started = time.perf_counter()
    said = ask(rabbitmq, deadline, lambda link: link._impl.server_properties)  # noqa: SLF001 - it has no other name
    elapsed_ms = (time.perf_counter() - started) * 1000
    nodes: list[_Node] | None = managed(rabbitmq, deadline, "/api/nodes", list[_Node])
    return Health(
        version=_text(said.get("version", b"")),
        cluster=_text(said.get("cluster_name", b"")),
        nodes=None if nodes is None else len(nodes),
        nodes_running=None if nodes is None else sum(one.running for one in nodes),
        alarms=None if nodes is None else [alarm for one in nodes for alarm in _alarms(one)],
        partitioned=None if nodes is None else any(one.partitions for one in nodes),
        elapsed_ms=elapsed_ms,
        source=rabbitmq.source,
    )


@action("rabbitmq.queue")
def queue(rabbitmq: Rabbitmq, deadline: Deadline, name: str) -> Queue:
    """How many messages wait in a queue, and how many consumers read it; one that does not exist is unknown.

    Args:
        name: Of the queue.
    """

    def work(channel: BlockingChannel) -> tuple[int, int]:
        found = channel.queue_declare(name, passive=True).method
        return int(found.message_count), int(found.consumer_count)

    ready, consumers = on_channel(rabbitmq, deadline, work, f"queue {name!r}")
    path = f"/api/queues/{quote(rabbitmq.vhost, safe='')}/{quote(name, safe='')}"
    seen = managed(rabbitmq, deadline, path, _Seen) or _Seen()
    return Queue(
        name=name,
        ready=ready,
        consumers=consumers,
        unacknowledged=seen.messages_unacknowledged,
        kind=seen.type,
        state=seen.state,
        source=rabbitmq.source,
    )


@action("rabbitmq.echo")
def echo(rabbitmq: Rabbitmq, deadline: Deadline) -> Echo:
    """Publish a message to a queue of this step's own, and receive it: the broker takes messages and delivers them.

    The queue is exclusive and ends with the connection.
    """
    started = time.perf_counter()

    def work(channel: BlockingChannel) -> float:
        own = str(channel.queue_declare("", exclusive=True, auto_delete=True).method.queue)
        channel.confirm_delivery()
        began = time.perf_counter()
        channel.basic_publish("", own, b"k2run", mandatory=True)
        while channel.basic_get(own, auto_ack=True)[0] is None:
            deadline.sleep(_SLICE_S)
        return (time.perf_counter() - began) * 1000

    round_trip_ms = on_channel(rabbitmq, deadline, work, "queue of this step")
    elapsed_ms = (time.perf_counter() - started) * 1000
    return Echo(round_trip_ms=round_trip_ms, elapsed_ms=elapsed_ms, source=rabbitmq.source)


@action("rabbitmq.publish", effect=Effect.CHANGES, blast=Blast.DATA)
def publish(
    rabbitmq: Rabbitmq,
    deadline: Deadline,
    routing_key: str,
    exchange: str = "",
    text: str = "",
    json: Any = None,
    headers: dict[str, Any] = {},
    persistent: bool = True,
) -> Published:
    """Publish one message, which the broker must confirm; one that reaches no queue fails the step.

    Args:
        routing_key: Of the message; with the default exchange, the name of a queue.
        exchange: Where to; the default exchange when empty.
        text: What it says.
        json: What it says, as JSON, instead of a text.
        headers: Of the message.
        persistent: Whether it outlives a restart of the broker, in a durable queue.
    """
    if text and json is not None:
        raise AuthorError("rabbitmq.publish takes a text or json, not both", hint="leave one of them out")
    content = text.encode() if json is None else msgspec.json.encode(json)
    started = time.perf_counter()

    def work(channel: BlockingChannel) -> None:
        from pika import BasicProperties

        kind = "text/plain" if json is None else "application/json"
        properties = BasicProperties(kind, headers=headers or None, delivery_mode=2 if persistent else 1)
        channel.confirm_delivery()
        channel.basic_publish(exchange, routing_key, content, properties, mandatory=True)

    on_channel(rabbitmq, deadline, work, f"exchange {exchange!r}")
    return Published(elapsed_ms=(time.perf_counter() - started) * 1000, source=rabbitmq.source)


@action("rabbitmq.purge", effect=Effect.DESTROYS)
def purge(rabbitmq: Rabbitmq, deadline: Deadline, queue: str) -> Purged:
    """Delete the messages that are ready in a queue; they cannot be brought back.

    Args:
        queue: Its name. Messages that consumers have not acknowledged yet are left.
    """

    def work(channel: BlockingChannel) -> int:
        return int(channel.queue_purge(queue).method.message_count)

    return Purged(purged=on_channel(rabbitmq, deadline, work, f"queue {queue!r}"), source=rabbitmq.source)


def _alarms(node: _Node) -> list[str]:
    alarms = {"memory": node.mem_alarm, "disk": node.disk_free_alarm}
    return [f"{node.name}: {what}" for what, is_on in alarms.items() if is_on]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
