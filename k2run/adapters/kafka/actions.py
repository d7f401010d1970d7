"""Kafka: topics, how much they hold, how fast they grow, how far groups are behind; and load.

Long because every action on a cluster, its groups and its messages is on this page.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal

from msgspec import structs

from k2run.actions.action import Blast, Effect, action
from k2run.actions.deadline import Deadline
from k2run.adapters._answers import nearest, refuse_violations
from k2run.adapters.kafka import form, offsets, transfer
from k2run.adapters.kafka import results as r
from k2run.adapters.kafka.client import Kafka, Link
from k2run.adapters.kafka.form import Template, refuse_other_form, template_of
from k2run.adapters.kafka.offsets import create_topic, delete_topic, describe_topic, topics
from k2run.adapters.schema_registry import avro
from k2run.adapters.schema_registry.client import latest
from k2run.errors import AuthorError, NotApplicable, Refused, Unknown, Unreachable
from k2run.language.json_schema import JsonSchema
from k2run.language.quantities import Duration, Rate

if TYPE_CHECKING:
    from confluent_kafka import Message as Raw

    from k2run.adapters.schema_registry.client import SchemaRegistry

__all__ = ["create_topic", "delete_topic", "describe_topic", "topics"]  # actions too, made in another module

TWO_SECONDS = Duration(2)


@action("kafka.cluster")
def cluster(kafka: Kafka, deadline: Deadline) -> r.Cluster:
    """The brokers of the cluster that answer."""
    started = time.perf_counter()
    link = Link(kafka, deadline)
    found = link.answer(link.ask(link.admin.describe_cluster), "describe the cluster")
    elapsed_ms = (time.perf_counter() - started) * 1000
    return r.Cluster(
        cluster_id=found.cluster_id or "",
        brokers=[r.Broker(id=node.id, address=f"{node.host}:{node.port}") for node in found.nodes],
        controller=found.controller.id if found.controller else None,
        elapsed_ms=elapsed_ms,
        source=link.source,
    )


@action("kafka.probe")
def probe(kafka: Kafka, deadline: Deadline) -> r.Seen:
    """Whether the cluster answers at all: for symptoms, where no answer is the finding."""
    started = time.perf_counter()
    try:
        found = cluster(kafka, deadline)
    except (Unreachable, Refused) as error:
        elapsed_ms = (time.perf_counter() - started) * 1000
        return r.Seen(answered=False, detail=error.message, elapsed_ms=elapsed_ms, source=kafka.bootstrap)
    return r.Seen(answered=True, brokers=len(found.brokers), elapsed_ms=found.elapsed_ms, source=found.source)


@action("kafka.configs")
def configs(kafka: Kafka, deadline: Deadline, broker: int | None = None, names: list[str] = []) -> r.Configs:
    """The settings of a broker, as it runs with them; secrets are left out.

    Args:
        broker: Its number; without it the first one.
        names: Only these settings; one that the broker does not have is unknown.
    """
    from confluent_kafka.admin import ConfigResource  # type: ignore[attr-defined]  # exported at run time

    link = Link(kafka, deadline)
    if broker is None:
        nodes = link.answer(link.ask(link.admin.describe_cluster), "describe the cluster").nodes
        broker = min(node.id for node in nodes)
    resource = ConfigResource(ConfigResource.Type.BROKER, str(broker))
    doing = f"read the settings of broker {broker}"
    found = link.answer(link.ask(link.admin.describe_configs, [resource])[resource], doing)
    shown = {name: entry for name, entry in sorted(found.items()) if not entry.is_sensitive}
    for name in names:
        if name not in shown:
            raise Unknown(f"broker {broker} at {kafka.bootstrap} has no setting {name!r}", hint=nearest(name, shown))
    return r.Configs(
        broker=broker,
        settings={name: str(entry.value) for name, entry in shown.items() if not names or name in names},
        changed=[name for name, entry in shown.items() if not entry.is_default],
        source=link.source,
    )


@action("kafka.watermarks")
def watermarks(kafka: Kafka, deadline: Deadline, topic: str) -> r.Watermarks:
    """How many messages a topic holds at most, by its offsets: markers of transactions are counted as well.

    Args:
        topic: Name of the topic.
    """
    link = Link(kafka, deadline)
    spans = offsets.spans(link, topic)
    return r.Watermarks(
        topic=topic,
        total=sum(span.high - span.low for span in spans.values()),
        written=sum(span.high for span in spans.values()),
        low={number: span.low for number, span in spans.items() if span.high},
        high={number: span.high for number, span in spans.items() if span.high},
        partitions=len(spans),
        source=link.source,
    )


@action("kafka.rate")
def rate(kafka: Kafka, deadline: Deadline, topic: str, window: Duration = TWO_SECONDS) -> r.Flow:
    """How many messages a second are written to a topic, measured at its end offsets.

    Args:
        topic: Name of the topic.
        window: Time between the two looks at the offsets.
    """
    if window <= 0:
        raise AuthorError("kafka.rate: the window must be longer than 0s")
    link = Link(kafka, deadline)
    before, started = offsets.spans(link, topic), time.monotonic()
    deadline.sleep(window)
    after, ended = offsets.spans(link, topic), time.monotonic()
    gained = {number: span.high - before[number].high for number, span in after.items() if number in before}
    if min(gained.values(), default=0) < 0:
        raise Unknown(f"the topic {topic!r} was recreated while its rate was measured")
    messages = sum(gained.values())
    return r.Flow(
        topic=topic,
        per_s=messages / (ended - started),
        messages=messages,
        window_s=ended - started,
        busy_partitions=sum(gain > 0 for gain in gained.values()),
        source=link.source,
    )


@action("kafka.lag")
def lag(kafka: Kafka, deadline: Deadline, topic: str, group: str) -> r.Lag:
    """Messages that a consumer group still has to read.

    Sums the end offset minus the committed offset over every partition; a partition never committed counts from its
    start. A group that was never used is unknown, not far behind.

    Args:
        topic: Name of the topic.
        group: Name of the consumer group.
    """
    link = Link(kafka, deadline)
    numbers = offsets.partitions(link, topic)
    # Committed first: what is written in between makes the lag larger, never negative.
    at = offsets.committed(link, group, topic, numbers)
    left = offsets.behind(offsets.spans(link, topic), at)
    return r.Lag(
        topic=topic,
        group=group,
        total=sum(left.values()),
        worst=max(left.values(), default=0),
        by_partition={number: messages for number, messages in left.items() if messages},
        partitions=len(left),
        committed_partitions=sum(offset is not None for offset in at.values()),
        source=link.source,
    )


@action("kafka.groups")
def groups(kafka: Kafka, deadline: Deadline) -> r.Groups:
    """The consumer groups that the cluster knows."""
    link = Link(kafka, deadline)
    found = sorted(offsets.groups(link))
    return r.Groups(groups=found, count=len(found), source=link.source)


@action("kafka.describe_group")
def describe_group(kafka: Kafka, deadline: Deadline, group: str) -> r.Group:
    """State and members of a consumer group.

    Args:
        group: Name of the consumer group.
    """
    link = Link(kafka, deadline)
    known = offsets.groups(link)
    if group not in known:  # brokers describe a group that they do not know as an empty or dead one
        raise Unknown(f"there is no consumer group {group!r} at {kafka.bootstrap}", hint=nearest(group, known))
    described = link.ask(link.admin.describe_consumer_groups, [group])[group]
    found = link.answer(described, f"describe the group {group!r}")
    return r.Group(
        group=group,
        state=found.state.name.lower(),
        members=[
            r.Member(
                client_id=member.client_id,
                host=member.host,
                partitions=len(member.assignment.topic_partitions) if member.assignment else 0,
            )
            for member in found.members
        ],
        assignor=found.partition_assignor,
        source=link.source,
    )


@action("kafka.reset_offsets", effect=Effect.DESTROYS)
def reset_offsets(
    kafka: Kafka,
    deadline: Deadline,
    topic: str,
    group: str,
    to: Literal["earliest", "latest"] = "latest",
    ago: Duration | None = None,
) -> r.Reset:
    """Set where a consumer group continues reading; refused while the group has members.

    Args:
        topic: Name of the topic.
        group: Name of the consumer group; a new one is made.
        to: The start of the topic, or its end (what was not read yet is then skipped).
        ago: Instead of `to`: the first message written at most this long ago.
    """
    link = Link(kafka, deadline)
    spans = offsets.spans(link, topic)
    target = {number: span.low if to == "earliest" else span.high for number, span in spans.items()}
    if ago is not None:
        since = offsets.at_time(link, topic, spans, int((time.time() - ago) * 1000))
        target = {number: since[number] if since[number] >= 0 else span.high for number, span in spans.items()}
    before = _lag_or_none(link, group, topic, spans)
    offsets.commit(link, group, topic, target)
    return r.Reset(
        topic=topic,
        group=group,
        offsets=target,
        lag_before=before,
        lag_after=sum(offsets.behind(spans, target).values()),
        source=link.source,
    )


def _lag_or_none(link: Link, group: str, topic: str, spans: dict[int, offsets.Span]) -> int | None:
    try:
        return sum(offsets.behind(spans, offsets.committed(link, group, topic, spans)).values())
    except Unknown:
        return None


PROBE_TOPIC = "k2run.probe"
TEN_SECONDS = Duration(10)


@action("kafka.produce", effect=Effect.CHANGES, blast=Blast.DATA)
def produce(
    kafka: Kafka,
    deadline: Deadline,
    topic: str,
    count: int = 1,
    template: Template | None = None,
    values: list[Any] = [],
    format: Literal["auto", "json", "avro", "raw"] = "auto",
    subject: str = "",
    keys: list[str] = [],
    symbols: list[str] = [],
    rate: Rate | None = None,
    seed: int = 1,
    tag: str = "",
    allow_failed: bool = False,
) -> r.Produced:
    """Write messages to a topic and wait until each is acknowledged by all replicas.

    What the readers of the topic could not read is refused, and nothing is written: its newest messages show whether
    that is Avro in a schema registry's framing, JSON, or neither.

    Args:
        topic: Name of the topic; it must be there.
        count: Number of messages.
        template: Makes up messages, each with a key and an id of its own: an entry point of `k2run.messages`.
        values: Instead of a template: the values, over and over; as JSON, text is written as it is.
        format: How a value is written: as JSON, as Avro by the newest schema of `subject` in the registry's framing
            (of a template: by the one of the topic's newest messages that it fits, where it does not fit the newest),
            or raw, from hexadecimal digits. `auto` is Avro for a template or mappings where the newest messages of
            the topic are, or where it has none and the registry has the subject; otherwise JSON.
        subject: For Avro: the schema's subject; without it the topic's name and `-value`.
        keys: The keys, over and over, for `values`; without any the broker's client spreads the messages.
        symbols: With a template: the keys of its messages (the template's own by default).
        rate: Messages a second, such as `500/s`; without it as fast as it goes.
        seed: With a template: the same seed gives the same messages (but new ids).
        tag: With a template: goes into every id, so that exactly these messages can be counted later.
        allow_failed: Whether messages that are not acknowledged are only counted, not a failure of the step.

    Raises:
        Refused: The topic's newest messages have another form.
    """
    if bool(template) == bool(values) or count < 1:
        raise AuthorError("kafka.produce needs a count above 0, and either a `template` or a list of `values`")
    link = Link(kafka, deadline)
    offsets.partitions(link, topic)  # a mistyped name must not become a new topic
    prefix = f"K2RUN-{re.sub(r'[^A-Za-z0-9.-]', '-', tag) or 'load'}-{os.urandom(3).hex()}-" if template else ""
    messages = (
        _made_up(link, topic, template, prefix, seed=seed, symbols=symbols, format=format, subject=subject)
        if template
        else transfer.given(_written(link, topic, values, format, subject), keys)
    )
    return _produced(link, topic, messages, prefix, count=count, rate=rate or 0, allow_failed=allow_failed)


@action("kafka.sample")
def sample(
    kafka: Kafka,
    deadline: Deadline,
    topic: str,
    count: int = 5,
    end: Literal["newest", "oldest"] = "newest",
    conforms_to: JsonSchema | None = None,
) -> r.Sample:
    """Read some messages of a topic without joining a group; a topic without messages is unknown.

    Avro values are decoded where the stack has a schema registry.

    Args:
        topic: Name of the topic.
        count: How many at most.
        end: Which end of the topic to read.
        conforms_to: JSON Schema that the value of each message must conform to, or the path of a file with one, from
            the runbook's.
    """
    link = Link(kafka, deadline)
    spans = offsets.spans(link, topic)
    read = transfer.newest if end == "newest" else transfer.oldest
    found = read(link, topic, spans, count)
    if not found:
        raise Unknown(f"the topic {topic!r} at {kafka.bootstrap} holds no messages")
    return _conforming(_sample(link, topic, found), conforms_to)


@action("kafka.consume")
def consume(
    kafka: Kafka,
    deadline: Deadline,
    topic: str,
    count: int = 1,
    within: Duration = TEN_SECONDS,
    contains: str = "",
    conforms_to: JsonSchema | None = None,
) -> r.Sample:
    """Wait for messages that are written to a topic from now on, without joining a group.

    Avro values are decoded where the stack has a schema registry. Fewer than `count` in time are unknown.

    Args:
        topic: Name of the topic.
        count: How many to wait for.
        within: How long to wait for them.
        contains: Only messages whose value, as a result shows it, has this text in it.
        conforms_to: JSON Schema that the value of each of them must conform to, or the path of a file with one, from
            the runbook's.
    """
    if count < 1:
        raise AuthorError("kafka.consume needs a count above 0")
    link = Link(kafka, deadline)
    spans = offsets.spans(link, topic)
    end = time.monotonic() + within
    seen: list[Raw] = []
    for raw in transfer.arriving(link, topic, spans, end):
        if not contains or contains in json.dumps(_shown(link, raw).value, ensure_ascii=False):
            seen.append(raw)
        if len(seen) == count:
            return _conforming(_sample(link, topic, seen[::-1]), conforms_to)
    raise Unknown(
        f"{len(seen)} of {count} messages arrived in {topic!r} at {kafka.bootstrap} within {within:g}s",
        hint="is something writing to it?",
    )


@action("kafka.round_trip", effect=Effect.CHANGES, blast=Blast.DATA)
def round_trip(kafka: Kafka, deadline: Deadline, topic: str = PROBE_TOPIC) -> r.RoundTrip:
    """Write one message and read it back: proof that the cluster works, not only listens.

    Args:
        topic: Where to; made when it is not there. Not one with a reader: the message is a random token.
    """
    link = Link(kafka, deadline)
    if topic not in offsets.topic_names(link):
        create_topic(kafka, deadline, topic)
    token = os.urandom(12).hex()
    started = time.perf_counter()
    receipts = transfer.send(link, topic, [(None, token.encode())], settings=transfer.PROBE)
    written = time.perf_counter()
    transfer.settled(link, topic, receipts)
    ((number, offset),) = receipts.last.items()
    raw = transfer.one(link, topic, number, offset)
    read = time.perf_counter()
    if raw.value() != token.encode():
        raise Refused(f"the message at offset {offset} of {topic!r} at {kafka.bootstrap} is not the one just written")
    return r.RoundTrip(
        topic=topic,
        write_ms=(written - started) * 1000,
        read_ms=(read - written) * 1000,
        total_ms=(read - started) * 1000,
        source=link.source,
    )


def _written(link: Link, topic: str, values: list[Any], format: str, subject: str) -> list[bytes]:
    """Values as they are written to the topic."""
    if format == "raw":
        return [_from_digits(value) for value in values]
    if format == "avro" or (
        format == "auto" and isinstance(values[0], dict) and form.schema_for(link, topic, subject) is not None
    ):
        return [*map(_encoder(link, subject or f"{topic}-value"), values)]
    return [_as_json(value) for value in values]


def _encoder(link: Link, subject: str) -> Callable[[Any], bytes]:
    return avro.Encoder(_registry(link), link.deadline, subject).encode


def _registry(link: Link) -> SchemaRegistry:
    if link.kafka.registry is None:
        raise NotApplicable(
            "`format: avro` needs a schema registry, and this stack has none",
            hint="add `connections: {schema_registry: {url: …}}` to its stack file",
        )
    return link.kafka.registry


def _made_up(
    link: Link,
    topic: str,
    template: Template,
    prefix: str,
    *,
    seed: int,
    symbols: list[str],
    format: str,
    subject: str,
) -> Iterator[form.Made]:
    """The messages of a template, as they are written to the topic."""
    maker = template_of(template)
    chosen = symbols or maker.symbols
    plain = maker.messages(prefix, seed, chosen)
    if format == "raw":
        return ((key, _from_digits(value)) for key, value in plain)
    schema = None
    if format == "avro":
        schema = latest(_registry(link), link.deadline, subject or f"{topic}-value")
    elif format == "auto":
        schema = form.schema_for(link, topic, subject)
    if schema is None:
        return plain
    schema = form.fitting(link, topic, maker, schema)
    if form.writes(maker, schema):
        return form.made_up(template, prefix, seed, chosen, schema.id)
    encode = _encoder(link, subject or f"{topic}-value")
    return ((key, encode(json.loads(value))) for key, value in plain)


def _produced(
    link: Link,
    topic: str,
    messages: Iterator[tuple[bytes | None, bytes]],
    prefix: str,
    *,
    count: int,
    rate: float,
    allow_failed: bool,
) -> r.Produced:
    """Send so many messages, unless the topic's readers could not read the first one."""
    first = next(messages)
    refuse_other_form(link, topic, first[1])
    started = time.monotonic()
    receipts = transfer.send(link, topic, islice(chain([first], messages), count), rate)
    seconds = time.monotonic() - started
    if not allow_failed:
        transfer.settled(link, topic, receipts)
    return r.Produced(
        topic=topic,
        count=count,
        acked=receipts.acked,
        failed=receipts.failed,
        seconds=seconds,
        per_s=receipts.acked / seconds,
        bytes=receipts.bytes,
        id_prefix=prefix,
        first_offsets=receipts.first,
        last_offsets=receipts.last,
        source=link.source,
    )


def _as_json(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def _from_digits(value: Any) -> bytes:
    try:
        return bytes.fromhex(value)
    except (ValueError, TypeError) as error:
        raise AuthorError(f"a raw value is written in hexadecimal digits, not {value!r}") from error


def _sample(link: Link, topic: str, newest_first: Sequence[Raw]) -> r.Sample:
    at = transfer.written_s(newest_first[0])
    return r.Sample(
        topic=topic,
        messages=[_shown(link, raw) for raw in newest_first],
        count=len(newest_first),
        newest_age_s=time.time() - at if at else None,
        source=link.source,
    )


def _conforming(sample: r.Sample, schema: JsonSchema | None) -> r.Sample:
    """The messages, when each value conforms to the schema."""
    if schema is not None:
        found = [
            f"partition {message.partition}, offset {message.offset}: {violation}"
            for message in sample.messages
            for violation in schema.violations(message.value)
        ]
        refuse_violations(found, f"what is in {sample.topic!r}", sample)
    return sample


def _shown(link: Link, raw: Raw) -> r.Message:
    """A message as a result shows it; a framed one is decoded where there is a registry."""
    plainly = transfer.shown(raw)
    value, registry = raw.value(), link.kafka.registry
    if plainly.schema_id is None or registry is None or not isinstance(value, bytes):
        return plainly
    return structs.replace(plainly, value=avro.decode(registry, link.deadline, value))
