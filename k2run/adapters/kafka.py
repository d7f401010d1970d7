"""Kafka: topics, how much they hold, how fast they grow, how far groups are behind; and load."""

from __future__ import annotations

import os
import re
import time
from itertools import islice
from typing import Any, Literal

from k2run.actions.action import Effect, action
from k2run.actions.deadline import Deadline
from k2run.adapters._kafka import load, offsets, reading, trades
from k2run.adapters._kafka import results as r
from k2run.adapters._kafka.link import Kafka, Link, nearest
from k2run.errors import AuthorError, Refused, Unknown, Unreachable
from k2run.language.quantities import Duration, Rate

TWO_SECONDS = Duration(2)
PROBE_TOPIC = "k2run.probe"


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


@action("kafka.topics")
def topics(kafka: Kafka, deadline: Deadline, internal: bool = False) -> r.Topics:
    """The topics of the cluster with their number of partitions.

    Args:
        internal: Also those whose name starts with two underscores.
    """
    link = Link(kafka, deadline)
    found = {n: count for n, count in sorted(offsets.topic_names(link).items()) if internal or not n.startswith("__")}
    return r.Topics(topics=found, count=len(found), source=link.source)


@action("kafka.describe_topic")
def describe_topic(kafka: Kafka, deadline: Deadline, topic: str) -> r.Topic:
    """One topic: partitions, replicas that are in sync, settings.

    Args:
        topic: Name of the topic.
    """
    from confluent_kafka import TopicCollection
    from confluent_kafka.admin import ConfigResource  # type: ignore[attr-defined]  # exported at run time

    link = Link(kafka, deadline)
    offsets.partitions(link, topic)  # complains with the nearest name
    described = link.ask(link.admin.describe_topics, TopicCollection([topic]))[topic]
    found = link.answer(described, f"describe the topic {topic!r}")
    resource = ConfigResource("topic", topic)
    settings = link.answer(
        link.ask(link.admin.describe_configs, [resource])[resource], f"read the settings of {topic!r}"
    )
    return r.Topic(
        topic=topic,
        topic_id=str(found.topic_id),
        partitions=len(found.partitions),
        replicas=min((len(partition.replicas) for partition in found.partitions), default=0),
        under_replicated=sum(len(partition.isr) < len(partition.replicas) for partition in found.partitions),
        leaderless=sum(partition.leader is None for partition in found.partitions),
        settings={name: str(entry.value) for name, entry in sorted(settings.items()) if not entry.is_sensitive},
        source=link.source,
    )


@action("kafka.create_topic", effect=Effect.CHANGES)
def create_topic(
    kafka: Kafka,
    deadline: Deadline,
    topic: str,
    partitions: int = 1,
    replicas: int = 1,
    settings: dict[str, str | int | bool] = {},
) -> r.TopicMade:
    """Make a topic and wait until it can be used; one that is there with as many partitions is fine.

    Args:
        topic: Name of the topic.
        partitions: How many.
        replicas: Copies of each partition.
        settings: The topic's configuration, such as `{retention.ms: 604800000}`.
    """
    from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # exported at run time

    link = Link(kafka, deadline)
    there = offsets.topic_names(link).get(topic)
    if there is not None and there != partitions:
        raise Refused(f"the topic {topic!r} is there already, with {there} partitions instead of {partitions}")
    if there is None:
        text = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in settings.items()}
        made = link.ask(link.admin.create_topics, [NewTopic(topic, partitions, replicas, config=text)])
        link.answer(made[topic], f"create the topic {topic!r}")
        while offsets.topic_names(link).get(topic) != partitions:
            deadline.sleep(0.05)
    return r.TopicMade(topic=topic, partitions=partitions, created=there is None, source=link.source)


@action("kafka.delete_topic", effect=Effect.DESTROYS)
def delete_topic(kafka: Kafka, deadline: Deadline, topic: str, missing_ok: bool = False) -> r.TopicGone:
    """Delete a topic with all its messages and wait until it is gone.

    Args:
        topic: Name of the topic.
        missing_ok: Whether it is fine when there is none.
    """
    link = Link(kafka, deadline)
    known = offsets.topic_names(link)
    if topic not in known:
        if missing_ok:
            return r.TopicGone(topic=topic, deleted=False, source=link.source)
        raise Unknown(f"there is no topic {topic!r} at {kafka.bootstrap}", hint=nearest(topic, known))
    link.answer(link.ask(link.admin.delete_topics, [topic])[topic], f"delete the topic {topic!r}")
    while topic in offsets.topic_names(link):
        deadline.sleep(0.05)
    return r.TopicGone(topic=topic, deleted=True, source=link.source)


@action("kafka.watermarks")
def watermarks(kafka: Kafka, deadline: Deadline, topic: str) -> r.Watermarks:
    """How many messages a topic holds, by partition and in total.

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
        raise Unknown(f"the topic {topic!r} was made anew while its rate was measured")
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
    start. A group that nobody ever used is unknown, not far behind.

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


@action("kafka.produce", effect=Effect.CHANGES)
def produce(
    kafka: Kafka,
    deadline: Deadline,
    topic: str,
    count: int = 1,
    template: Literal["", "trade"] = "",
    values: list[Any] = [],
    keys: list[str] = [],
    symbols: list[str] = trades.SYMBOLS,
    rate: Rate | None = None,
    seed: int = 1,
    tag: str = "",
    allow_failed: bool = False,
) -> r.Produced:
    """Write messages to a topic and wait until each is acknowledged by all replicas.

    Args:
        topic: Name of the topic; it must be there.
        count: Number of messages.
        template: `trade` makes up K2 trades as JSON, each with a message_id of its own, keyed by symbol.
        values: Instead of a template: the values, over and over; what is not text is written as JSON.
        keys: The keys, over and over, for `values`; without any the broker's client spreads the messages.
        symbols: With `template: trade`: the currency pairs, of which the first trades most.
        rate: Messages a second, such as `500/s`; without it as fast as it goes.
        seed: With `template: trade`: the same seed gives the same market (but new ids).
        tag: With `template: trade`: goes into every trade_id, so that exactly these trades can be counted later.
        allow_failed: Whether messages that are not acknowledged are only counted, not a failure of the step.
    """
    if bool(template) == bool(values) or count < 1 or not symbols:
        raise AuthorError("kafka.produce needs a count above 0, and either `template: trade` or a list of `values`")
    link = Link(kafka, deadline)
    offsets.partitions(link, topic)  # a mistyped name must not become a new topic
    prefix = f"K2RUN-{re.sub(r'[^A-Za-z0-9.-]', '-', tag) or 'load'}-{os.urandom(3).hex()}-" if template else ""
    messages = trades.trades(prefix, seed, symbols) if template else load.given(values, keys)
    started = time.monotonic()
    receipts = load.send(link, topic, islice(messages, count), rate or 0)
    seconds = time.monotonic() - started
    if not allow_failed:
        load.settled(link, topic, receipts)
    return r.Produced(
        topic=topic,
        count=count,
        acked=receipts.acked,
        failed=receipts.failed,
        seconds=seconds,
        per_s=receipts.acked / seconds,
        bytes=receipts.bytes,
        trade_id_prefix=prefix,
        first_offsets=receipts.first,
        last_offsets=receipts.last,
        source=link.source,
    )


@action("kafka.sample")
def sample(
    kafka: Kafka, deadline: Deadline, topic: str, count: int = 5, end: Literal["newest", "oldest"] = "newest"
) -> r.Sample:
    """Read some messages of a topic without joining a group; a topic without messages is unknown.

    Args:
        topic: Name of the topic.
        count: How many at most.
        end: Which end of the topic to read.
    """
    link = Link(kafka, deadline)
    spans = offsets.spans(link, topic)
    read = reading.newest if end == "newest" else reading.oldest
    found = read(link, topic, spans, count)
    if not found:
        raise Unknown(f"the topic {topic!r} at {kafka.bootstrap} holds no messages")
    at = reading.written_s(found[0])
    return r.Sample(
        topic=topic,
        messages=[reading.shown(raw) for raw in found],
        count=len(found),
        newest_age_s=time.time() - at if at else None,
        source=link.source,
    )


@action("kafka.round_trip", effect=Effect.CHANGES)
def round_trip(kafka: Kafka, deadline: Deadline, topic: str = PROBE_TOPIC) -> r.RoundTrip:
    """Write one message and read it back: proof that the cluster works, not only listens.

    Args:
        topic: Where to; made when it is not there. Not one that somebody reads: the message is not a trade.
    """
    link = Link(kafka, deadline)
    if topic not in offsets.topic_names(link):
        create_topic(kafka, deadline, topic)
    token = os.urandom(12).hex()
    started = time.perf_counter()
    receipts = load.send(link, topic, [(None, token.encode())], settings=load.PROBE)
    written = time.perf_counter()
    load.settled(link, topic, receipts)
    ((number, offset),) = receipts.last.items()
    raw = reading.one(link, topic, number, offset)
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


@action("kafka.reset_offsets", effect=Effect.DESTROYS)
def reset_offsets(
    kafka: Kafka,
    deadline: Deadline,
    topic: str,
    group: str,
    to: Literal["earliest", "latest"] = "latest",
    ago: Duration | None = None,
) -> r.Reset:
    """Set where a consumer group goes on reading; refused while the group has members.

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
