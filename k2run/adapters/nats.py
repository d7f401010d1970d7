"""NATS and JetStream: whether a server answers, streams and consumers, messages, and how long a round trip takes.

Long because the adapter is one module: its connection, its results and its actions.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from k2run.actions.action import Blast, Effect, Result, action
from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.adapters._clients import cause_of, late, punctually, require_client
from k2run.errors import ActionError, AuthorError, Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from nats.aio.client import Client
    from nats.js import JetStreamContext


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


T = TypeVar("T")
_SETTING = "see connections.nats in the stack file"
_LET_IN = ("authorization", "authentication", "permissions", "nkeys", "user credentials")


class Nats(Connection, frozen=True, kw_only=True, key="nats"):
    """A NATS server, or a cluster of them.

    Attributes:
        servers: URLs, tried one after another: `nats://10.0.0.1:4222`, `tls://…`, `ws://…`.
        user: Who logs in.
        password: Their password.
        token: To log in with, instead of a user.
        credentials: File with a user's JWT and seed (`.creds`).
        ca: File with the certificates to trust, instead of the system's.
    """

    servers: list[str]
    user: str = ""
    password: str = ""
    token: str = ""
    credentials: str = ""
    ca: str = ""

    @property
    def address(self) -> str:
        """Where it is."""
        return ", ".join(self.servers)


def ask_streams(
    nats: Nats, deadline: Deadline, work: Callable[[JetStreamContext], Coroutine[Any, Any, T]], what: str
) -> T:
    """What some work with the streams of a server returns."""
    return ask(nats, deadline, lambda client: work(client.jetstream(timeout=deadline.remaining())), what)


def ask(nats: Nats, deadline: Deadline, work: Callable[[Client], Coroutine[Any, Any, T]], what: str = "") -> T:
    """What some work on a connection of its own returns.

    `what` is named in the error when it does not exist.

    Raises:
        Unreachable: Nothing answers, or it is no NATS.
        Refused: The server says no, or the client is not installed here.
        Unknown: It has no such thing.
        TimedOut: The deadline passed first.
    """
    if nats.credentials and not Path(nats.credentials).is_file():  # the client reads it only where it is asked for
        raise Refused(f"{nats.credentials} is missing on this machine", hint=f"credentials: {_SETTING}")
    require_client("nats", "nats", *(["nkeys"] if nats.credentials else []))
    from nats.errors import Error

    try:
        return punctually(_session(nats, deadline, work), deadline)
    except TimedOut as error:
        hint = f"is it up and healthy? {_SETTING}, or raise the step's timeout"
        raise late(nats.address, deadline, hint) from error
    except (Error, OSError, ValueError) as error:
        raise _judge(nats, error, what) from error


async def _session(nats: Nats, deadline: Deadline, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    import ssl

    from nats.aio.client import Client
    from nats.errors import NoServersError

    heard: list[Exception] = []

    async def hear(error: Exception) -> None:
        heard.append(error)

    given: dict[str, Any] = {
        "user": nats.user,
        "password": nats.password,
        "token": nats.token,
        "user_credentials": nats.credentials,
    }
    client = Client()
    try:
        await client.connect(
            servers=list(nats.servers),
            allow_reconnect=False,
            max_reconnect_attempts=1,  # a step says itself how often it tries
            reconnect_time_wait=0,
            connect_timeout=max(1, round(deadline.remaining())),
            error_cb=hear,
            tls=ssl.create_default_context(cafile=nats.ca) if nats.ca else None,
            **{name: value for name, value in given.items() if value},
        )
    except NoServersError as error:
        raise heard[-1] if heard else error from error
    try:
        return await work(client)
    finally:
        await client.close()


def _judge(nats: Nats, error: Exception, what: str) -> ActionError:
    from nats import errors as known
    from nats.js import errors as streams

    cause = cause_of(error, nats.password, nats.token)
    match error:
        case streams.NotFoundError() | streams.NoStreamResponseError():
            verdict: ActionError = Unknown(f"{nats.address} has no {what}", hint="are the names right?")
        case streams.ServiceUnavailableError() | known.NoRespondersError():
            hint = "is JetStream on, and does it have a leader?"
            verdict = Unknown(f"{nats.address} keeps no streams: {cause}", hint=hint)
        case streams.APIError():
            verdict = Refused(f"{nats.address} refuses: {cause}")
        case _ if any(word in cause.lower() for word in _LET_IN):
            verdict = Refused(f"{nats.address} refuses the login: {cause}", hint=f"user, password, token: {_SETTING}")
        case known.MaxPayloadError():
            verdict = Refused(f"{nats.address} refuses: {cause}", hint="nats.health says its max_payload")
        case FileNotFoundError() if error.filename:
            verdict = Refused(f"{error.filename} is missing on this machine", hint=f"credentials, ca: {_SETTING}")
        case _:
            verdict = Unreachable(f"{nats.address} does not answer: {cause}", hint=f"is it up, and NATS? {_SETTING}")
    return verdict


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
