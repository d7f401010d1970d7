"""The consumer's view of the broker: what it reads, and how far it is behind, by which its level is judged.

Partitions are assigned by hand and read from the offsets in the tables' ledgers, so there is no group to join, no
rebalance to wait for after a kill, and no offset but the committed one to start from. The group's offsets are committed
all the same, after the table, for everybody who measures lag by them.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import psutil
from confluent_kafka import Consumer, KafkaException, TopicPartition

from k2run.k2.platform import topics
from k2run.k2.platform.cascade import Cascade, Level, Load
from k2run.k2.platform.program import log

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from confluent_kafka import Message
    from confluent_kafka.admin import AdminClient

    from k2run.k2.platform.commit_ledger import Ledger
    from k2run.k2.platform.counters import ConsumerMetrics

_QUEUED_KIB = 48 * 1024  # fetched ahead; more would only fill the memory budget
_AT_ONCE = 10_000
_CLOSE_S = 1.0


class ConsumerClient:
    """Messages of the topics, from the ledgers' offsets on."""

    def __init__(self, bootstrap: str, group: str) -> None:
        self._settings = {
            "bootstrap.servers": bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            # An offset the broker does not have is never papered over: the topics' lives tell what happened.
            "auto.offset.reset": "error",
            "queued.max.messages.kbytes": _QUEUED_KIB,
            # Tansu needs longer for a fetch the longer it runs, and answers with nothing when that takes longer.
            "fetch.wait.max.ms": 500,
            "fetch.error.backoff.ms": 100,
            **topics.CLIENT,
        }
        self._consumer: Consumer | None = None
        # Where the partitions ended when messages last came from them. Another thread may read it, but must not ask
        # the client itself: every question would wait for `consume` to return.
        self.fetched_ends: dict[tuple[str, int], int] = {}

    def open(self, ledgers: Mapping[str, Ledger]) -> None:
        """Read the topics from where the ledgers say, in their present lives."""
        self.close()
        starts = [
            TopicPartition(at.topic, at.partition, ledgers[at.topic].offsets.get(at.partition, 0))
            for at in topics.partitions(ledgers)
        ]
        self._consumer = Consumer(self._settings)
        self._consumer.assign(starts)
        self._consumer.commit(offsets=starts, asynchronous=True)

    def take(self, seconds: float) -> list[Message]:
        """The next messages and errors, waiting at most `seconds`."""
        reading = self._open
        messages = reading.consume(_AT_ONCE, seconds)
        for topic, partition in {(message.topic(), message.partition()) for message in messages}:
            if topic is not None and partition is not None:
                marks = reading.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
                self.fetched_ends[topic, partition] = marks[1] if marks else 0
        return messages

    def commit(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Tell the group how far the table is."""
        self._open.commit(
            offsets=[TopicPartition(topic, partition, offset) for partition, offset in offsets.items()],
            asynchronous=True,
        )

    def close(self) -> None:
        """Stop reading; commits still under way are waited for briefly, for their broker may be gone."""
        self.fetched_ends = {}
        if self._consumer is not None:
            closing = threading.Thread(target=self._consumer.close, daemon=True)
            closing.start()
            closing.join(_CLOSE_S)
            self._consumer = None

    @property
    def _open(self) -> Consumer:
        if self._consumer is None:
            raise KafkaException("the intake is not open")
        return self._consumer


EVERY_S = 0.4
MIB = 1024 * 1024

Offsets = dict[tuple[str, int], int]


class Memory:
    """This process's memory against its budget."""

    def __init__(self, budget_mib: float) -> None:
        self._budget = budget_mib * MIB
        self._process = psutil.Process()

    def percent(self) -> float:
        """Resident memory in per cent of the budget."""
        return 100.0 * self._process.memory_info().rss / self._budget


class LagMeter:
    """Measures how far the tables are behind the topics, and sees which lives of the topics there are."""

    def __init__(self, client: AdminClient, intake: ConsumerClient, positions: Callable[[], Offsets]) -> None:
        self._admin = client
        self._intake = intake
        self._positions = positions
        self.lives: dict[str, str] = {}

    def read(self) -> Offsets | None:
        """Messages that are not in the tables yet, by partition; None when the broker does not say."""
        try:
            self.lives = topics.ensure(self._admin)
            asked = topics.end_offsets(self._admin, topics.partitions(self.lives))
        except KafkaException:
            return None
        return lag(asked, self._intake.fetched_ends, self._positions())


class LoadClock:
    """Judges the load again and again, and moves the cascade."""

    def __init__(self, cascade: Cascade, meter: LagMeter, memory: Memory, metrics: ConsumerMetrics) -> None:
        self._cascade = cascade
        self._meter = meter
        self._memory = memory
        self._metrics = metrics
        self._judged = time.monotonic()

    @property
    def level(self) -> Level:
        """The level now."""
        return self._cascade.level

    @property
    def lives(self) -> dict[str, str]:
        """The topics' lives when last looked at."""
        return self._meter.lives

    def watch(self, stopping: threading.Event) -> None:
        """Judge the load every 0.4 s, in a thread of its own, until told to stop."""
        threading.Thread(target=self._watch, args=(stopping,), name="load", daemon=True).start()

    def _watch(self, stopping: threading.Event) -> None:
        while True:
            self.judge()
            if stopping.wait(EVERY_S):
                return

    def judge(self) -> None:
        """Judge the load once."""
        behind = self._meter.read()
        load = Load(None if behind is None else sum(behind.values()), self._memory.percent())
        before, now = self._judged, time.monotonic()
        self._judged = now
        self._metrics.spent(self._cascade.level, now - before)
        transition = self._cascade.observe(load, now)
        self._metrics.load(self._cascade.level, load.memory, behind)
        if transition is not None:
            self._metrics.moved(transition)
            worse = transition.new > transition.old
            log(
                "System degraded" if worse else "System recovered",
                "warning" if worse else "info",
                old_level=transition.old.name,
                new_level=transition.new.name,
                lag="unknown" if load.lag is None else load.lag,
                heap_pct=round(load.memory, 1),
            )


def lag(asked: Mapping[tuple[str, int], int], fetched: Mapping[tuple[str, int], int], positions: Offsets) -> Offsets:
    """Messages not in the tables yet, by partition, for partitions that ever had a message.

    A partition ends where the higher of the broker's two words says: see `topics.end_offsets`.
    """
    ends = {at: max(end, fetched.get(at, 0)) for at, end in asked.items()}
    return {at: max(0, end - positions.get(at, 0)) for at, end in ends.items() if end > 0}
