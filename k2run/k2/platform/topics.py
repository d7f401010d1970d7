"""The sandbox's topics: their names and settings, how far the tables have taken them, and how far behind that is.

Partitions are assigned by hand and read from the offsets in the tables' ledgers, so there is no group to join, no
rebalance to wait for after a kill, and no offset but the committed one to start from. The group's offsets are committed
all the same, after the table, for everybody who measures lag by them.

A ledger is kept in a property of its table and changes in the same commit as the rows, so whoever has the rows also has
the offsets they came from: there is no moment between the two in which a kill could strike.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

import msgspec
import psutil
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewTopic

from k2run.k2.platform import trade
from k2run.k2.platform.cascade import Cascade, Level, Load
from k2run.k2.platform.program import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Future

    from confluent_kafka import Message

    from k2run.k2.platform.counters import ConsumerMetrics

Answer = TypeVar("Answer")

_RPC_S = 2.0
_MARGIN_S = 2.0
_QUEUED_KIB = 48 * 1024  # fetched ahead; more would only fill the memory budget
_AT_ONCE = 10_000
_CLOSE_S = 1.0
EVERY_S = 0.4
MIB = 1024 * 1024
LEDGER_PROPERTY = "k2.ledger"

PARTITIONS: Mapping[str, int] = {trade.TOPIC: 40, trade.REFERENCE_TOPIC: 1}
_SETTINGS: Mapping[str, dict[str, str]] = {
    trade.TOPIC: {"cleanup.policy": "delete", "retention.ms": str(7 * 24 * 3600 * 1000)},
    trade.REFERENCE_TOPIC: {"cleanup.policy": "compact", "min.compaction.lag.ms": "60000"},
}

# Without the two limits a client waits up to 10 s before it tries a restarted broker again.
CLIENT: Mapping[str, str | int | float | bool] = {
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 500,
    # A broker that comes back empty would otherwise be given topics with its own default number of partitions.
    "allow.auto.create.topics": False,
    "log_level": 0,
}


def admin(bootstrap: str) -> AdminClient:
    """A client for metadata and offsets."""
    settings = {key: value for key, value in CLIENT.items() if key != "allow.auto.create.topics"}
    return AdminClient({"bootstrap.servers": bootstrap, "socket.timeout.ms": 5000, **settings})


def make_topics(client: AdminClient) -> None:
    """Make the topics that are missing.

    Raises:
        KafkaException: the broker could not be reached or refused.
    """
    wanted = [NewTopic(name, count, 1, config=_SETTINGS[name]) for name, count in PARTITIONS.items()]
    for made in client.create_topics(wanted, request_timeout=_RPC_S).values():
        try:
            _answer(made)
        except KafkaException as problem:
            if problem.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def lives(client: AdminClient) -> dict[str, str]:
    """The id the broker gave each topic when it was made; a topic that does not exist is left out.

    A topic that was deleted and made again, or whose broker lost it, has another id: offsets of its earlier life say
    nothing about this one.

    Raises:
        KafkaException: the broker could not be reached.
    """
    described = client.describe_topics(TopicCollection(list(PARTITIONS)), request_timeout=_RPC_S)
    found = {}
    for name, answer in described.items():
        try:
            found[name] = str(_answer(answer).topic_id)
        except KafkaException as problem:
            if problem.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
    return found


def ensure(client: AdminClient) -> dict[str, str]:
    """Every topic's id, after making the topics that are missing.

    Raises:
        KafkaException: the broker could not be reached, or does not show a topic it has just made yet.
    """
    found = lives(client)
    if missing := PARTITIONS.keys() - found.keys():
        make_topics(client)
        log("topics_created", topics=",".join(sorted(missing)))
        found = lives(client)
        if PARTITIONS.keys() - found.keys():
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    return found


def _answer(promised: Future[Answer]) -> Answer:
    """What the broker answered; a client library that overruns its own time limit is a broker that did not answer."""
    try:
        return promised.result(_RPC_S + _MARGIN_S)
    except TimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None  # noqa: SLF001  librdkafka's own errors have a _


def partitions(names: Iterable[str]) -> list[TopicPartition]:
    """Every partition of the topics `names`."""
    return [TopicPartition(name, number) for name in names for number in range(PARTITIONS[name])]


def end_offsets(client: AdminClient, of: Iterable[TopicPartition]) -> dict[tuple[str, int], int]:
    """The broker's word on where each partition ends, in one request.

    Tansu 0.6 answers with the last batch's first offset plus one, so while a batch of n messages is the newest the
    figure is up to n - 1 too low. The watermark that comes with a fetch is exact.

    Raises:
        KafkaException: the broker could not be reached.
    """
    latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # untyped upstream
    asked = client.list_offsets(dict.fromkeys(of, latest), request_timeout=_RPC_S)
    return {(at.topic, at.partition): _answer(answer).offset for at, answer in asked.items()}


class Deferred(msgspec.Struct, frozen=True):
    """A spill file whose messages were shed: taken from the topic and still to be put into the table."""

    file: str
    messages: int


class Ledger(msgspec.Struct, frozen=True):
    """One topic's account.

    `life` is the topic's id: the offsets of an earlier life are worth nothing in the next. `offsets` are the next to
    read, by partition; a partition that is missing starts at 0.
    """

    life: str = ""
    offsets: dict[int, int] = {}
    deferred: tuple[Deferred, ...] = ()

    def begin(self, life: str) -> Ledger:
        """The ledger for this life of the topic; what was deferred stays deferred."""
        return self if life == self.life else Ledger(life, {}, self.deferred)

    def reread(self) -> Ledger:
        """The ledger before anything of this life was read."""
        return Ledger(self.life, {}, self.deferred)

    def advance(self, offsets: Mapping[int, int]) -> Ledger:
        """The ledger after reading up to `offsets`."""
        return Ledger(self.life, {**self.offsets, **offsets}, self.deferred)

    def defer(self, spilled: Deferred) -> Ledger:
        """The ledger after one more spill file."""
        return Ledger(self.life, self.offsets, (*self.deferred, spilled))

    def restore(self, spilled: Deferred) -> Ledger:
        """The ledger after the messages of a spill file went into the table."""
        return Ledger(self.life, self.offsets, tuple(other for other in self.deferred if other != spilled))

    @property
    def pending(self) -> int:
        """Messages that are deferred."""
        return sum(spilled.messages for spilled in self.deferred)


def read_ledger(properties: Mapping[str, str]) -> Ledger:
    """The ledger in a table's properties; an empty one for a new table."""
    text = properties.get(LEDGER_PROPERTY)
    return msgspec.json.decode(text, type=Ledger) if text else Ledger()


def write_ledger(ledger: Ledger) -> dict[str, str]:
    """The ledger as a table property."""
    return {LEDGER_PROPERTY: msgspec.json.encode(ledger).decode()}


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
            **CLIENT,
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
            for at in partitions(ledgers)
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
            self.lives = ensure(self._admin)
            asked = end_offsets(self._admin, partitions(self.lives))
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
