"""NATS and JetStream: whether a server answers, streams and consumers, messages, and how long a round trip takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.actions.action import Blast, Effect, action
from k2run.actions.deadline import Deadline
from k2run.adapters.nats.client import Nats, ask, ask_streams
from k2run.adapters.nats.results import Echo, Health, Lag, Message, Messages, Published, Purged, Stream
from k2run.errors import AuthorError, Refused, Unknown

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext

_NO_STREAM = 10059
"""JetStream's error code for a stream that does not exist."""


@action("nats.health")
def health(nats: Nats, deadline: Deadline) -> Health:
    """A server lets this user in and answers a ping; an open port alone is not enough."""
    started = time.perf_counter()

    async def work(client: Client) -> tuple[dict[str, Any], float]:
        began = time.perf_counter()
        await client.flush(max(1, round(deadline.remaining())))
        return client._server_info, (time.perf_counter() - began) * 1000  # noqa: SLF001 - no public name has them all

    info, round_trip_ms = ask(nats, deadline, work)
    return Health(
        version=info["version"],
        server=info.get("server_name", ""),
        jetstream=bool(info.get("jetstream")),
        max_payload=info["max_payload"],
        round_trip_ms=round_trip_ms,
        elapsed_ms=(time.perf_counter() - started) * 1000,
        source=nats.address,
    )


@action("nats.echo")
def echo(nats: Nats, deadline: Deadline) -> Echo:
    """Publish a message to a subject that no one else knows, and receive it: the way of a message works."""
    started = time.perf_counter()

    async def work(client: Client) -> float:
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        await client.flush(max(1, round(deadline.remaining())))
        began = time.perf_counter()
        await client.publish(inbox, b"k2run")
        await subscription.next_msg(timeout=deadline.remaining())
        return (time.perf_counter() - began) * 1000

    round_trip_ms = ask(nats, deadline, work)
    elapsed_ms = (time.perf_counter() - started) * 1000
    return Echo(round_trip_ms=round_trip_ms, elapsed_ms=elapsed_ms, source=nats.address)


@action("nats.stream")
def stream(nats: Nats, deadline: Deadline, name: str) -> Stream:
    """A stream of JetStream: its messages, consumers and replicas; one that does not exist is unknown.

    Args:
        name: Of the stream.
    """
    found = ask_streams(nats, deadline, lambda streams: streams.stream_info(name), f"stream {name!r}")
    cluster, state = found.cluster, found.state
    others = (cluster.replicas if cluster else None) or []
    leader = (cluster.leader if cluster else None) or ""
    return Stream(
        name=name,
        messages=state.messages,
        bytes=state.bytes,
        first=state.first_seq,
        last=state.last_seq,
        consumers=state.consumer_count,
        subjects=found.config.subjects or [],
        replicas=found.config.num_replicas or 1,
        replicas_current=bool(leader) + sum(bool(one.current) for one in others) if others else None,
        leader=leader,
        source=nats.address,
    )


@action("nats.consumer")
def consumer(nats: Nats, deadline: Deadline, stream: str, name: str) -> Lag:
    """How many messages a consumer of a stream still has to read and to acknowledge.

    Args:
        stream: Name of the stream.
        name: Of the consumer.
    """
    what = f"consumer {name!r} of stream {stream!r}"
    found = ask_streams(nats, deadline, lambda streams: streams.consumer_info(stream, name), what)
    return Lag(
        stream=stream,
        consumer=name,
        pending=found.num_pending or 0,
        unacknowledged=found.num_ack_pending or 0,
        redelivered=found.num_redelivered or 0,
        waiting=found.num_waiting or 0,
        bound=bool(found.push_bound) if found.config.deliver_subject else None,
        paused=bool(getattr(found, "paused", False)),
        source=nats.address,
    )


@action("nats.read")
def read(nats: Nats, deadline: Deadline, stream: str, subject: str = "", limit: int = 1) -> Messages:
    """The newest messages of a stream; no consumer is changed by it. None are unknown.

    Args:
        stream: Name of the stream.
        subject: Only the newest message of this subject.
        limit: How many to read at most, where no subject is given.
    """

    async def work(streams: JetStreamContext) -> list[Any]:
        if subject:
            return [await streams.get_last_msg(stream, subject)]
        state = (await streams.stream_info(stream)).state
        found: list[Any] = []
        for number in range(state.last_seq, max(state.first_seq - 1, 0), -1):
            if len(found) == limit:
                break
            found += await _message(streams, stream, number)
        return found[::-1]

    what = f"message of {subject!r} in stream {stream!r}" if subject else f"stream {stream!r}"
    found = ask_streams(nats, deadline, work, what)
    if not found:
        raise Unknown(f"the stream {stream!r} of {nats.address} has no message", hint="is anything published to it?")
    messages = [Message(sequence=one.seq, subject=one.subject, value=_value(one.data or b"")) for one in found]
    return Messages(count=len(messages), messages=messages, source=nats.address)


@action("nats.publish", effect=Effect.CHANGES, blast=Blast.DATA)
def publish(
    nats: Nats,
    deadline: Deadline,
    subject: str,
    text: str = "",
    json: Any = None,
    id: str = "",
    stored: bool = True,
) -> Published:
    """Publish one message.

    Args:
        subject: Where to.
        text: What it says.
        json: What it says, as JSON, instead of a text.
        id: A stream that has stored a message of this id lately does not store another one.
        stored: Whether a stream must have stored it; otherwise the step passes once the server has it.
    """
    if text and json is not None:
        raise AuthorError("nats.publish takes a text or json, not both", hint="leave one of them out")
    content = text.encode() if json is None else msgspec.json.encode(json)
    headers = {"Nats-Msg-Id": id} if id else None
    started = time.perf_counter()

    async def handed_over(client: Client) -> None:
        await client.publish(subject, content, headers=headers)
        await client.flush(max(1, round(deadline.remaining())))

    if not stored:
        ask(nats, deadline, handed_over)
        elapsed_ms = (time.perf_counter() - started) * 1000
        return Published(stream="", sequence=0, duplicate=False, elapsed_ms=elapsed_ms, source=nats.address)
    what = f"stream that stores {subject!r}; set stored: false where no stream should"
    kept = ask_streams(nats, deadline, lambda streams: streams.publish(subject, content, headers=headers), what)
    return Published(
        stream=kept.stream,
        sequence=kept.seq,
        duplicate=bool(kept.duplicate),
        elapsed_ms=(time.perf_counter() - started) * 1000,
        source=nats.address,
    )


@action("nats.purge", effect=Effect.DESTROYS)
def purge(nats: Nats, deadline: Deadline, stream: str, subject: str = "", keep: int = 0) -> Purged:
    """Delete the messages of a stream; they cannot be brought back.

    Args:
        stream: Name of the stream.
        subject: Only messages of this subject; may have wildcards.
        keep: How many of the newest are kept.
    """
    wanted = {**({"filter": subject} if subject else {}), **({"keep": keep} if keep else {})}

    async def work(client: Client) -> Any:
        called = f"$JS.API.STREAM.PURGE.{stream}"
        answer = await client.request(called, msgspec.json.encode(wanted), timeout=deadline.remaining())
        return msgspec.json.decode(answer.data)

    said = ask(nats, deadline, work, f"stream {stream!r}")
    if error := said.get("error"):
        if error.get("err_code") == _NO_STREAM:
            raise Unknown(f"{nats.address} has no stream {stream!r}", hint="is its name right?")
        raise Refused(f"{nats.address} refuses: {error.get('description')}")
    return Purged(purged=said["purged"], source=nats.address)


async def _message(streams: JetStreamContext, stream: str, number: int) -> list[Any]:
    """A message by its number; none when it was deleted."""
    from nats.js.errors import NotFoundError

    try:
        return [await streams.get_msg(stream, number)]
    except NotFoundError:
        return []


def _value(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError:
        return content.decode("utf-8", "replace")
