"""The stream's way into the broker: topics that are kept in being, and a producer that outlives a broker's restart."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, KafkaException, Producer

from k2run.sandbox import topics
from k2run.sandbox.program import log

if TYPE_CHECKING:
    from confluent_kafka import Message

    from k2run.sandbox.stream_metrics import StreamMetrics

_CHECK_S = 0.5
LINGER_MS = 100
"""The real platform's is 10. Each fetch from Tansu looks through all batches there are, so these are few and large."""
_PURGED = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)  # noqa: SLF001  librdkafka names local errors with _
_FORGOTTEN = (KafkaError._FATAL, KafkaError.UNKNOWN_PRODUCER_ID)  # noqa: SLF001
"""The broker that came back does not know the producer, which then sends nothing more. What it had on its way is sent
again by another one: the consumer writes each trade once, whatever reached the broker twice."""


class TopicKeeper:
    """Makes the topics when they are missing and notices when they are not the ones they were."""

    def __init__(self, bootstrap: str, stopping: threading.Event) -> None:
        self._admin = topics.admin(bootstrap)
        self._stopping = stopping
        self._lives: dict[str, str] = {}
        self.generation = 0

    def ready(self) -> bool:
        """Whether the topics exist now; makes the missing ones."""
        try:
            found = topics.ensure(self._admin)
        except KafkaException:
            return False
        if found != self._lives:
            self._lives = found
            self.generation += 1
        return True

    def watch(self) -> None:
        """Look again every half second, in a thread of its own, until told to stop."""
        threading.Thread(target=self._watch, name="topics", daemon=True).start()

    def _watch(self) -> None:
        while not self._stopping.wait(_CHECK_S):
            self.ready()


class Outlet:
    """Sends messages with all acknowledgements; what an earlier life of a topic did not take goes to the next."""

    def __init__(self, bootstrap: str, keeper: TopicKeeper, metrics: StreamMetrics) -> None:
        self._settings = {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": LINGER_MS,
            "compression.type": "lz4",
            "message.timeout.ms": 120_000,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 256 * 1024,
            **topics.CLIENT,
        }
        self._keeper = keeper
        self._metrics = metrics
        self._producer = Producer(self._settings)
        self._generation = keeper.generation
        self._returned: list[Message] = []
        self._forgotten = False
        self._delivered: Counter[str] = Counter()
        self.errors = 0

    def send(self, topic: str, key: str, value: bytes) -> None:
        """Queue one message, waiting while the queue is full, and while a broker that came back has no topics yet."""
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=self._settled)
            except BufferError:
                self.settle(0.1)
            except KafkaException as error:
                code = error.args[0].code()
                self._forgotten |= code in _FORGOTTEN
                if code not in {*_FORGOTTEN, KafkaError._UNKNOWN_TOPIC}:  # noqa: SLF001 - librdkafka's own name for it
                    raise
                self.settle(0.1)
            else:
                return

    def settle(self, seconds: float = 0.0) -> None:
        """Take in what the broker has answered, waiting at most `seconds` for it."""
        if self._generation != self._keeper.generation:
            self._start_over("the topics are new")
        elif self._forgotten:
            self._start_over("the broker does not know it")
        self._producer.poll(seconds)
        for topic, count in self._delivered.items():
            self._metrics.produced(topic, count)
        self._delivered.clear()

    def close(self, seconds: float) -> int:
        """Wait at most `seconds` for the last answers; the number of messages left without one."""
        left = self._producer.flush(seconds)
        self.settle()
        return left

    def _settled(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._delivered[message.topic() or ""] += 1
        elif error.code() in {*_PURGED, *_FORGOTTEN}:
            self._forgotten |= error.code() in _FORGOTTEN
            self._returned.append(message)
        else:
            self.errors += 1
            self._metrics.failed(message.topic() or "", error.name())
            log("trade_produce_error", "error", error=error.str())

    def _start_over(self, reason: str) -> None:
        """A producer keeps sequence numbers for a topic that is gone and would wait for ever; a new one does not."""
        self._generation = self._keeper.generation
        self._producer.purge()
        self._producer.flush(1)
        returned, self._returned = self._returned, []
        self._producer = Producer(self._settings)
        self._forgotten = False
        log("producer_restarted", "warning", reason=reason, resent=len(returned))
        for message in returned:
            self.send(message.topic() or "", (message.key() or b"").decode(), message.value() or b"")
