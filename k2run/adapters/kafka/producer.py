"""Writing many messages, and knowing what became of each."""

from __future__ import annotations

import time
from itertools import count, cycle, islice
from typing import TYPE_CHECKING

from k2run.errors import ActionError, Refused, TimedOut, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from confluent_kafka import KafkaError, Message, Producer

    from k2run.adapters.kafka.client import Link, Setting

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


class Receipts:
    """What the cluster has acknowledged so far."""

    def __init__(self) -> None:
        self.acked = 0
        self.failed = 0
        self.bytes = 0
        self.first: dict[int, int] = {}
        self.last: dict[int, int] = {}
        self.error: KafkaError | None = None

    def take(self, error: KafkaError | None, message: Message) -> None:
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


PROBE: dict[str, Setting] = {"acks": "all", "linger.ms": 0}
"""For a single message: idempotence costs half a second before the first one."""


def send(
    link: Link,
    topic: str,
    messages: Iterable[tuple[bytes | None, bytes]],
    per_s: float = 0,
    settings: Mapping[str, Setting] = SETTINGS,
) -> Receipts:
    """Write all messages and wait until each has been acknowledged or has failed.

    Args:
        link: The cluster.
        topic: Where to.
        messages: Pairs of key and value; the key chooses the partition.
        per_s: Messages a second; 0 means as fast as it goes.
        settings: Of the producer.

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
