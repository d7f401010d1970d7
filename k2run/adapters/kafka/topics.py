"""The actions on topics: list, describe, make, delete."""

from __future__ import annotations

from k2run.actions.action import Blast, Effect, action
from k2run.actions.deadline import Deadline
from k2run.adapters.kafka import offsets
from k2run.adapters.kafka import results as r
from k2run.adapters.kafka.client import Kafka, Link, nearest
from k2run.errors import Refused, Unknown


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
    there = offsets.topic_names(link).get(topic)
    if there is not None and there != partitions:
        raise Refused(f"the topic {topic!r} already exists with {there} partitions instead of {partitions}")
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
