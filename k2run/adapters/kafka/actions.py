"""Kafka: topics, how much they hold, how fast they grow, how far groups are behind; and load."""

from __future__ import annotations

import time
from typing import Literal

from k2run.actions.action import Effect, action
from k2run.actions.deadline import Deadline
from k2run.adapters.kafka import offsets
from k2run.adapters.kafka import results as r
from k2run.adapters.kafka.client import Kafka, Link, nearest
from k2run.adapters.kafka.message_actions import consume, produce, round_trip, sample
from k2run.adapters.kafka.offsets import create_topic, delete_topic, describe_topic, topics
from k2run.errors import AuthorError, Refused, Unknown, Unreachable
from k2run.language.quantities import Duration

__all__ = [
    "cluster",
    "configs",
    "consume",
    "create_topic",
    "delete_topic",
    "describe_group",
    "describe_topic",
    "groups",
    "lag",
    "probe",
    "produce",
    "rate",
    "reset_offsets",
    "round_trip",
    "sample",
    "topics",
    "watermarks",
]

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
