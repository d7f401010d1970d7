"""The consumer's work: take messages, sort them by the level, commit them, and bring the deferred ones back."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException

from k2run.k2.platform import cascade, rows, table, trade
from k2run.k2.platform.cascade import Cascade, Level
from k2run.k2.platform.program import log
from k2run.k2.platform.rows import SpillFile, Taken
from k2run.k2.platform.schemas import RegistryClient, StoppedError
from k2run.k2.platform.table_writer import WINDOW, DeadLetters, TableWriter, Upkeep
from k2run.k2.platform.topics import ConsumerClient, LagMeter, LoadClock, Memory

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from confluent_kafka import Message
    from confluent_kafka.admin import AdminClient
    from pyiceberg.catalog import Catalog

    from k2run.k2.platform.cascade import Shed
    from k2run.k2.platform.counters import ConsumerMetrics
    from k2run.k2.platform.table_writer import Written
    from k2run.k2.platform.topics import Offsets

_TAKE_S = 0.1
_SETTLED_S = 5.0
"""How long after a topic was made again the broker may still put messages before those that were read: Tansu gives
offsets twice while a producer writes to a topic that is being made."""
_REFERENCE_PATIENCE = 5  # reference data may be this many times later than trades; its commits cost as much


@dataclass(slots=True)
class Batch:
    """What was taken from one topic since its table's last commit."""

    kept: list[Taken] = field(default_factory=list)
    shed: list[Taken] = field(default_factory=list)
    offsets: dict[int, int] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def __len__(self) -> int:
        return len(self.kept) + len(self.shed)


@dataclass(frozen=True, slots=True)
class Commit:
    """A batch that is being committed, in a thread of its own, while the next one is taken."""

    messages: int
    offsets: dict[int, int]
    written: Future[Written]


class Lane:
    """One topic, its table, and what is between the two at the moment."""

    def __init__(self, sink: TableWriter, batch: int, interval: float) -> None:
        self.sink = sink
        self.topic = sink.form.topic
        self._most = batch
        self._interval = interval
        self._twice_until = -math.inf
        self.reread_at = math.inf
        self.batch = Batch()
        self.under_way: Commit | None = None

    def begin(self, life: str) -> None:
        """Read the topic's life `life`; if it was made again since it was last read, once more when it has settled."""
        if self.sink.ledger.life not in ("", life):
            self.reread_at = time.monotonic() + _SETTLED_S
            self._twice_until = self.reread_at + _SETTLED_S
        self.sink.begin(life)

    def add(self, messages: Iterable[Message], level: Level) -> Counter[Shed]:
        """Take messages in, each on the side the level says; how many are shed, and why.

        A message from before the offset that was reached has been taken already and is left out; not so where the
        broker may give offsets twice, in a topic that was made again: there its id says whether it was taken.
        """
        reasons: Counter[Shed] = Counter()
        if not len(self.batch):
            self.batch.began = time.monotonic()
        batch, prepared = self.batch, self.sink.reached.offsets
        all_kept = cascade.sheds_nothing(level, self.topic)
        twice = time.monotonic() < self._twice_until
        for message in messages:
            partition: int = message.partition()  # type: ignore[assignment]  # only an error is nowhere
            offset: int = message.offset()  # type: ignore[assignment]
            reached = batch.offsets.get(partition, prepared.get(partition, 0))
            if offset < reached and not twice:
                continue
            batch.offsets[partition] = max(reached, offset + 1)
            taken = Taken(partition, offset, message.value() or b"")
            why = None if all_kept else cascade.shed(level, self.topic, message.key())
            if why is None:
                batch.kept.append(taken)
            else:
                batch.shed.append(taken)
                reasons[why] += 1
        return reasons

    def is_due(self) -> bool:
        """Whether it is time for a commit."""
        waiting = len(self.batch)
        return waiting >= self._most or (waiting > 0 and time.monotonic() - self.batch.began >= self._interval)

    def start_batch(self) -> Batch:
        """Hand out the batch and begin another."""
        batch, self.batch = self.batch, Batch()
        return batch


class Pipeline:
    """Moves messages from the intake into the tables."""

    def __init__(self, lanes: list[Lane], intake: ConsumerClient, clock: LoadClock, metrics: ConsumerMetrics) -> None:
        self._lanes = {lane.topic: lane for lane in lanes}
        self._intake = intake
        self._clock = clock
        self._metrics = metrics
        self._lives: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._consumed = 0
        self._written = 0
        for lane in lanes:
            self._metrics.begin(lane.topic, lane.sink.form.table)
            self._metrics.pending(lane.sink.form.table, lane.sink.ledger.pending)

    def ready(self) -> bool:
        """Whether the broker answers and has the topics, which are made if need be. Judges the load on the way."""
        self._clock.judge()
        return bool(self._clock.lives)

    def run(self, stopping: threading.Event) -> None:
        """Move messages until told to stop; then commit what was taken."""
        self._clock.watch(stopping)
        Upkeep([lane.sink for lane in self._lanes.values()], lambda: self._clock.level is Level.NORMAL).watch(stopping)
        with suppress(StoppedError):  # what waits for a schema is read again next time
            while not stopping.is_set():
                self._turn()
            for lane in self._lanes.values():
                if len(lane.batch):
                    self._commit(lane)
        for lane in self._lanes.values():
            self._settle(lane)
        self._intake.close()

    def _turn(self) -> None:
        self._follow_topics()
        self._reread_settled()
        self._take()
        for lane in self._lanes.values():
            if lane.under_way and lane.under_way.written.done():
                self._settle(lane)
            if lane.is_due():
                self._commit(lane)
            elif self._clock.level is Level.NORMAL and lane.sink.ledger.deferred and not lane.under_way:
                self._restore(lane)

    def _follow_topics(self) -> None:
        """Start over on topics that are not the ones they were: made again, or lost by their broker."""
        lives = self._clock.lives
        if lives == self._lives:
            return
        for topic, lane in self._lanes.items():
            self._empty(lane)
            lane.begin(lives[topic])
        self._lives = lives
        self._open()
        starts = {topic: sum(lane.sink.ledger.offsets.values()) for topic, lane in self._lanes.items()}
        log("topics_opened", **{topic.split(".")[2]: f"after {taken} messages" for topic, taken in starts.items()})

    def _reread_settled(self) -> None:
        """Read a topic that was made again from its start once more, when all of its first messages are in it.

        What is in the table already is known by its ids, so this costs a second reading and no second row.
        """
        settled = [lane for lane in self._lanes.values() if time.monotonic() >= lane.reread_at]
        for lane in settled:
            lane.reread_at = math.inf
            self._empty(lane)
            taken = sum(lane.sink.ledger.offsets.values())
            if taken > WINDOW:  # some ids are forgotten: rows would be doubled
                log("topic_not_read_once_more", "warning", topic=lane.topic, messages=taken, known_ids=WINDOW)
            else:
                lane.sink.reread()
                log("topic_read_once_more", topic=lane.topic, messages=taken)
        if settled:
            self._open()

    def _empty(self, lane: Lane) -> None:
        """Commit what was read so far; should it come again, its ids are known."""
        if len(lane.batch):
            self._commit(lane)
        self._settle(lane)

    def _open(self) -> None:
        self._intake.open({topic: lane.sink.ledger for topic, lane in self._lanes.items()})

    def _take(self) -> None:
        level = self._clock.level
        arrived: dict[str, list[Message]] = {topic: [] for topic in self._lanes}
        for message in self._intake.take(_TAKE_S):
            error = message.error()
            if error is None:
                arrived[message.topic() or ""].append(message)
            else:
                self._metrics.error(error.name())
                log("consumer_error", "warning", error=error.str())
        for topic, messages in arrived.items():
            if messages:
                self._metrics.shed(self._lanes[topic].add(messages, level))

    def _commit(self, lane: Lane) -> None:
        """Begin the commit of a lane's batch, after the end of the one before."""
        batch, sink = lane.start_batch(), lane.sink
        prepared = sink.prepare(batch.kept, batch.shed, batch.offsets, self._enrichment(lane))
        self._settle(lane)
        lane.under_way = Commit(len(batch), batch.offsets, in_background(lambda: sink.commit(prepared)))

    def _settle(self, lane: Lane) -> None:
        """Wait for the end of a lane's commit, and account for it."""
        if lane.under_way is None:
            return
        done, lane.under_way = lane.under_way, None
        written = done.written.result()
        self._consumed += done.messages
        self._metrics.consumed(lane.topic, done.messages)
        self._account(lane, written)
        self._tell_group(lane, done.offsets)
        log(
            "Batch processed",
            batch_size=done.messages,
            duration_seconds=written.duration_s,
            throughput=round(done.messages / written.duration_s),
            total_consumed=self._consumed,
            total_written=self._written,
            lag=self._behind(),
        )
        before, after = written.before, written.after
        if after is not None and after != before:
            log(
                "Iceberg transaction committed",
                table=lane.sink.form.table,
                record_count=written.rows,
                snapshot_id_before=before.snapshot_id if before else "none",
                snapshot_id_after=after.snapshot_id,
                total_records=after.summary["total-records"] if after.summary else "unknown",
            )

    def _behind(self) -> int:
        """Messages that the broker had when it was last read from and that are in no table yet."""
        ends = self._intake.fetched_ends.items()
        return sum(max(0, end - self._lanes[topic].sink.ledger.offsets.get(at, 0)) for (topic, at), end in ends)

    def _restore(self, lane: Lane) -> None:
        """Bring one file of deferred messages back; the next turn of the loop brings the next."""
        spilled = lane.sink.ledger.deferred[0]
        written = lane.sink.restore(spilled, self._enrichment(lane))
        self._metrics.restored(lane.sink.form.table, spilled.messages)
        self._account(lane, written)
        log("Shed messages restored", table=lane.sink.form.table, messages=spilled.messages, rows=written.rows)

    def _account(self, lane: Lane, written: Written) -> None:
        """Count what a commit did and see to what it left over."""
        name, count, told = lane.sink.form.table, written.rows, written.prepared
        self._written += count
        self._metrics.written(name, count, written.duration_s, told.duplicates)
        self._metrics.pending(name, lane.sink.ledger.pending)
        self._metrics.dead_letters(lane.topic, told.rejected)
        if told.rejected:
            log("Messages rejected", "warning", topic=lane.topic, messages=told.rejected, why=told.why)
        if lane.topic == trade.REFERENCE_TOPIC:
            described = [one for one in told.records if isinstance(one, trade.ReferenceData)]
            self._names.update({one.symbol: one.company_name for one in described})
        elif self._clock.level is not Level.NORMAL:
            self._metrics.enrichment_skipped(name, count)

    def _enrichment(self, lane: Lane) -> dict[str, str]:
        """The names trades are enriched with: none while there is any load, as K2 means SOFT."""
        return self._names if self._clock.level is Level.NORMAL and lane.topic != trade.REFERENCE_TOPIC else {}

    def _tell_group(self, lane: Lane, offsets: dict[int, int]) -> None:
        try:
            self._intake.commit(lane.topic, offsets)
        except KafkaException as problem:  # the ledger has the offsets; the group's are for onlookers
            self._metrics.error(problem.args[0].name())


def in_background(do: Callable[[], Written]) -> Future[Written]:
    """Do something in a thread of its own, which does not hold up the end of the program."""
    promised: Future[Written] = Future()

    def run() -> None:
        try:
            promised.set_result(do())
        except BaseException as problem:  # noqa: BLE001  it belongs to whoever asks for the result
            promised.set_exception(problem)

    threading.Thread(target=run, name="commit", daemon=True).start()
    return promised


def open_pipeline(
    options: argparse.Namespace,
    catalog: Catalog,
    client: AdminClient,
    metrics: ConsumerMetrics,
    stopping: threading.Event,
) -> Pipeline:
    """Open the tables and put the consumer together.

    Raises:
        OSError, RESTError: The catalog or the object store does not answer.
    """
    forms = [rows.TRADES, rows.REFERENCE_DATA]
    if options.registry:
        forms = rows.forms(RegistryClient(options.registry, stopping, metrics.awaits_schema))
    dead = DeadLetters(options.state / "dlq", options.group)
    lanes = []
    for form in forms:
        spill = SpillFile(options.state / "shed" / form.data_type)
        opened = table.open_table(catalog, form.table)
        opened.io.new_input(opened.metadata_location).exists()  # no commit is to be the first to meet the store
        sink = TableWriter(form, opened, spill, dead, stopping, options.patience)
        patience = options.interval * (_REFERENCE_PATIENCE if form.topic == trade.REFERENCE_TOPIC else 1)
        lanes.append(Lane(sink, options.batch, patience))

    def positions() -> Offsets:
        return {(lane.topic, part): at for lane in lanes for part, at in lane.sink.ledger.offsets.items()}

    intake = ConsumerClient(options.bootstrap, options.group)
    cascade = Cascade(options.lag_scale, options.cooldown)
    clock = LoadClock(cascade, LagMeter(client, intake, positions), Memory(options.memory_budget_mib), metrics)
    return Pipeline(lanes, intake, clock, metrics)
