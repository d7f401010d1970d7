"""Topics: how they are listed and made, where their partitions begin and end, and how far a group has come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from k2run.actions.action import Blast, Effect, action
from k2run.actions.deadline import Deadline
from k2run.adapters._answers import nearest
from k2run.adapters.kafka import results as r
from k2run.adapters.kafka.client import ANSWER_S, Kafka, Link
from k2run.errors import ActionError, Refused, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from concurrent.futures import Future

    from confluent_kafka import Consumer, TopicPartition
    from confluent_kafka.admin._listoffsets import OffsetSpec

    from k2run.adapters.kafka.client import Setting


UNCOMMITTED = {"isolation.level": "read_uncommitted"}
"""Messages of an open transaction are in the topic, too."""
ELECTION_S = 10.0
"""How long partitions without a leader are asked again; a busy broker elects those of a large new topic for seconds."""
PATIENCE_S = 0.15
"""librdkafka now and then leaves some of many partitions to its next tick, a second later; a new client is faster."""


class Span(NamedTuple):
    """One partition's first readable offset and the offset after its last message."""

    low: int
    high: int


def topic_names(link: Link) -> dict[str, int]:
    """Every topic with its number of partitions; internal ones too."""
    with link.judged("list the topics"):
        found = link.admin.list_topics(timeout=link.deadline.at_most(ANSWER_S)).topics
    return {name: len(topic.partitions) for name, topic in found.items()}


def partitions(link: Link, topic: str) -> list[int]:
    """The partition numbers of a topic.

    Raises:
        Unknown: There is no such topic; the hint names the nearest.
    """
    from confluent_kafka import TopicCollection

    described = link.ask(link.admin.describe_topics, TopicCollection([topic]))[topic]
    try:
        return [partition.id for partition in link.answer(described, f"describe the topic {topic!r}").partitions]
    except Unknown as error:
        raise Unknown(
            f"there is no topic {topic!r} at {link.kafka.bootstrap}", hint=nearest(topic, topic_names(link))
        ) from error


def spans(link: Link, topic: str) -> dict[int, Span]:
    """Where each partition of the topic begins and ends, exactly, by partition number.

    All partitions are asked about in one request for either end. Some brokers (Tansu 0.6) answer with the first
    offset of the last batch plus one, up to a whole batch too low; the watermark that comes with a fetch is exact
    everywhere, so a fetch at the answered end has the last word.
    """
    from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]  # exported at run time

    numbers = partitions(link, topic)
    lows = _listed(link, topic, numbers, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    highs = _listed(link, topic, numbers, OffsetSpec.latest())  # type: ignore[no-untyped-call]
    filled = {number: high for number, high in highs.items() if high > 0}
    fetched = _fetched(link, topic, filled) if filled else {}
    return {number: Span(max(lows[number], 0), max(highs[number], fetched.get(number, 0))) for number in numbers}


def _listed(link: Link, topic: str, numbers: Iterable[int], spec: OffsetSpec) -> dict[int, int]:
    """The offset of each partition. Partitions that are electing a leader are asked again.

    Raises:
        Unreachable: Some partitions still have no leader after `ELECTION_S`.
    """
    from confluent_kafka import TopicPartition

    found: dict[int, int] = {}
    limit, pause = time.monotonic() + link.deadline.at_most(ELECTION_S), 0.1
    wanted = [TopicPartition(topic, number) for number in numbers]
    while True:
        asked = link.ask(link.admin.list_offsets, dict.fromkeys(wanted, spec))
        electing = [at for at, answer in asked.items() if _is_electing(answer, link)]
        answered = asked.keys() - set(electing)
        found |= {at.partition: link.answer(asked[at], f"list the offsets of {topic!r}").offset for at in answered}
        if not electing:
            return found
        if time.monotonic() + pause > limit:
            first = ", ".join(str(number) for number in sorted(at.partition for at in electing)[:5])
            raise Unreachable(
                f"{len(electing)} of the partitions of {topic!r} at {link.kafka.bootstrap} have no leader: {first}",
                hint="is a broker down? a new topic elects its leaders within seconds",
            )
        link.deadline.sleep(pause)
        wanted, pause = electing, min(2 * pause, 1.0)


def _is_electing(answer: Future[Any], link: Link) -> bool:
    """Whether a partition has no leader yet, or another one than the client knows: soon after it was made, or moved."""
    from confluent_kafka import KafkaError, KafkaException

    try:
        error = answer.exception(link.deadline.at_most(ANSWER_S))
    except TimeoutError:
        return False
    electing = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE}
    return isinstance(error, KafkaException) and error.args[0].code() in electing


def _fetched(link: Link, topic: str, starts: Mapping[int, int]) -> dict[int, int]:
    """High watermarks as a fetch from `starts` brings them; none where this user may describe but not read.

    Raises:
        Unreachable: Not every partition answered in time.
    """
    found: dict[int, int] = {}
    limit, patience = time.monotonic() + link.deadline.at_most(ANSWER_S), PATIENCE_S
    while left := {number: start for number, start in starts.items() if number not in found}:
        if time.monotonic() > limit:
            link.deadline.remaining()
            raise Unreachable(
                f"{len(left)} of {len(starts)} partitions of {topic!r} at {link.kafka.bootstrap} do not answer a fetch",
                hint="is the leader of each partition up?",
            )
        if not _fetch(link, topic, left, found, patience):
            return {}
        patience *= 2
    return found


def _fetch(link: Link, topic: str, starts: Mapping[int, int], found: dict[int, int], patience: float) -> bool:
    """Add high watermarks to `found` until all are there or none came for `patience` seconds; False when forbidden."""
    from confluent_kafka import KafkaError, TopicPartition

    settings: dict[str, Setting] = {"fetch.wait.max.ms": 10, "queued.min.messages": 1, **UNCOMMITTED}
    with link.consumer(settings) as consumer, link.judged(f"fetch from {topic!r}"):
        consumer.assign([TopicPartition(topic, number, start) for number, start in starts.items()])
        quiet = time.monotonic() + link.deadline.at_most(patience)
        while (left := starts.keys() - found.keys()) and time.monotonic() < quiet:
            message = consumer.poll(0.005)
            if message is not None and (error := message.error()) is not None:
                if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    return False
                raise link.judge(error, f"fetch from {topic!r}")
            if known := _watermarks(consumer, topic, left):
                found |= known
                # A partition that has answered must not keep the others from theirs: a fetch holds a limited size.
                consumer.incremental_unassign([TopicPartition(topic, number) for number in known])
                quiet = time.monotonic() + patience
    return True


def _watermarks(consumer: Consumer, topic: str, numbers: Iterable[int]) -> dict[int, int]:
    """The high watermarks that the consumer has learnt so far; below zero means not yet."""
    from confluent_kafka import TopicPartition

    known = {
        number: marks[1]
        for number in numbers
        if (marks := consumer.get_watermark_offsets(TopicPartition(topic, number), cached=True)) is not None
    }
    return {number: high for number, high in known.items() if high >= 0}


def groups(link: Link) -> list[str]:
    """The ids of all consumer groups that the cluster knows."""
    from confluent_kafka import KafkaError

    listed = link.answer(link.ask(link.admin.list_consumer_groups), "list the consumer groups")
    for error in listed.errors:  # of the one kind or of the other, as it seems fit to the client
        raise link.judge(error if isinstance(error, KafkaError) else error.args[0], "list the consumer groups")
    return [group.group_id for group in listed.valid]


def committed(link: Link, group: str, topic: str, numbers: Iterable[int]) -> dict[int, int | None]:
    """The offset a group has committed for each partition; None where it never has.

    A consumer that never joins the group asks. The admin client's own request aborts the whole process when the
    connection to the coordinator breaks meanwhile: librdkafka's issue 4605.

    Raises:
        Unknown: The cluster has no such group; the hint names the nearest.
    """
    from confluent_kafka import TopicPartition

    doing = f"read the offsets of group {group!r}"
    wanted = [TopicPartition(topic, number) for number in numbers]
    with link.consumer({"group.id": group}) as aside, link.judged(doing):
        at = aside.committed(wanted, timeout=link.deadline.at_most(ANSWER_S))
    _complain(link, at, doing)
    found = {partition.partition: partition.offset if partition.offset >= 0 else None for partition in at}
    if all(offset is None for offset in found.values()):
        # Nothing committed may mean a new group, or a name that was never used.
        known = groups(link)
        if group not in known:
            raise Unknown(f"there is no consumer group {group!r} at {link.kafka.bootstrap}", hint=nearest(group, known))
    return found


def behind(spans_of: Mapping[int, Span], at: Mapping[int, int | None]) -> dict[int, int]:
    """Messages still to be read, by partition; where nothing was committed all that the partition holds.

    Raises:
        Unknown: A group has committed past the end: its offsets belong to an earlier life of the topic.
    """
    left = {}
    for number, span in spans_of.items():
        offset = at.get(number)
        if offset is not None and offset > span.high:
            raise Unknown(
                f"offset {offset:,} is committed for partition {number}, which ends at {span.high:,}",
                hint="the topic was recreated since; reset the group's offsets",
            )
        left[number] = span.high - max(span.low, offset or 0)
    return left


def commit(link: Link, group: str, topic: str, at: Mapping[int, int]) -> None:
    """Set a group's offsets; only a group without members can be set.

    Raises:
        Refused: The group has members.
    """
    from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

    wanted = [TopicPartition(topic, number, offset) for number, offset in at.items()]
    request = ConsumerGroupTopicPartitions(group, wanted)
    answer = link.ask(link.admin.alter_consumer_group_offsets, [request])[group]
    doing = f"set the offsets of group {group!r}"
    _complain(link, link.answer(answer, doing).topic_partitions or [], doing)


def _complain(link: Link, at: Iterable[TopicPartition], doing: str) -> None:
    for partition in at:
        if partition.error is not None:
            error: ActionError = link.judge(partition.error, f"{doing}, partition {partition.partition}")
            error.hint = error.hint or "offsets can be set only while the group has no members: stop its consumers"
            raise error


def at_time(link: Link, topic: str, numbers: Iterable[int], since_ms: int) -> dict[int, int]:
    """The first offset at or after a moment (milliseconds since 1970) in each partition; -1 where there is none."""
    from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]  # exported at run time

    return _listed(link, topic, numbers, OffsetSpec.for_timestamp(since_ms))


@action("kafka.topics")
def topics(kafka: Kafka, deadline: Deadline, internal: bool = False) -> r.Topics:
    """The topics of the cluster with their number of partitions.

    Args:
        internal: Also those whose name starts with two underscores.
    """
    link = Link(kafka, deadline)
    found = {n: count for n, count in sorted(topic_names(link).items()) if internal or not n.startswith("__")}
    return r.Topics(topics=found, count=len(found), source=link.source)


@action("kafka.describe_topic")
def describe_topic(kafka: Kafka, deadline: Deadline, topic: str) -> r.Topic:
    """One topic: partitions, replicas that are in sync, settings.

    Args:
        topic: Name of the topic.
    """
    from confluent_kafka import TopicCollection

    link = Link(kafka, deadline)
    partitions(link, topic)  # complains with the nearest name
    described = link.ask(link.admin.describe_topics, TopicCollection([topic]))[topic]
    found = link.answer(described, f"describe the topic {topic!r}")
    settings = settings_of(link, topic)
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


def settings_of(link: Link, topic: str) -> dict[str, Any]:
    """Every setting of a topic, those that it has from its broker included."""
    from confluent_kafka.admin import ConfigResource  # type: ignore[attr-defined]  # exported at run time

    resource = ConfigResource("topic", topic)
    return link.answer(link.ask(link.admin.describe_configs, [resource])[resource], f"read the settings of {topic!r}")


def alter_settings(link: Link, topic: str, settings: dict[str, str]) -> None:
    """Set settings of a topic; an empty one becomes that of its broker again."""
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource  # type: ignore[attr-defined]

    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET if value else AlterConfigOpType.DELETE)
        for name, value in settings.items()
    ]
    resource = ConfigResource("topic", topic, incremental_configs=entries)
    asked = link.ask(link.admin.incremental_alter_configs, [resource])
    for answer in asked.values():
        link.answer(answer, f"change the settings of {topic!r}")


@action("kafka.create_topic", effect=Effect.CHANGES, blast=Blast.DATA)
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
    there = topic_names(link).get(topic)
    if there is not None and there != partitions:
        raise Refused(f"the topic {topic!r} already exists with {there} partitions instead of {partitions}")
    if there is None:
        text = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in settings.items()}
        made = link.ask(link.admin.create_topics, [NewTopic(topic, partitions, replicas, config=text)])
        link.answer(made[topic], f"create the topic {topic!r}")
        while topic_names(link).get(topic) != partitions:
            deadline.sleep(0.05)
    return r.TopicMade(
        topic=topic, partitions=partitions, created=there is None, changed=there is None, source=link.source
    )


@action("kafka.delete_topic", effect=Effect.DESTROYS)
def delete_topic(kafka: Kafka, deadline: Deadline, topic: str, missing_ok: bool = False) -> r.TopicGone:
    """Delete a topic with all its messages and wait until it is gone.

    Args:
        topic: Name of the topic.
        missing_ok: Whether it is fine when there is none.
    """
    link = Link(kafka, deadline)
    known = topic_names(link)
    if topic not in known:
        if missing_ok:
            return r.TopicGone(topic=topic, deleted=False, source=link.source)
        raise Unknown(f"there is no topic {topic!r} at {kafka.bootstrap}", hint=nearest(topic, known))
    link.answer(link.ask(link.admin.delete_topics, [topic])[topic], f"delete the topic {topic!r}")
    while topic in topic_names(link):
        deadline.sleep(0.05)
    return r.TopicGone(topic=topic, deleted=True, source=link.source)
