"""The consumer's way out of the broker.

Partitions are assigned by hand and read from the offsets in the tables' ledgers, so there is no group to join, no
rebalance to wait for after a kill, and no offset but the committed one to start from. The group's offsets are committed
all the same, after the table, for everybody who measures lag by them.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, KafkaException, TopicPartition

from k2run.k2.platform import topics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confluent_kafka import Message

    from k2run.k2.platform.commit_ledger import Ledger

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
