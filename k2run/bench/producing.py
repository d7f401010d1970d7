"""The load generator for Kafka: as many messages as the cluster takes, or a set rate, each until it is acknowledged.

A closed loop keeps a set number of messages on their way: it finds out what a cluster takes. An open loop writes at a
set rate, and a latency counts from the moment the message *should* have been written.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from array import array
from collections import deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from msgspec import structs

from k2run.adapters.kafka import transfer
from k2run.adapters.kafka.client import Kafka, Link, Setting
from k2run.adapters.kafka.form import Payloads
from k2run.bench.plan import Pace, calm
from k2run.bench.tally import TARDY_S, Tally
from k2run.bench.workers import part_of
from k2run.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from confluent_kafka import KafkaError, Message, Producer

    from k2run.actions.deadline import Deadline
    from k2run.bench.plan import Outcome

SETTINGS: dict[str, Setting] = transfer.SETTINGS | {"linger.ms": 5, "queue.buffering.max.kbytes": 256 * 1024}
"""linger.ms as librdkafka has it by itself: it is part of every latency."""
SETTLED_S = 0.1
"""Seconds within which a client that does not stand still has sent what was written, or taken in what has come."""
BATCH = 100
"""Messages that a closed loop writes between two looks at acknowledgements."""
FOLD = 10_000
"""Latencies kept as they come before they go into the histogram; more at once would hold acknowledgements up."""
LOOK_S = 0.05
"""Seconds between two looks at the deadline."""


class Writing(Pace, frozen=True, kw_only=True):
    """What to write, and how fast.

    Attributes:
        rate: Messages a second (open loop); 0 is a closed loop.
        most_waiting: Messages that wait for their acknowledgement at most; with more, writing waits.
        most_errors: The load ends early once more messages than this failed; None for never.
        timeout: Seconds after which a message is given up and counted as an error.
        settings: Of librdkafka, before those of this module.
    """

    kafka: Kafka
    topic: str
    payloads: Payloads
    rate: float = 0.0
    most_waiting: int = 20_000
    most_errors: int | None = None
    timeout: float = 10.0
    settings: dict[str, Setting] = {}


def write(plan: Writing, deadline: Deadline) -> Outcome:
    """Put the load on, and say what came of it.

    Raises:
        Unreachable: Nothing listens at the address.
        TimedOut: The deadline passed first.
        Interrupted: The run was asked to end.
    """
    loop = (OpenWriting if plan.rate else ClosedWriting)(plan, Link(plan.kafka, deadline))
    with calm():
        return loop.run()


def split(plan: Writing, parts: int) -> list[Writing]:
    """Shares of a load that together are the whole.

    Raises:
        Refused: There is too little to share out.
    """
    if parts > plan.most_waiting or (plan.iterations and parts > plan.iterations):
        raise Refused(f"the load cannot be shared out to {parts} processes", hint="raise `iterations` or `waiting`")
    return [
        structs.replace(
            plan,
            most_waiting=part_of(plan.most_waiting, parts, n),
            iterations=part_of(plan.iterations, parts, n),
            rate=plan.rate / parts,
            payloads=structs.replace(plan.payloads, seed=plan.payloads.seed + n, prefix=_own(plan.payloads.prefix, n)),
        )
        for n in range(parts)
    ]


def _own(prefix: str, n: int) -> str:
    """Ids that no other share counts through as well."""
    return f"{prefix}{n}-" if prefix else ""


class WritingLoop(ABC):
    """One run of a plan.

    Attributes:
        held_s: Seconds without a look at acknowledgements that are more than the loop's own work between two looks.
    """

    held_s: float

    def __init__(self, plan: Writing, link: Link) -> None:
        self.plan = plan
        self.messages = plan.payloads.messages()
        self.begin = self.end = 0.0
        self.started = self.skipped = 0
        self._link = link
        self.tally = Tally(limits=plan.limits)
        self.size = 0
        self.producer = self._open()
        self._heard = self._due = time.monotonic()
        self._holds: deque[tuple[float, float]] = deque()

    def run(self) -> Outcome:
        """Warm up, measure, wait for the last acknowledgements."""
        busy, begun = time.thread_time(), time.monotonic()
        self.begin_at(begun + self.plan.warm_up)
        try:
            with self._link.judged(f"write to {self.plan.topic!r}"):
                self.keep_writing()
                while len(self.producer):
                    self.poll(LOOK_S)
        finally:
            self.producer.purge()
            self.producer.flush(0.1)
        return self._outcome((time.thread_time() - busy) / (time.monotonic() - begun))

    @abstractmethod
    def keep_writing(self) -> None:
        """Write all messages; return once the last one was handed over."""

    def begin_at(self, begin: float) -> None:
        """Set the moment from which on messages count (monotonic)."""
        self.begin = begin
        self.end = begin + (self.plan.seconds or math.inf)

    def is_over(self, now: float) -> bool:
        """Nothing new is to be written."""
        done = now >= self.end or 0 < self.plan.iterations <= self.started
        return done or self._is_cut(now)

    def _is_cut(self, now: float) -> bool:
        return self._is_given_up() or (bool(self.plan.limits) and self.tally.is_lost(now - self.begin))

    def has_room(self) -> bool:
        """Another message may be on its way."""
        return len(self.producer) < self.plan.most_waiting

    def poll(self, seconds: float) -> None:
        """Take in acknowledgements, waited for at most so long."""
        wait = self._link.deadline.at_most(seconds) if seconds else 0.0
        now = time.monotonic()
        self._hold(now, now - self._heard)
        self._due = now + wait
        self.producer.poll(wait)
        self._heard = time.monotonic()
        self._hold(self._heard, self._heard - self._due)

    def _hold(self, now: float, seconds: float) -> None:
        """Note a while in which this process could not hear, nor its client send, though it should have."""
        if seconds > self.held_s:
            self._holds.append((now, seconds))
            while now - self._holds[0][0] > self.plan.timeout:
                self._holds.popleft()

    def held(self, written: float, heard: float) -> float:
        """How many seconds this process stood still while a message was to be sent, or its acknowledgement to be heard.

        In between the message is the cluster's, whatever this process does.
        """
        if not self._holds:
            return 0.0
        sent, asked = written + SETTLED_S, heard - SETTLED_S
        return sum(seconds for end, seconds in self._holds if written < end and (end - seconds < sent or asked < end))

    def failed(self, error: KafkaError, seconds: float | None = None) -> None:
        """Count a message that the cluster does not have, or at least did not say so."""
        self.tally.errors[error.str().removeprefix("Message failed: ").lower()] += 1
        if seconds is not None:
            self.tally.failed.record(seconds)

    def _is_given_up(self) -> bool:
        most = self.plan.most_errors
        return most is not None and sum(self.tally.errors.values()) > most

    def _open(self) -> Producer:
        patience = max(1, round(self.plan.timeout * 1000))
        settings = {
            **SETTINGS,
            "queue.buffering.max.messages": self.plan.most_waiting + BATCH,
            "message.timeout.ms": patience,
            "request.timeout.ms": min(5000, patience),
            **self.plan.settings,
        }
        return self._link.producer(settings)

    @abstractmethod
    def window(self) -> tuple[float, int | None]:
        """When the window of the rate ends (monotonic), and how many acknowledgements came in it; None for all."""

    def _outcome(self, cpu: float) -> Outcome:
        end, answered = self.window()
        measured = self.tally.outcome(
            started=self.started,
            skipped=self.skipped,
            seconds=max(0.0, end - self.begin),
            answered=answered,
            begin=self.begin,
            cpu=cpu,
        )
        return structs.replace(measured, size=self.size)


class ClosedWriting(WritingLoop):
    """So many messages on their way at any time."""

    held_s = 0.05

    def __init__(self, plan: Writing, link: Link) -> None:
        super().__init__(plan, link)
        self._fresh = array("d")

    def poll(self, seconds: float) -> None:
        """Take in acknowledgements, and from time to time their latencies."""
        before = len(self._fresh)
        super().poll(seconds)
        if len(self._fresh) > before:
            self.tally.last = now = time.monotonic()
            if self._holds and self._holds[-1][0] > now - max(fresh := self._fresh[before:]):
                del self._fresh[before:]
                self.tally.took_in_doubt(fresh, [self.held(now - latency, now) for latency in fresh])
        if len(self._fresh) >= FOLD or not len(self.producer):
            self.tally.took_all(self._fresh)
            del self._fresh[:]

    def window(self) -> tuple[float, int | None]:
        """Until the last acknowledgement: what is written is only in librdkafka's queue until then."""
        return self.tally.last, None

    def keep_writing(self) -> None:
        """Write a batch whenever there is room."""
        while time.monotonic() < self.begin:
            self.skipped += self._batch(BATCH, _nothing)
        while len(self.producer):  # else the time that these take would be that of the first messages that count
            self.poll(LOOK_S)
            self._link.deadline.remaining()
        self.begin_at(time.monotonic())
        told = self._told()
        while not self.is_over(time.monotonic()):
            left = self.plan.iterations - self.started if self.plan.iterations else BATCH
            self.started += self._batch(min(left, BATCH), told)

    def _told(self) -> Callable[[KafkaError | None, Message], None]:
        """What is done with an acknowledgement, and no more: it is done a hundred thousand times a second."""
        took = self._fresh.append

        def told(error: KafkaError | None, message: Message) -> None:
            if error is None:
                # librdkafka counts from the call that wrote the message to this one, which brings the acknowledgement.
                took(message.latency() or 0.0)
                self.size += len(message)
            else:
                self.failed(error)

        return told

    def _batch(self, size: int, told: Callable[[KafkaError | None, Message], None]) -> int:
        batch = list(islice(self.messages, size))
        while batch:
            written = self.producer.produce_batch(self.plan.topic, batch, on_delivery=told)
            batch = [message for message in batch if self._is_left(message)] if written < len(batch) else []
            self.poll(LOOK_S if batch else 0)
        while not self.has_room():
            self.poll(LOOK_S)
        self._link.deadline.remaining()
        return size

    def _is_left(self, message: dict[str, bytes | KafkaError | None]) -> bool:
        """Whether a message of a batch has to be written again: there was no room for it in librdkafka's queue."""
        error = message.pop("_error", None)
        if error is None or isinstance(error, bytes):
            return False
        if error.code() == error._QUEUE_FULL:  # noqa: SLF001 - its public name
            return True
        self.failed(error)
        return False


class OpenWriting(WritingLoop):
    """Messages at a set rate, whatever becomes of them."""

    held_s = TARDY_S

    def __init__(self, plan: Writing, link: Link) -> None:
        super().__init__(plan, link)
        self._room_since = -math.inf
        self._in_window = 0

    def window(self) -> tuple[float, int | None]:
        """The planned time, or until a threshold was lost."""
        cut = self._is_given_up() or self.tally.lost
        end = min(self.end, self.tally.last) if cut else self.end
        return (end, self._in_window) if self._in_window else (self.tally.last, None)

    def keep_writing(self) -> None:
        """Message number n belongs to a fixed moment, whatever happened to those before it."""
        begun, warm_up = self.begin - self.plan.warm_up, round(self.plan.warm_up * self.plan.rate)
        counted = self.plan.iterations or round(self.plan.seconds * self.plan.rate)
        self.begin = begun + warm_up / self.plan.rate
        self.end = begun + (warm_up + counted) / self.plan.rate
        for n in range(warm_up + counted):
            intended = begun + n / self.plan.rate
            if self._is_cut(intended):
                return
            self._await(intended)
            counts = n >= warm_up
            self.started += counts
            self.skipped += not counts
            self._write(intended, counts=counts)

    def _write(self, intended: float, *, counts: bool) -> None:
        if not self._has_room_by(intended + self.plan.timeout):
            if counts:
                self.tally.failure("not written in time", time.monotonic() - intended)
            return
        late = max(0.0, time.monotonic() - max(intended, self._room_since))
        if counts:
            self.tally.lateness.record(late)
        told = partial(self._told, intended, late) if counts else self._warmed_up
        self.producer.produce(self.plan.topic, **next(self.messages), on_delivery=told)

    def _await(self, moment: float) -> None:
        """Take in acknowledgements until then, and at least those that are there."""
        wait = moment - time.monotonic()
        if wait <= 0:
            self.poll(0)
        while wait > 0:
            self.poll(min(wait, LOOK_S))
            wait = moment - time.monotonic()

    def _has_room_by(self, moment: float) -> bool:
        """Wait for room; what waits for it is not the generator's to answer for."""
        while not self.has_room():
            if time.monotonic() > moment:
                return False
            self.poll(LOOK_S)
            self._room_since = time.monotonic()
        return True

    def _told(self, intended: float, late: float, error: KafkaError | None, message: Message) -> None:
        now = time.monotonic()
        if error is None:
            self.tally.last = now
            deaf = now - self._due  # of this very look, which has not ended yet
            held = self.held(intended + late, now) + (deaf if deaf > self.held_s else 0.0)
            self.tally.took(now - intended, late + held)
            self._in_window += now <= self.end
            self.size += len(message)
        else:
            self.failed(error, now - intended)

    def _warmed_up(self, error: KafkaError | None, _message: Message) -> None:
        """The acknowledgement of a message of the warm-up, which may come within the window."""
        self._in_window += error is None and self.begin <= time.monotonic() <= self.end


def _nothing(_error: KafkaError | None, _message: Message) -> None:
    """What is done with the acknowledgements of the warm-up."""
