"""Reading messages without joining a group."""

from __future__ import annotations

import heapq
import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from k2run.adapters.kafka.client import ANSWER_S
from k2run.adapters.kafka.offsets import UNCOMMITTED, Span
from k2run.adapters.kafka.results import Message
from k2run.adapters.schema_registry.avro import framed_id
from k2run.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from confluent_kafka import Message as Raw

    from k2run.adapters.kafka.client import Link, Setting

_LOOKING_MS = 500
"""How long a broker may look for messages; one that keeps many small batches finds none in a shorter time."""


def newest(link: Link, topic: str, spans: Mapping[int, Span], count: int) -> list[Raw]:
    """The `count` newest messages by their time, newest first.

    Raises:
        Unreachable: Some partition stopped answering.
    """
    starts = {number: max(span.low, span.high - count) for number, span in spans.items() if span.high > span.low}
    return heapq.nlargest(count, _read(link, topic, starts, spans), key=lambda raw: (raw.timestamp()[1], raw.offset()))


def oldest(link: Link, topic: str, spans: Mapping[int, Span], count: int) -> list[Raw]:
    """The first `count` messages of each partition that are still there, of these the oldest, newest first.

    Raises:
        Unreachable: Some partition stopped answering.
    """
    ends = {n: span._replace(high=min(span.high, span.low + count)) for n, span in spans.items()}
    starts = {number: span.low for number, span in ends.items() if span.high > span.low}
    first = heapq.nsmallest(count, _read(link, topic, starts, ends), key=lambda raw: (raw.timestamp()[1], raw.offset()))
    return first[::-1]


def one(link: Link, topic: str, number: int, offset: int) -> Raw:
    """The message at an offset of a partition, waited for.

    Raises:
        TimedOut: It did not come before the deadline.
    """
    from confluent_kafka import TopicPartition

    with link.consumer({"fetch.wait.max.ms": _LOOKING_MS}) as consumer, link.judged(f"read {topic!r} back"):
        consumer.assign([TopicPartition(topic, number, offset)])
        while (raw := consumer.poll(link.deadline.at_most(0.2))) is None or raw.error() is not None:
            link.deadline.remaining()
    return raw


def arriving(link: Link, topic: str, spans: Mapping[int, Span], end: float) -> Iterator[Raw]:
    """Messages past the end of each span, as they come, until `end` (by the monotonic clock)."""
    from confluent_kafka import TopicPartition

    with link.consumer({"fetch.wait.max.ms": 50, **UNCOMMITTED}) as consumer, link.judged(f"read {topic!r}"):
        consumer.assign([TopicPartition(topic, number, span.high) for number, span in spans.items()])
        while (left := end - time.monotonic()) > 0:
            raw = consumer.poll(link.deadline.at_most(min(0.2, left)))
            if raw is None:
                continue
            if (error := raw.error()) is not None:
                raise link.judge(error, f"read {topic!r}")
            yield raw


def _read(link: Link, topic: str, starts: Mapping[int, int], spans: Mapping[int, Span]) -> list[Raw]:
    """Every message from `starts` up to the end of each span."""
    return list(between(link, topic, {number: Span(start, spans[number].high) for number, start in starts.items()}))


def between(link: Link, topic: str, spans: Mapping[int, Span]) -> Iterator[Raw]:
    """Every message in these spans, none of them empty, as they come; offsets that compaction removed are passed over.

    Raises:
        Unreachable: Some partition stopped answering.
    """
    from confluent_kafka import KafkaError, TopicPartition

    open_ = set(spans)
    quiet = time.monotonic() + link.deadline.at_most(ANSWER_S)
    settings: dict[str, Setting] = {"enable.partition.eof": True, "fetch.wait.max.ms": _LOOKING_MS, **UNCOMMITTED}
    with link.consumer(settings) as consumer, link.judged(f"read {topic!r}"):
        consumer.assign([TopicPartition(topic, number, start) for number, (start, _) in spans.items()])
        while open_:
            for raw in consumer.consume(500, link.deadline.at_most(0.03)):
                quiet = time.monotonic() + ANSWER_S
                number, offset, error = raw.partition() or 0, raw.offset() or 0, raw.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                    raise link.judge(error, f"read {topic!r}")
                if error is None and offset < spans[number].high:
                    yield raw
                if error is not None or offset >= spans[number].high - 1:
                    open_.discard(number)
            if time.monotonic() > quiet:
                raise Unreachable(f"{len(open_)} partitions of {topic!r} at {link.kafka.bootstrap} return no messages")


def shown(raw: Raw) -> Message:
    """A message as a result shows it."""
    key, value = raw.key(), raw.value()
    at = written_s(raw)
    return Message(
        partition=raw.partition() or 0,
        offset=raw.offset() or 0,
        time=datetime.fromtimestamp(at, UTC).isoformat() if at else "",
        key=key.decode(errors="replace") if isinstance(key, bytes) else key,
        value=_readable(value),
        schema_id=framed_id(value) if isinstance(value, bytes) else None,
    )


def written_s(raw: Raw) -> float | None:
    """When a message was written, in seconds since 1970."""
    at = raw.timestamp()[1]
    return at / 1000 if at > 0 else None


def _readable(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value.hex()
    try:
        return json.loads(text)
    except ValueError:
        return text if text.isprintable() else value.hex()
