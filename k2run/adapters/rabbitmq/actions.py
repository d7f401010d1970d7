"""RabbitMQ: whether a broker takes and delivers messages, how full queues are and who reads them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from k2run.actions.action import Blast, Effect, action
from k2run.actions.deadline import Deadline
from k2run.adapters.rabbitmq.client import Rabbitmq, ask, managed, on_channel
from k2run.adapters.rabbitmq.results import Echo, Health, Published, Purged, Queue
from k2run.errors import AuthorError

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel

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
