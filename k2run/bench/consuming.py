"""The reading half of a load on Kafka: as fast as the cluster hands out what a topic holds, without joining a group."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from k2run.adapters.kafka.client import ANSWER_S, Kafka, Link, Setting
from k2run.adapters.kafka.offsets import UNCOMMITTED, Span
from k2run.bench.no_gc import calm
from k2run.bench.pace import Pace
from k2run.bench.workers import part_of
from k2run.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confluent_kafka import Consumer, Message

    from k2run.actions.deadline import Deadline

SETTINGS: dict[str, Setting] = {
    **UNCOMMITTED,
    "enable.partition.eof": True,
    "fetch.wait.max.ms": 500,
    "queued.min.messages": 200_000,
    "fetch.message.max.bytes": 4 * 2**20,
}
HANDFUL = 10_000
"""Messages taken from the client at once."""
LOOK_S = 0.05
"""Seconds between two looks at the deadline."""


class Reading(Pace, frozen=True, kw_only=True):
    """What to read.

    Attributes:
        shares: For each consumer its partitions, from the first to before the last offset.
        settings: Of librdkafka, before those of this module.
    """

    kafka: Kafka
    topic: str
    shares: list[dict[int, Span]]
    settings: dict[str, Setting] = {}


class Read(Struct, frozen=True, kw_only=True):
    """What was read.

    Attributes:
        bytes: Of the values.
        seconds: From the moment that the reading counts to the last message.
        first_s: From the assignment of the partitions to the first message of all; None when there was none.
        skipped: Messages of the warm-up.
        by_partition: Messages read of each partition, those of the warm-up too.
        cpu: Share of one core that this process used to read.
        ended: Everything that was there was read.
    """

    messages: int
    bytes: int
    seconds: float
    first_s: float | None
    skipped: int
    by_partition: dict[int, int]
    cpu: float
    ended: bool


def read(plan: Reading, deadline: Deadline) -> Read:
    """Read with one consumer for each share, each in a thread of its own.

    Raises:
        Unreachable: Nothing listens at the address, or a partition stopped answering.
        TimedOut: The deadline passed first.
        Interrupted: The run was asked to end.
    """
    link = Link(plan.kafka, deadline)
    enough = Enough(plan)
    busy, begun = time.process_time(), time.monotonic()
    with calm(), ThreadPoolExecutor(len(plan.shares), thread_name_prefix="consume") as threads:
        consumers = [Consuming(plan, share, link, enough) for share in plan.shares]
        running = [threads.submit(each.run) for each in consumers]
        try:
            for each in running:
                each.result()
        except BaseException:
            enough.stop.set()
            raise
    cpu = (time.process_time() - busy) / (time.monotonic() - begun)
    return _sum(consumers, cpu)


def dealt(spans: Mapping[int, Span], parts: int) -> list[dict[int, Span]]:
    """The partitions in so many shares, as even as whole partitions allow: the largest first, each to the smallest."""
    shares: list[dict[int, Span]] = [{} for _ in range(parts)]
    for number, span in sorted(spans.items(), key=lambda each: each[1].low - each[1].high):
        min(shares, key=_held)[number] = span
    return shares


def _held(share: Mapping[int, Span]) -> int:
    return sum(span.high - span.low for span in share.values())


def split(plan: Reading, parts: int) -> list[Reading]:
    """Shares of a load that together are the whole; each has whole consumers."""
    return [
        structs.replace(plan, shares=plan.shares[n::parts], iterations=part_of(plan.iterations, parts, n))
        for n in range(parts)
    ]


class Enough:
    """When all consumers together have read what was asked for."""

    def __init__(self, plan: Reading) -> None:
        self.begin = time.monotonic() + plan.warm_up
        self.stop = threading.Event()
        self._end = self.begin + plan.seconds if plan.seconds else None
        self._left = plan.iterations
        self._counts = bool(plan.iterations)
        self._lock = threading.Lock()

    def is_over(self, now: float) -> bool:
        """Nothing more is to be read."""
        return self.stop.is_set() or (self._end is not None and now >= self._end)

    def handful(self) -> int:
        """How many messages to take at once."""
        return max(1, min(HANDFUL, self._left)) if self._counts else HANDFUL

    def take(self, messages: int) -> None:
        """So many more have been read."""
        if self._counts:
            with self._lock:
                self._left -= messages
                if self._left <= 0:
                    self.stop.set()


class Consuming:
    """One consumer with its partitions."""

    def __init__(self, plan: Reading, share: Mapping[int, Span], link: Link, enough: Enough) -> None:
        self.messages = self.bytes = self.skipped = 0
        self.begin = enough.begin
        self.last = 0.0
        self.first_s: float | None = None
        self.by_partition = dict.fromkeys(share, 0)
        self.open = {number for number, span in share.items() if span.high > span.low}
        self._plan, self._share, self._link, self._enough = plan, share, link, enough

    def run(self) -> None:
        """Read until everything that was there is read, or it is enough."""
        from confluent_kafka import TopicPartition

        topic, assigned = self._plan.topic, time.monotonic()
        quiet = assigned
        with self._link.consumer({**SETTINGS, **self._plan.settings}) as consumer, self._link.judged(f"read {topic!r}"):
            consumer.assign([TopicPartition(topic, number, self._share[number].low) for number in self.open])
            while self.open and not self._enough.is_over(time.monotonic()):
                found = consumer.consume(self._enough.handful(), self._link.deadline.at_most(LOOK_S))
                now = time.monotonic()
                if found:
                    quiet = now
                    self.first_s = now - assigned if self.first_s is None else self.first_s
                    self._count(found, now)
                    self._settle(consumer)
                elif now > quiet + ANSWER_S:
                    raise Unreachable(f"{len(self.open)} partitions of {topic!r} send no messages")

    def _count(self, found: list[Message], now: float) -> None:
        others = [message for message in found if message.error() is not None]
        if others:
            self._end(others)
            found = [message for message in found if message.error() is None]
        if now < self.begin:
            self.skipped += len(found)
        elif found:
            self.last = now
            self.messages += len(found)
            self.bytes += sum(map(len, found))
            self._enough.take(len(found))

    def _end(self, others: list[Message]) -> None:
        from confluent_kafka import KafkaError

        for message in others:
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                raise self._link.judge(error, f"read {self._plan.topic!r}")
            self.open.discard(message.partition() or 0)

    def _settle(self, consumer: Consumer) -> None:
        """Look how far each partition has come; what has been read to its end is not asked for any more.

        Once for each handful: to ask every message for its partition would cost more than to read it.
        """
        from confluent_kafka import TopicPartition

        ended = []
        for at in consumer.position([TopicPartition(self._plan.topic, number) for number in self._share]):
            number, offset = at.partition, at.offset
            span = self._share[number]
            self.by_partition[number] = max(self.by_partition[number], offset - span.low)
            if number in self.open and offset >= span.high:
                ended.append(number)
        self.open -= set(ended)
        if ended and self.open:
            consumer.incremental_unassign([TopicPartition(self._plan.topic, number) for number in ended])


def _sum(consumers: list[Consuming], cpu: float) -> Read:
    firsts = [each.first_s for each in consumers if each.first_s is not None]
    return Read(
        messages=sum(each.messages for each in consumers),
        bytes=sum(each.bytes for each in consumers),
        seconds=max(0.0, *(each.last - each.begin for each in consumers)),
        first_s=min(firsts, default=None),
        skipped=sum(each.skipped for each in consumers),
        by_partition={number: count for each in consumers for number, count in each.by_partition.items()},
        cpu=cpu,
        ended=not any(each.open for each in consumers),
    )
