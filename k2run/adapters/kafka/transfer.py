"""Reading messages without joining a group; and writing many, knowing what became of each."""

from __future__ import annotations

import heapq
import json
import time
from datetime import UTC, datetime
from itertools import count, cycle, islice
from typing import TYPE_CHECKING, Any

from k2run.adapters.kafka.client import ANSWER_S
from k2run.adapters.kafka.offsets import UNCOMMITTED, Span
from k2run.adapters.kafka.results import Message
from k2run.adapters.schema_registry.avro import framed_id
from k2run.errors import ActionError, Refused, TimedOut, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from confluent_kafka import KafkaError, Producer
    from confluent_kafka import Message as Raw

    from k2run.adapters.kafka.client import Link, Setting


_LOOKING_MS = 500
"""How long a broker may look for messages; one that keeps many small batches finds none in a shorter time."""
_SLICE_S = 0.02  # of a paced load; smaller slices pace no better on a busy machine
_BURST = 1000  # messages between two looks at acknowledgements and the deadline
_FLUSH_S = 0.2
SETTINGS: dict[str, Setting] = {
    "request.timeout.ms": 5000,
    "acks": "all",
    "enable.idempotence": True,  # a retry must not look like a message stored twice
    "linger.ms": 20,
    "batch.num.messages": 10_000,
    "compression.type": "lz4",
    "queue.buffering.max.messages": 200_000,
}
PROBE: dict[str, Setting] = {"acks": "all", "linger.ms": 0}
"""For a single message: idempotence costs half a second before the first one."""


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


class Receipts:
    """What the cluster has acknowledged so far."""

    def __init__(self) -> None:
        self.acked = 0
        self.failed = 0
        self.bytes = 0
        self.first: dict[int, int] = {}
        self.last: dict[int, int] = {}
        self.error: KafkaError | None = None

    def take(self, error: KafkaError | None, message: Raw) -> None:
        """The delivery callback of the producer."""
        if error is not None:
            self.failed += 1
            self.error = self.error or error
            return
        self.acked += 1
        number, offset = message.partition(), message.offset()
        # Within a partition acknowledgements come in the order of the offsets.
        if number not in self.first:
            self.first[number] = offset  # type: ignore[index,assignment]  # both are known once acknowledged
        self.last[number] = offset  # type: ignore[index,assignment]


def send(
    link: Link,
    topic: str,
    messages: Iterable[tuple[bytes | None, bytes]],
    per_s: float = 0,
    settings: Mapping[str, Setting] = SETTINGS,
) -> Receipts:
    """Write all messages and wait until each has been acknowledged or has failed.

    The key of a message chooses its partition; `per_s` is messages a second, 0 as fast as it goes.

    Raises:
        TimedOut: The deadline passed first; what was still waiting here is thrown away.
        Interrupted: The run was asked to end; likewise.
    """
    timeout_ms = max(1000, int(link.deadline.remaining() * 1000))
    producer = link.producer({**settings, "message.timeout.ms": timeout_ms})
    receipts = Receipts()
    try:
        with link.judged(f"write to {topic!r}"):
            for burst in _bursts(link, messages, per_s):
                _write(link, producer, topic, burst, receipts)
            while len(producer):
                producer.flush(link.deadline.at_most(_FLUSH_S))
                link.deadline.remaining()
    except TimedOut as error:
        raise _late(link, topic, receipts, error) from error
    finally:
        producer.purge()
        producer.flush(0.1)
    return receipts


def _bursts(
    link: Link, messages: Iterable[tuple[bytes | None, bytes]], per_s: float
) -> Iterator[list[tuple[bytes | None, bytes]]]:
    """The messages in handfuls, each when its time has come."""
    rest = iter(messages)
    size = min(_BURST, max(1, int(per_s * _SLICE_S))) if per_s else _BURST
    started = time.monotonic()
    for number in count():
        burst = list(islice(rest, size))
        if not burst:
            return
        link.deadline.remaining()
        if per_s and (early := started + number * size / per_s - time.monotonic()) > 0:
            link.deadline.sleep(early)
        yield burst


def _write(
    link: Link, producer: Producer, topic: str, burst: list[tuple[bytes | None, bytes]], receipts: Receipts
) -> None:
    take = receipts.take
    for key, value in burst:
        receipts.bytes += len(value)
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=take)
            except BufferError:
                link.deadline.remaining()
                producer.poll(0.05)
            else:
                break
    producer.poll(0)


def _late(link: Link, topic: str, receipts: Receipts, error: TimedOut) -> ActionError:
    """Nothing acknowledged at all is a cluster that does not answer; some is a load too large for the time."""
    if receipts.acked:
        return TimedOut(
            f"{error.message}: {receipts.acked:,} messages of topic {topic!r} were acknowledged",
            hint="raise the step's timeout, or write fewer messages",
        )
    return Unreachable(
        f"{error.message}: {link.kafka.bootstrap} acknowledged no message of topic {topic!r}",
        hint="are the broker and the leader of each partition up?",
    )


def settled(link: Link, topic: str, receipts: Receipts) -> None:
    """Complain when a message was not acknowledged.

    Raises:
        ActionError: With the counts and the cluster's first reason.
    """
    if receipts.error is None:
        return
    judged = link.judge(receipts.error, f"write to {topic!r}")
    kind = type(judged) if isinstance(judged, Unreachable) else Refused
    raise kind(
        f"{receipts.failed:,} messages failed, {receipts.acked:,} were written: {judged.message}", hint=judged.hint
    )


def given(values: list[bytes], keys: list[str]) -> Iterator[tuple[bytes | None, bytes]]:
    """The given values over and over, each with the next of the keys."""
    named = [key.encode() for key in keys]
    return zip(cycle(named) if named else cycle([None]), cycle(values), strict=False)
