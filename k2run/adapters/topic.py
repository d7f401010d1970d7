"""What may be wrong with a topic: unreadable messages, messages that come twice, late or in another form; settings.

A message cannot be taken back out of a topic. The undo of such a fault waits until the group that reads the topic is
past the messages; those that stay behind are told in the result, by their offsets.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.actions.action import Blast, Effect, Result, Striking, Undo, action, fault
from k2run.actions.deadline import Deadline
from k2run.adapters._answers import MISREAD
from k2run.adapters.kafka import offsets, transfer
from k2run.adapters.kafka.client import Kafka, Link
from k2run.adapters.kafka.offsets import create_topic, delete_topic
from k2run.adapters.schema_registry import avro
from k2run.errors import Refused, Unknown
from k2run.files import rewritten
from k2run.language.quantities import Duration
from k2run.stack.services import Services

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from confluent_kafka import Message

Written = tuple[bytes | None, bytes]

NOT_JSON = "{this is not JSON"
A_MINUTE = Duration(60)
_LOOK_S = 0.2
_MOST = 100_000
_FROM_THE_TOPIC = 1
"""Source of a setting that the topic itself has, by the numbers of Kafka's protocol."""


class Troubled(Result, frozen=True, kw_only=True):
    """Messages that make trouble are in the topic.

    Attributes:
        count: How many were written.
        ends: Offset after the last of them, by partition; they stay in the topic.
        id_prefix: What their ids begin with, where they have such.
    """

    topic: str
    count: int
    ends: dict[int, int]
    id_prefix: str = ""

    def headline(self) -> str:
        """Such as `20 messages`."""
        return f"{self.count:,} messages"


class Read(Result, frozen=True, kw_only=True):
    """A group is past the messages.

    Attributes:
        left: How many it had still to read at the first check.
    """

    topic: str
    group: str
    left: int


class Deleted(Result, frozen=True, kw_only=True):
    """A topic is gone.

    Attributes:
        partitions: How many it had.
        kept: How many messages, not read yet, are kept until it is made again.
    """

    topic: str
    partitions: int
    kept: int


class MadeAgain(Result, frozen=True, kw_only=True):
    """A topic that was deleted is there.

    Attributes:
        created: It was made just now.
        changed: It was made, or kept messages were written to it.
        written: How many that were.
    """

    topic: str
    created: bool
    changed: bool
    written: int


class Configured(Result, frozen=True, kw_only=True):
    """The settings of a topic, as far as they were set."""

    topic: str
    settings: dict[str, str]


@fault("topic.poison", blast=Blast.DATA, undone_by="topic.await_read")
def poison(
    kafka: Kafka, deadline: Deadline, topic: str, group: str, count: int = 1, value: str = NOT_JSON, key: str = ""
) -> Striking[Troubled]:
    """Write unreadable messages. Undone when the group is past them.

    Blast radius: every reader of the topic; the messages stay in it.

    Args:
        topic: Name of the topic.
        group: Consumer group that has to get past them.
        count: How many.
        value: What is in them.
        key: Their key, which chooses the partition; they are spread when it is empty.
    """
    return (yield from trouble(kafka, deadline, topic, group, [(key.encode() or None, value.encode())] * count))


@fault("topic.duplicate", blast=Blast.DATA, undone_by="topic.await_read")
def duplicate(kafka: Kafka, deadline: Deadline, topic: str, group: str, count: int = 100) -> Striking[Troubled]:
    """Write the newest messages of a topic once more. Undone when the group is past them.

    Blast radius: every reader of the topic; the copies stay in it.

    Args:
        topic: Name of the topic.
        group: Consumer group that has to get past them.
        count: How many.

    Raises:
        Unknown: The topic holds no messages.
    """
    found = _newest(kafka, deadline, topic, count)
    return (yield from trouble(kafka, deadline, topic, group, found))


@fault("topic.change_schema", blast=Blast.DATA, undone_by="topic.await_read")
def change_schema(
    kafka: Kafka,
    deadline: Deadline,
    topic: str,
    group: str,
    count: int = 10,
    rename: dict[str, str] = {},
    drop: list[str] = [],
    set: dict[str, Any] = {},
) -> Striking[Troubled]:
    """Write the newest messages again in another form, as a producer with a new schema does.

    What is neither a JSON object nor Avro among them, such as an unreadable message of another fault, is passed over.
    Avro comes with a schema of its own, which is registered under a subject of its own. Undone when the group is past
    them. Blast radius: every reader of the topic; the messages stay in it.

    Args:
        topic: Name of the topic; its messages are JSON objects, or Avro in the framing of the stack's registry.
        group: Consumer group that has to get past them.
        count: How many of the newest messages are taken.
        rename: Fields and their new names.
        drop: Fields that are left out.
        set: Fields and their new values.

    Raises:
        Unknown: The topic holds no messages.
        Refused: None of them is a JSON object or a record.
    """

    def change(before: dict[str, Any]) -> dict[str, Any]:
        return {rename.get(name, name): entry for name, entry in before.items() if name not in drop} | set

    link = Link(kafka, deadline)
    found = [(key, _changed(link, topic, value, change)) for key, value in _newest(kafka, deadline, topic, count)]
    changed = [(key, value) for key, value in found if value is not None]
    if not changed:
        raise Refused(
            f"none of the newest messages of {topic!r} is a JSON object, or Avro whose schema is known",
            hint="topic.poison breaks any kind of topic",
        )
    return (yield from trouble(kafka, deadline, topic, group, changed))


@action("topic.await_read")
def await_read(kafka: Kafka, deadline: Deadline, topic: str, group: str, ends: dict[int, int] = {}) -> Read:
    """Wait until a consumer group is past some offsets.

    Args:
        topic: Name of the topic.
        group: Name of the consumer group.
        ends: Offset that it has to reach, by partition; the end of each as it is now when empty.

    Raises:
        TimedOut: It does not get there.
    """
    link = Link(kafka, deadline)
    spans = offsets.spans(link, topic)
    if any(end > (spans[number].high if number in spans else 0) for number, end in ends.items()):
        return Read(topic=topic, group=group, left=0, source=link.source)  # a recreated topic has none of them
    goal = ends or {number: span.high for number, span in spans.items() if span.high}
    first: int | None = None
    while True:
        at = offsets.committed(link, group, topic, goal)
        left = sum(max(0, end - (at[number] or spans[number].low)) for number, end in goal.items())
        first = left if first is None else first
        if not left:
            return Read(topic=topic, group=group, left=first, source=link.source)
        deadline.sleep(_LOOK_S)


@fault("topic.configure", blast=Blast.DATA, undone_by="topic.reconfigure")
def configure(kafka: Kafka, deadline: Deadline, topic: str, settings: dict[str, str | int]) -> Striking[Configured]:
    """Change settings of a topic, such as its retention. Undone by giving it the old ones.

    Blast radius: every reader and writer of the topic. What a shorter retention deletes does not come back.

    Args:
        topic: Name of the topic.
        settings: Settings and their new values.
    """
    link = Link(kafka, deadline)
    before = _settings(link, topic)
    old = {name: before.get(name, "") for name in settings}
    yield Undo(
        action="topic.reconfigure", args={"topic": topic, "settings": old}, says=f"restore the settings of {topic}"
    )
    offsets.alter_settings(link, topic, {name: str(value) for name, value in settings.items()})
    return Configured(topic=topic, settings=_settings(link, topic), source=link.source)


@action("topic.reconfigure", effect=Effect.CHANGES)
def reconfigure(kafka: Kafka, deadline: Deadline, topic: str, settings: dict[str, str]) -> Configured:
    """Set settings of a topic.

    Args:
        topic: Name of the topic.
        settings: Settings and their values; the cluster's own value where it is empty.
    """
    link = Link(kafka, deadline)
    offsets.alter_settings(link, topic, settings)
    return Configured(topic=topic, settings=_settings(link, topic), source=link.source)


@fault("topic.delete", blast=Blast.DATA, undone_by="topic.make_again")
def delete(services: Services, kafka: Kafka, deadline: Deadline, topic: str, group: str) -> Striking[Deleted]:
    """Delete a topic. Undone by making it again with its old settings and writing what the group had not read into it.

    Blast radius: every reader and writer of the topic. What the group has read does not come back, nor what is written
    in the moment of the deletion: hold who writes to it before.

    Args:
        topic: Name of the topic.
        group: Consumer group; what it has not read is kept on this machine until the undo.

    Raises:
        Refused: The group has too much to read.
    """
    link = Link(kafka, deadline)
    numbers = offsets.partitions(link, topic)
    kept = kept_file(services, topic)
    unread = _unread(link, topic, group)
    yield Undo(
        action="topic.make_again",
        args={"topic": topic, "partitions": len(numbers), "settings": _settings(link, topic)},
        says=f"create the topic {topic} again",
    )
    kept.parent.mkdir(parents=True, exist_ok=True)
    rewritten(kept, msgspec.json.encode(unread))
    delete_topic(kafka, deadline, topic)
    return Deleted(topic=topic, partitions=len(numbers), kept=len(unread), source=link.source)


@action("topic.make_again", effect=Effect.CHANGES)
def make_again(
    services: Services,
    kafka: Kafka,
    deadline: Deadline,
    topic: str,
    partitions: int,
    settings: dict[str, str] = {},
) -> MadeAgain:
    """Make a topic that `topic.delete` deleted, and write what was kept of it; one that is there stays as it is.

    Args:
        topic: Name of the topic.
        partitions: How many.
        settings: Settings of its own.
    """
    link = Link(kafka, deadline)
    created = topic not in offsets.topic_names(link)
    if created:
        create_topic(kafka, deadline, topic, partitions, settings=dict(settings))
    kept = kept_file(services, topic)
    messages = msgspec.json.decode(kept.read_bytes(), type=list[Written]) if kept.exists() else []
    if messages:
        receipts = transfer.send(link, topic, messages)
        transfer.settled(link, topic, receipts)
    kept.unlink(missing_ok=True)
    return MadeAgain(
        topic=topic, created=created, changed=created or bool(messages), written=len(messages), source=link.source
    )


def kept_file(services: Services, topic: str) -> Path:
    """Where the messages are that a group had not read when its topic was deleted."""
    return Path(services.stack.state) / "scratch" / f"topic-{hashlib.sha256(topic.encode()).hexdigest()[:16]}.k2run"


def _unread(link: Link, topic: str, group: str) -> list[Written]:
    """The messages that a group has still to read.

    Raises:
        Refused: They are too many.
    """
    spans = {number: span for number, span in offsets.spans(link, topic).items() if span.high}
    if not spans:
        return []
    at = offsets.committed(link, group, topic, spans)
    starts = {number: max(span.low, at[number] or 0) for number, span in spans.items()}
    unread = {number: span._replace(low=starts[number]) for number, span in spans.items() if starts[number] < span.high}
    count = sum(span.high - span.low for span in unread.values())
    if count > _MOST:
        raise Refused(f"{group} still has to read {count:,} messages of {topic}", hint=f"at most {_MOST:,} can be kept")
    found = transfer.between(link, topic, unread) if unread else ()
    return [_written(raw) for raw in found]


def trouble(
    kafka: Kafka, deadline: Deadline, topic: str, group: str, messages: Iterable[Written], prefix: str = ""
) -> Striking[Troubled]:
    """Write messages; the undo, planned before, waits until the group has read all that was in the topic then."""
    link = Link(kafka, deadline)
    offsets.partitions(link, topic)  # a mistyped name must not become a new topic
    if group not in offsets.groups(link):
        raise Unknown(f"there is no consumer group {group!r} at {kafka.bootstrap}", hint="no consumer reads it yet")
    yield Undo(
        action="topic.await_read",
        args={"topic": topic, "group": group},
        says=f"wait until {group} is past what was written to {topic}",
    )
    receipts = transfer.send(link, topic, messages)
    transfer.settled(link, topic, receipts)
    return Troubled(
        topic=topic,
        count=receipts.acked,
        ends={number: offset + 1 for number, offset in receipts.last.items()},
        id_prefix=prefix,
        source=link.source,
    )


def _changed(link: Link, topic: str, value: bytes, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes | None:
    """A message in another form; None for what is no record."""
    registry = link.kafka.registry
    try:
        if registry is not None and avro.framed_id(value) is not None:
            return avro.changed(registry, link.deadline, value, f"{topic}-changed", change)
        return msgspec.json.encode(change(msgspec.json.decode(value, type=dict[str, Any])))
    except (*MISREAD, Refused, Unknown):
        return None


def _newest(kafka: Kafka, deadline: Deadline, topic: str, count: int) -> list[Written]:
    link = Link(kafka, deadline)
    found = transfer.newest(link, topic, offsets.spans(link, topic), bounded(count))
    if not found:
        raise Unknown(f"the topic {topic!r} at {kafka.bootstrap} holds no messages")
    return [_written(raw) for raw in reversed(found)]


def _written(raw: Message) -> Written:
    key, value = (part.encode() if isinstance(part, str) else part for part in (raw.key(), raw.value()))
    return key, value or b""


def bounded(count: int) -> int:
    """Refuse to write no message, or more than 100,000."""
    if not 0 < count <= _MOST:
        raise Refused(f"cannot write {count:,} such messages", hint=f"between 1 and {_MOST:,}")
    return count


def _settings(link: Link, topic: str) -> dict[str, str]:
    """Settings that the topic itself has; a broker that only tells such ones names no place they would come from."""
    offsets.partitions(link, topic)
    found = offsets.settings_of(link, topic)
    own = {name: entry for name, entry in found.items() if entry.source == _FROM_THE_TOPIC or not entry.synonyms}
    return {name: str(entry.value) for name, entry in sorted(own.items())}
