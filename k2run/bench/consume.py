"""How fast a Kafka cluster hands out what a topic holds, as an action that reads without joining a group."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from k2run.actions.action import Judged, Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters.kafka import offsets as where
from k2run.adapters.kafka.client import ANSWER_S, Kafka, Link, Setting
from k2run.adapters.kafka.offsets import UNCOMMITTED, Span
from k2run.bench.latency import per_second
from k2run.bench.plan import NONE, Pace, calm, paced
from k2run.bench.result import SATURATED, Used, Watch
from k2run.bench.workers import part_of
from k2run.errors import AuthorError, Unknown, Unreachable
from k2run.language.quantities import Duration
from k2run.stack.services import Services

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confluent_kafka import Consumer, Message

MEGABYTE = 1_000_000


class ConsumeLoad(Result, frozen=True, kw_only=True):
    """What was read of a topic, by consumers without a group.

    Attributes:
        messages: That count; those of the warm-up do not.
        rate: Messages a second.
        mb_per_s: Millions of bytes of their values a second.
        seconds: From the start, connecting included, or from the end of the warm-up, to the last message.
        first_ms: From the assignment of the partitions to the first message.
        bytes: Of the values.
        partitions: That were read.
        by_partition: Messages read of each, those of the warm-up too.
        workers: Consumers, each with its share of the partitions.
        processes: In which they ran.
        lost_processes: Of these, those that died; what they read is missing.
        ended: The topic was read to where it ended when the load began.
        warm_up_messages: Messages before anything counted.
        used: What the services that were watched used of their machine.
        generator_cpu: Cores that the readers used, of those in the busiest process; Python fills one.
    """

    topic: str
    messages: int
    rate: float
    mb_per_s: float
    seconds: float
    first_ms: float
    bytes: int
    partitions: int
    by_partition: dict[int, int]
    workers: int
    processes: int
    lost_processes: int
    ended: bool
    warm_up_messages: int
    used: dict[str, Used]
    generator_cpu: float

    def judged(self) -> list[Judged]:
        """A reader that is lost makes the step fail, whatever else is expected of it."""
        lost = Judged(objective="no reader is lost", met=False, says=f"{self.lost_processes} died")
        return [lost] if self.lost_processes else []

    def headline(self) -> str:
        """Such as `310,000/s, 62 MB/s (n=600,000), 4 workers`."""
        limit = ", the reader may be the limit" if self.generator_cpu >= SATURATED * self.processes else ""
        lost = f", {self.lost_processes} readers DIED" if self.lost_processes else ""
        ended = "" if self.ended else ", not to the end"
        workers = "worker" if self.workers == 1 else "workers"
        read = f"{per_second(self.rate)}, {self.mb_per_s:.3g} MB/s (n={self.messages:,}), {self.workers} {workers}"
        return f"{read}{ended}{limit}{lost}"


@action("bench.consume")
def consume(
    kafka: Kafka,
    services: Services,
    deadline: Deadline,
    topic: str,
    offsets: dict[int, int] = {},
    newest: int = 0,
    during: Duration | None = None,
    iterations: int = 0,
    warm_up: Duration = NONE,
    workers: int = 1,
    processes: int = 1,
    dask: str = "",
    settings: dict[str, str | int | float | bool] = {},
    watch: list[str] = [],
) -> ConsumeLoad:
    """Read a topic as fast as the cluster hands it out, to where it ends now, and measure messages and bytes a second.

    No group is joined and nothing is committed. A topic with nothing to read is unknown, not fast.

    Args:
        topic: Name of the topic.
        offsets: Where to begin, by partition, such as `{0: 5000}`; the others begin at their oldest message.
        newest: Instead of offsets: about so many of the newest messages, evenly from all partitions.
        during: Read for at most so long; without it and `iterations` to the end.
        iterations: Read at most so many messages.
        warm_up: Time of the same reading before anything counts.
        workers: Consumers that share the partitions; no more than there are partitions.
        processes: Local processes that share the consumers; Python reads with about one core in each.
        dask: Address of a Dask scheduler, such as `tcp://10.0.0.1:8786`; then `processes` of its workers do it.
        settings: Of librdkafka's consumer, such as `{fetch.message.max.bytes: 1048576}`.
        watch: Services whose use of processor and memory is measured, such as the broker.
    """
    from k2run.bench.workers import together

    if workers < 1 or processes < 1 or processes > workers:
        raise AuthorError("bench.consume needs at least one worker, and no more processes than workers")
    limited = during is not None or iterations != 0
    pace = paced(during, iterations, warm_up, deadline) if limited else Pace(warm_up=warm_up)
    spans = _spans(where.spans(Link(kafka, deadline), topic), offsets, newest)
    filled = {number: span for number, span in spans.items() if span.high > span.low}
    if not filled:
        raise Unknown(f"the topic {topic!r} at {kafka.bootstrap} holds no messages to read", hint="write some before")
    plan = Reading(
        kafka=kafka,
        topic=topic,
        shares=dealt(filled, min(workers, len(filled))),
        settings=settings,
        **structs.asdict(pace),
    )
    with Watch(services, watch) as watched:
        found, lost = together(read, split(plan, min(processes, len(plan.shares))), dask, deadline)
    return _summed(plan, found, lost, watched.used())


def _spans(spans: dict[int, Span], at: dict[int, int], newest: int) -> dict[int, Span]:
    """What is to be read of each partition."""
    if at and newest:
        raise AuthorError("bench.consume: give either `offsets` or `newest`")
    if unknown := at.keys() - spans.keys():
        raise Unknown(f"the topic has no partition {min(unknown)}; it has {len(spans)}")
    share = math.ceil(newest / max(1, len(spans)))
    begins = {number: span.high - share if newest else at.get(number, span.low) for number, span in spans.items()}
    return {number: Span(max(span.low, begins[number]), span.high) for number, span in spans.items()}


def _summed(plan: Reading, found: list[Read], lost: int, used: dict[str, Used]) -> ConsumeLoad:
    messages, seconds = sum(each.messages for each in found), max(each.seconds for each in found)
    if not messages:
        raise Unknown(f"nothing of topic {plan.topic!r} was read after the warm-up", hint="shorten `warm_up`")
    size = sum(each.bytes for each in found)
    firsts = [each.first_s for each in found if each.first_s is not None]
    return ConsumeLoad(
        source=f"kafka {plan.kafka.bootstrap}",
        topic=plan.topic,
        messages=messages,
        rate=round(messages / seconds, 3),
        mb_per_s=round(size / MEGABYTE / seconds, 3),
        seconds=round(seconds, 3),
        first_ms=round(min(firsts) * 1000, 3),
        bytes=size,
        partitions=sum(map(len, plan.shares)),
        by_partition=dict(sorted({n: count for each in found for n, count in each.by_partition.items()}.items())),
        workers=len(plan.shares),
        processes=len(found) + lost,
        lost_processes=lost,
        ended=not lost and all(each.ended for each in found),
        warm_up_messages=sum(each.skipped for each in found),
        used=used,
        generator_cpu=round(max(each.cpu for each in found), 3),
    )


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
