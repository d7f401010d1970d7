"""How much the consumer has to do: the lag and its memory, judged again and again, and what follows for the level."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import psutil
from confluent_kafka import KafkaException

from k2run.k2.platform import topics
from k2run.k2.platform.cascade import Cascade, Level, Load
from k2run.k2.platform.program import log

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from confluent_kafka.admin import AdminClient

    from k2run.k2.platform.consumer_client import ConsumerClient
    from k2run.k2.platform.counters import ConsumerMetrics

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
