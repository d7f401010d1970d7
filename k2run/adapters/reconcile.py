"""Holds what was written to a topic against what came into a table: lost, doubled, by the id of each message."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from k2run.actions.action import Blast, Effect, Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters.iceberg.catalog import Iceberg, open_table
from k2run.adapters.kafka import offsets, transfer
from k2run.adapters.kafka.client import Kafka, Link
from k2run.adapters.schema_registry.avro import FieldReader
from k2run.errors import Refused, Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from confluent_kafka import Message

SHOWN = 5
ROUNDS_S = 1.0
"""Seconds between two looks at the table, at least."""
FLUSH_S = 20.0
_MOST = 3_000_000
"""Messages; their ids are held in memory."""


class Reconciled(Result, frozen=True, kw_only=True):
    """What became of the messages of a topic.

    Attributes:
        messages: How many messages with an id were compared.
        ids: How many different ids they have.
        repeated: Messages whose id was in the topic before: it is right that the table has them once.
        unreadable: Messages without a readable id; they are no loss of the table's.
        lost: Ids that the table does not have.
        duplicated: Ids that the table has more than once.
        late: Ids that came into the table only after the first look.
        some_lost: A few of the ids that are lost.
    """

    messages: int
    ids: int
    repeated: int
    unreadable: int
    lost: int
    duplicated: int
    late: int
    some_lost: list[str] = []

    def headline(self) -> str:
        """Such as `12,040 messages: 0 lost, 0 duplicated`."""
        return f"{self.messages:,} messages: {self.lost:,} lost, {self.duplicated:,} duplicated"


class Resent(Result, frozen=True, kw_only=True):
    """What was written to a topic again.

    Attributes:
        messages: How many messages the group has read and the topic still has.
        resent: How many of them the table did not have.
        ids: A few of their ids.
        changed: There were any.
    """

    messages: int
    resent: int
    changed: bool
    ids: list[str] = []

    def headline(self) -> str:
        """Such as `200 of 12,040 messages written again`."""
        return f"{self.resent:,} of {self.messages:,} messages written again"


@action("reconcile.topic")
def topic(
    kafka: Kafka,
    iceberg: Iceberg,
    deadline: Deadline,
    topic: str,
    table: str,
    column: str = "message_id",
    after: dict[str | int, int] = {},
    wait: bool = True,
) -> Reconciled:
    """Look for every message of a topic in a table, by its id.

    All that was acknowledged before this step begins is looked for. What was acknowledged and is not in the topic any
    more (a broker that forgets) cannot be seen here.

    Args:
        topic: Name of the topic; its messages are JSON objects, or Avro that the stack's schema registry explains.
        table: Name of the table.
        column: The field of the message, and column of the table, with the id.
        after: Leave out what is before these offsets, by partition, such as `before.high` of kafka.watermarks.
        wait: Check again until all have arrived or the step's time is up; only once when false.

    Raises:
        Unknown: There are no messages to look for.
        Refused: There are more than three million.
    """
    link = Link(kafka, deadline)
    expected, unreadable = _ids(link, topic, _spans(link, topic, after), column)
    if not expected:
        raise Unknown(f"there are no messages in {topic!r} to look for", hint="is a producer running?")
    stored, late = _settled(iceberg, deadline, table, column, expected, wait=wait)
    lost = [one for one in expected if one not in stored]
    messages = expected.total()
    return Reconciled(
        messages=messages,
        ids=len(expected),
        repeated=messages - len(expected),
        unreadable=unreadable,
        lost=len(lost),
        duplicated=sum(count > 1 for one, count in stored.items() if one in expected),
        late=late,
        some_lost=lost[:SHOWN],
        source=f"{link.source}, {iceberg.source}",
    )


def _spans(link: Link, topic: str, after: Mapping[str | int, int]) -> dict[int, offsets.Span]:
    """What is in the partitions of a topic from some offsets on; empty ones are left out."""
    starts = {int(number): offset for number, offset in after.items()}
    spans = {
        number: offsets.Span(max(span.low, starts.get(number, 0)), span.high)
        for number, span in offsets.spans(link, topic).items()
    }
    return {number: span for number, span in spans.items() if span.high > span.low}


def _ids(link: Link, topic: str, spans: Mapping[int, offsets.Span], column: str) -> tuple[Counter[str], int]:
    """The ids in these parts of the topic, and how many messages have none."""
    count = sum(span.high - span.low for span in spans.values())
    if count > _MOST:
        raise Refused(f"{count:,} messages are too many to compare", hint="leave out older ones with `after`")
    reader = FieldReader(link.kafka.registry, link.deadline, column)
    found: Counter[str] = Counter()
    unreadable = 0
    for message in transfer.between(link, topic, spans) if spans else ():
        one = _id(message, reader)
        if one is None:
            unreadable += 1
        else:
            found[one] += 1
    return found, unreadable


def _id(message: Message, reader: FieldReader) -> str | None:
    one = reader.read(message.value() or b"")
    return None if one is None else str(one)


def _settled(
    iceberg: Iceberg, deadline: Deadline, table: str, column: str, expected: Counter[str], *, wait: bool
) -> tuple[Counter[str], int]:
    """How often the table has each id, once it has them all or time is nearly over; and how many came late."""
    first: int | None = None
    while True:
        began = time.monotonic()
        stored = _stored(iceberg, deadline, table, column)
        missing = sum(one not in stored for one in expected)
        first = missing if first is None else first
        look_s = time.monotonic() - began
        if not missing or not wait or deadline.remaining() < 2 * look_s + ROUNDS_S:
            return stored, max(0, first - missing)
        deadline.sleep(max(ROUNDS_S, look_s))  # a large table costs the stack something to look at


@action("reconcile.resend", effect=Effect.CHANGES, blast=Blast.DATA)
def resend(
    kafka: Kafka, iceberg: Iceberg, deadline: Deadline, topic: str, table: str, group: str, column: str = "message_id"
) -> Resent:
    """Write those messages of a topic again that its consumer has read and the table does not have.

    For a table that lost a file: whoever fills the table from the topic then puts them into it again, and once, because
    the table does not have them. Messages after the group's offsets are on their way and left alone.

    Args:
        topic: Name of the topic; its messages are JSON objects, or Avro that the stack's schema registry explains.
        table: Name of the table.
        group: The consumer group that fills the table.
        column: The field of the message, and column of the table, with the id.

    Raises:
        Refused: There are more than three million messages, or some were not acknowledged.
    """
    link = Link(kafka, deadline)
    spans = offsets.spans(link, topic)
    read = offsets.committed(link, group, topic, spans)
    past = {
        number: offsets.Span(span.low, min(span.high, read.get(number) or 0))
        for number, span in spans.items()
        if min(span.high, read.get(number) or 0) > span.low
    }
    stored = _stored(iceberg, deadline, table, column)
    missing, messages = _missing(link, topic, past, column, stored)
    failed = _write(link, topic, list(missing.values())) if missing else 0
    if failed:
        raise Refused(f"{failed:,} of {len(missing):,} messages were not acknowledged", hint="run this step again")
    return Resent(
        messages=messages,
        resent=len(missing),
        changed=bool(missing),
        ids=list(missing)[:SHOWN],
        source=f"{link.source}, {iceberg.source}",
    )


def _stored(iceberg: Iceberg, deadline: Deadline, table: str, column: str) -> Counter[str]:
    """How often the table has each id."""
    found = open_table(iceberg, deadline, table).scan(selected_fields=(column,)).to_arrow()
    return Counter(map(str, found[column].to_pylist()))


def _missing(
    link: Link, topic: str, spans: Mapping[int, offsets.Span], column: str, stored: Counter[str]
) -> tuple[dict[str, Message], int]:
    """The messages whose id is not stored, by their id, and how many were compared."""
    count = sum(span.high - span.low for span in spans.values())
    if count > _MOST:
        raise Refused(f"{count:,} messages are too many to compare", hint="rebuild the table from its source instead")
    reader = FieldReader(link.kafka.registry, link.deadline, column)
    found: dict[str, Message] = {}
    for message in transfer.between(link, topic, spans) if spans else ():
        one = _id(message, reader)
        if one is not None and one not in stored:
            found[one] = message
    return found, count


def _write(link: Link, topic: str, messages: Sequence[Message]) -> int:
    """Write messages as they were; returns how many were not acknowledged."""
    failed = 0

    def settled(error: Any, _message: Any) -> None:
        nonlocal failed
        failed += error is not None

    with link.judged(f"write to {topic!r}"):
        producer = link.producer({"acks": "all"})
        for message in messages:
            producer.produce(topic, message.value(), message.key(), on_delivery=settled)
            producer.poll(0)
        return failed + producer.flush(link.deadline.at_most(FLUSH_S))
