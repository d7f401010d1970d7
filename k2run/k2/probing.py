"""Probe trades at random moments, and how long each takes to become visible at the end of the pipeline.

One thread writes, another looks: a slow look does not delay the next probe, and latencies count from the moment a
probe was due. The moments are those of a Poisson process, so that probes meet every phase of a consumer that commits
by the clock; evenly spaced ones would meet always the same.
"""

from __future__ import annotations

import random
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from k2run.adapters.http.client import Request, send
from k2run.adapters.iceberg.catalog import Iceberg, judged, open_catalog, open_table
from k2run.adapters.iceberg.duckdb_sql import data_files
from k2run.adapters.kafka.client import Kafka, Link
from k2run.adapters.kafka.transfer import PROBE
from k2run.bench.latency import Latencies
from k2run.bench.plan import Pace
from k2run.bench.tally import Tally
from k2run.errors import ActionError, K2runError, Refused
from k2run.k2.trade_generator import framed_trades, trades

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from confluent_kafka import KafkaError, Message, Producer
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import FileScanTask, Table

    from k2run.actions.deadline import Deadline
    from k2run.bench.plan import Outcome

GOOD = range(200, 300)
LOOK_S = 0.05
"""Seconds between two looks at the deadline."""


class Sight(Protocol):
    """A place to look for trades."""

    @property
    def source(self) -> str:
        """What results give as their source."""
        ...

    def seen(self, waiting: Collection[str], deadline: Deadline) -> set[str]:
        """Those of the ids that can be seen there now."""
        ...


class InAnswers:
    """The rows of an API's JSON answer.

    Args:
        request: Asks for the newest trades; more of them than come in between two looks.
        rows: Path to the rows, such as `data`.
        field: Of a row, with its id.
    """

    def __init__(self, request: Request, rows: str, field: str) -> None:
        self._request, self._field = request, field
        self._path = [part for part in rows.split(".") if part]

    @property
    def source(self) -> str:
        """What results give as their source."""
        return self._request.address

    def seen(self, waiting: Collection[str], deadline: Deadline) -> set[str]:
        """Those of the ids that are in the answer.

        Raises:
            Unreachable: No answer.
            Refused: An answer that is not good, or has no rows where they should be.
        """
        answer = send(self._request, deadline)
        if answer.status not in GOOD:
            raise Refused(f"{self._request.address} answered {answer.status_line}")
        found: Any = msgspec.json.decode(answer.content)
        for part in self._path:
            found = found.get(part) if isinstance(found, dict) else None
        if not isinstance(found, list):
            raise Refused(f"the answer of {self._request.address} has no list at {'.'.join(self._path) or 'its top'}")
        ids = {str(row.get(self._field)) for row in found if isinstance(row, dict)}
        return ids.intersection(waiting)


class InTable:
    """The rows of an Iceberg table; at each look only files that were not there at the last one are read."""

    def __init__(self, iceberg: Iceberg, name: str, field: str, deadline: Deadline) -> None:
        self._iceberg, self._name, self._field = iceberg, name, field
        table = open_table(iceberg, deadline, name)  # says what there is, when there is no such table
        self._catalog: Catalog = open_catalog(iceberg, deadline)
        self._metadata = table.metadata_location
        self._known = {task.file.file_path for task in data_files(table)}

    @property
    def source(self) -> str:
        """What results give as their source."""
        return f"{self._iceberg.source} {self._iceberg.full_name(self._name)}"

    def seen(self, waiting: Collection[str], deadline: Deadline) -> set[str]:
        """Those of the ids that have been committed since the last look."""
        deadline.remaining()
        with judged(self._iceberg, f"look into {self._name}"):
            table = self._catalog.load_table(self._iceberg.full_name(self._name))
            if table.metadata_location == self._metadata:
                return set()
            tasks = data_files(table)
            fresh = [task for task in tasks if task.file.file_path not in self._known]
            found = self._ids(table, fresh).intersection(waiting)
        self._metadata = table.metadata_location
        self._known = {task.file.file_path for task in tasks}
        return found

    def _ids(self, table: Table, files: list[FileScanTask]) -> set[str]:
        from pyiceberg.expressions import AlwaysTrue
        from pyiceberg.io.pyarrow import ArrowScan

        if not files:
            return set()
        scan = ArrowScan(table.metadata, table.io, table.schema().select(self._field), AlwaysTrue())
        return {str(name) for name in scan.to_table(files)[self._field].to_pylist()}


class Probing(Pace, frozen=True, kw_only=True):
    """What to send, and how often.

    Attributes:
        prefix: Every trade_id is this and a number.
        rate: Probes a second, on average.
        every: Seconds from the beginning of one look to that of the next, or to the end of a look that takes longer.
        patience: Seconds after which a probe that was not seen counts as lost.
        frame: Id of the probes' Avro schema; 0 for JSON.
    """

    kafka: Kafka
    topic: str
    prefix: str
    symbol: str
    rate: float
    every: float
    patience: float
    frame: int = 0
    seed: int = 1


class Probed(NamedTuple):
    """What came of the probes.

    Attributes:
        acknowledged: From due to the broker's acknowledgement.
        looks: How long each look took; part of the latencies.
        errors: For each probe that was seen: the most by which its latency is too long.
        failed_looks: Looks that got no answer, or not a good one.
        why: The last of these.
    """

    outcome: Outcome
    acknowledged: Latencies
    looks: Latencies
    errors: Latencies
    failed_looks: int
    why: str


def probe(plan: Probing, sight: Sight, deadline: Deadline) -> Probed:
    """Send all probes, and wait until each was seen or is lost.

    Raises:
        Unreachable: Nothing listens at the broker's address, or the first look got no answer.
        TimedOut: The deadline passed first.
        Interrupted: The run was asked to end.
    """
    link = Link(plan.kafka, deadline)
    sight.seen((), deadline)  # a place that cannot be checked is no measurement
    probes = Probes(plan)
    sender = Sender(plan, link, probes)
    sender.start()
    try:
        return _Watching(plan, sight, probes, sender, deadline).run()
    finally:
        sender.stop.set()
        sender.join()


class Probes:
    """The probes under way, and those that have ended; two threads use it."""

    def __init__(self, plan: Probing) -> None:
        self.begin = time.monotonic() + plan.warm_up
        self.tally = Tally(limits=plan.limits)
        self.acknowledged = Latencies()
        self.started = self.skipped = 0
        self._waiting: dict[str, float] = {}
        self._late: dict[str, float] = {}
        self._lock = threading.Lock()

    def sent(self, name: str, due: float) -> None:
        """A probe is about to be written."""
        with self._lock:
            self._waiting[name] = due
            self._late[name] = late = max(0.0, time.monotonic() - due)
            if due >= self.begin:
                self.tally.lateness.record(late)
            self.started += due >= self.begin
            self.skipped += due < self.begin

    def told(self, name: str, due: float, error: KafkaError | None, _message: Message) -> None:
        """The delivery callback of the producer."""
        with self._lock:
            if error is not None:
                if self._waiting.pop(name, None) is not None and due >= self.begin:
                    self.tally.failure(f"not written: {error.str().lower()}", time.monotonic() - due)
            elif due >= self.begin:
                self.acknowledged.record(time.monotonic() - due)

    def waiting(self) -> list[str]:
        """Those that were not seen yet."""
        with self._lock:
            return list(self._waiting)

    def seen(self, names: set[str], now: float) -> list[float]:
        """Count those that were seen; returns the latencies of those that count."""
        with self._lock:
            due = {name: self._waiting.pop(name) for name in names if name in self._waiting}
            latencies = {name: now - moment for name, moment in due.items() if moment >= self.begin}
            for name, latency in latencies.items():
                self.tally.took(latency, self._late[name])
                self.tally.last = now
            return [*latencies.values()]

    def give_up(self, before: float, why: str) -> None:
        """Those that were due before that moment are lost."""
        with self._lock:
            late = [(name, due) for name, due in self._waiting.items() if due < before]
            for name, due in late:
                del self._waiting[name]
                if due >= self.begin:
                    self.tally.last = time.monotonic()
                    self.tally.failure(why, self.tally.last - due)


class Sender(threading.Thread):
    """Writes each probe at its moment."""

    def __init__(self, plan: Probing, link: Link, probes: Probes) -> None:
        super().__init__(name="probes", daemon=True)
        self.stop = threading.Event()
        self.error: K2runError | None = None
        self._plan, self._link, self._probes = plan, link, probes

    def run(self) -> None:
        """Part of threading's interface."""
        try:
            with self._link.judged(f"write to {self._plan.topic!r}"):
                self._send_all()
        except K2runError as error:
            self.error = error

    def _send_all(self) -> None:
        patience = max(1, round(self._plan.patience * 1000))
        producer = self._link.producer({**PROBE, "message.timeout.ms": patience})
        try:
            for number, due in enumerate(self._moments()):
                if not self._await(producer, due):
                    return
                plan = self._plan
                name, key, value = made_up(f"{plan.prefix}{number}-", plan.seed + number, plan.symbol, plan.frame)
                self._probes.sent(name, due)
                producer.produce(self._plan.topic, value, key, on_delivery=partial(self._probes.told, name, due))
            while len(producer) and not self.stop.is_set():
                producer.poll(LOOK_S)
        finally:
            producer.purge()
            producer.flush(0.1)

    def _await(self, producer: Producer, due: float) -> bool:
        """Take in acknowledgements until then; False when it is not to be waited for any more."""
        while (wait := due - time.monotonic()) > 0 and not self.stop.is_set():
            producer.poll(min(wait, LOOK_S))
        return not self.stop.is_set()

    def _moments(self) -> Iterator[float]:
        """When probes are due (monotonic), as if by chance, though always the same for a seed."""
        chance = random.Random(self._plan.seed)  # noqa: S311 - moments, not secrets
        due, begin, left = time.monotonic(), self._probes.begin, self._plan.iterations
        while not (self._plan.seconds and due >= begin + self._plan.seconds):
            yield due
            left -= due >= begin
            if self._plan.iterations and left <= 0:
                return
            due += chance.expovariate(self._plan.rate)


class _Watching:
    def __init__(self, plan: Probing, sight: Sight, probes: Probes, sender: Sender, deadline: Deadline) -> None:
        self._plan, self._sight, self._probes, self._sender, self._deadline = plan, sight, probes, sender, deadline
        self._looks, self._errors = Latencies(), Latencies()
        self._failed, self._why = 0, ""

    def run(self) -> Probed:
        """Look until every probe was seen or is lost."""
        before = time.monotonic()
        while self._sender.is_alive() or self._probes.waiting():
            begun = time.monotonic()
            if waiting := self._probes.waiting():
                self._look(waiting, begun, before)
                before = begun
            missing = f"not visible within {self._plan.patience:g}s"
            self._probes.give_up(time.monotonic() - self._plan.patience, missing)
            if self._probes.tally.is_lost(time.monotonic() - self._probes.begin):
                break
            self._deadline.sleep(max(0.001, begun + self._plan.every - time.monotonic()))
        if self._sender.error is not None:
            raise self._sender.error
        return self._probed()

    def _look(self, waiting: list[str], begun: float, before: float) -> None:
        """One look; what it finds had not been there when the look before it began."""
        try:
            found = self._sight.seen(waiting, self._deadline)
        except ActionError as error:
            self._deadline.remaining()
            self._failed += 1
            self._why = error.message
            return
        now = time.monotonic()
        self._looks.record(now - begun)
        for latency in self._probes.seen(found, now):
            self._errors.record(min(latency, now - before))

    def _probed(self) -> Probed:
        probes = self._probes
        outcome = probes.tally.outcome(
            started=probes.started, skipped=probes.skipped, seconds=max(0.0, probes.tally.last - probes.begin)
        )
        return Probed(outcome, probes.acknowledged, self._looks, self._errors, self._failed, self._why)


def made_up(prefix: str, seed: int, symbol: str, frame: int) -> tuple[str, bytes, bytes]:
    """One trade of this moment: its message_id, key and value."""
    key, value = next(framed_trades(prefix, seed, [symbol], frame) if frame else trades(prefix, seed, [symbol]))
    name: str = value[_ID].decode() if frame else msgspec.json.decode(value)["message_id"]
    return name, key, value


_ID = slice(6, 42)  # after the frame and a length
