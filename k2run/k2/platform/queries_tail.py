"""The newest trades of the broker that the table does not hold yet.

Read on demand, so that a backlog costs the API nothing until a request comes: the table's own ledger says up to which
offsets it has taken each partition, and what lies past them is the tail.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.k2.platform import topics, trade
from k2run.k2.platform.queries import TradeRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from confluent_kafka import Consumer, Message
    from confluent_kafka.admin import AdminClient

    from k2run.k2.platform.avro_trades import Record
    from k2run.k2.platform.queries import Trades
    from k2run.k2.platform.topics import Ledger

GROUP = "k2-kafka-tail"  # it never joins nor commits: a consumer must name one
MESSAGES_PER_PARTITION = 10_000
_READ_S = 2.0
_BROKER_S = 1.0
_POLL_S = 0.005
_SEARCH_MS = 250
"""Tansu looks through all batches of a partition for each fetch (0.8 us of CPU each), and answers with nothing when
that takes longer. Where nothing is new it waits as long, and the next fetch waits for it."""
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  the table's timestamps carry no zone; they are UTC


class TailUnreadableError(Exception):
    """The broker does not answer, or has no such topic."""


@dataclass(frozen=True, slots=True)
class Tail:
    """What the broker holds past the table.

    Not `complete` when older messages of a long backlog were left out, or when the consumer has shed messages that are
    in neither place until it restores them.
    """

    rows: tuple[TradeRow, ...]
    complete: bool


class BrokerTail:
    """Reads one topic from given offsets to its end. Safe to share between threads, which take turns."""

    def __init__(self, bootstrap: str, registry: str = "", topic: str = trade.TOPIC) -> None:
        self._bootstrap, self._topic = bootstrap, topic
        self._decode = _avro(registry, topic) if registry else _json
        self._turn = threading.Lock()
        self._connected: tuple[AdminClient, Consumer] | None = None

    def check(self) -> str:
        """Prove that the broker answers and has the topic.

        Raises:
            TailUnreadableError: It does not, or has no such topic.
        """
        ends = self._ends()
        return f"{self._topic} has {len(ends)} partitions"

    def past(self, taken: Ledger, trades: Trades) -> Tail:
        """These trades among the messages that the table with this ledger has not taken.

        Raises:
            TailUnreadableError: The broker did not answer in time.
        """
        ends = self._ends()
        offsets = taken.offsets if taken.life == self._life() else {}
        starts = {
            number: max(offsets.get(number, 0), end - MESSAGES_PER_PARTITION) for number, end in ends.items() if end
        }
        with self._turn:
            messages = self._read(starts)
        complete = not taken.pending and all(start <= offsets.get(number, 0) for number, start in starts.items())
        return Tail(tuple(_wanted(messages, trades, self._decode)), complete)

    def close(self) -> None:
        """Leave the broker."""
        if self._connected:
            self._connected[1].close()

    def _ends(self) -> dict[int, int]:
        """Where each partition ends. Tansu's word may be a batch too low, so it bounds a read and never ends one."""
        from confluent_kafka import KafkaException

        admin, _ = self._clients()
        try:
            # All topics, for to ask for one by its name would make it, with the broker's own number of partitions.
            if self._topic not in admin.list_topics(timeout=_BROKER_S).topics:
                raise TailUnreadableError(f"topic {self._topic} does not exist yet")
            ends = topics.end_offsets(admin, topics.partitions([self._topic]))
        except (KafkaException, TimeoutError) as error:
            raise TailUnreadableError(f"the broker at {self._bootstrap} does not answer") from error
        return {number: end for (_, number), end in ends.items()}

    def _life(self) -> str | None:
        from confluent_kafka import KafkaException

        admin, _ = self._clients()
        try:
            return topics.lives(admin).get(self._topic)
        except KafkaException as error:
            raise TailUnreadableError(f"the broker at {self._bootstrap} does not answer") from error

    def _read(self, starts: Mapping[int, int]) -> list[Message]:
        """Every message from `starts` to the end of its partition as of now."""
        from confluent_kafka import KafkaError, TopicPartition

        _, consumer = self._clients()
        consumer.assign([TopicPartition(self._topic, number, start) for number, start in starts.items()])
        try:
            unfinished: set[int | None] = set(starts)
            seen: dict[int | None, int] = {}
            messages: list[Message] = []
            deadline = time.monotonic() + _READ_S
            while unfinished:
                if time.monotonic() > deadline:
                    raise TailUnreadableError(f"the broker at {self._bootstrap} did not answer within {_READ_S:.0f} s")
                for message in consumer.consume(MESSAGES_PER_PARTITION, timeout=_POLL_S):
                    problem = message.error()
                    if problem is None:
                        messages.append(message)
                        number = message.partition()
                        end = seen.get(number) or seen.setdefault(number, self._end_seen(number))
                        if (message.offset() or 0) + 1 >= end > 0:
                            unfinished.discard(number)
                    elif problem.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  its public name
                        unfinished.discard(message.partition())
            return messages
        finally:
            consumer.unassign()

    def _end_seen(self, partition: int | None) -> int:
        """Where a partition ended when the broker sent what was read from it last; unlike `_ends` it is exact."""
        from confluent_kafka import TopicPartition

        _, consumer = self._clients()
        marks = consumer.get_watermark_offsets(TopicPartition(self._topic, partition or 0), cached=True)
        return marks[1] if marks else 0

    def _clients(self) -> tuple[AdminClient, Consumer]:
        if self._connected is None:
            from confluent_kafka import Consumer

            settings: Any = {
                **topics.CLIENT,
                "bootstrap.servers": self._bootstrap,
                "group.id": GROUP,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": _SEARCH_MS,
            }
            self._connected = (topics.admin(self._bootstrap), Consumer(settings))
        return self._connected


def _wanted(messages: Iterable[Message], trades: Trades, decode: Callable[[bytes], TradeRow]) -> Iterable[TradeRow]:
    """The messages that are trades of this kind; what cannot be decoded is the consumer's to report."""
    symbol = trades.symbol.encode() if trades.symbol is not None else None
    for message in messages:
        key, value = message.key(), message.value()
        if value is None or (symbol is not None and key not in (None, symbol)):
            continue
        try:
            row = decode(value)
        except (msgspec.MsgspecError, ValueError):
            continue
        if trades.take(row):
            yield row


def _avro(registry: str, topic: str) -> Callable[[bytes], TradeRow]:
    """What decodes messages in the registry's frame. A request does not wait until a registry is back."""
    from k2run.k2.platform import schemas
    from k2run.k2.platform.rows import Writers, read_trade
    from k2run.k2.platform.schemas import RegistryClient, StoppedError

    at_once = threading.Event()
    at_once.set()
    writers = Writers(RegistryClient(registry, at_once), topic, schemas.TRADE)

    def decode(value: bytes) -> TradeRow:
        try:
            return _of_record(read_trade(writers, value))
        except StoppedError as problem:
            raise TailUnreadableError(
                "no schema registry answers, and the trades' schema is not known yet"
            ) from problem

    return decode


def _of_record(one: Record) -> TradeRow:
    from k2run.k2.platform.avro_trades import ASSET_CLASSES, SIDES

    return TradeRow(
        one.message_id,
        one.trade_id.decode(),
        one.symbol.decode(),
        one.exchange.decode(),
        ASSET_CLASSES[one.asset_class],
        _EPOCH + timedelta(microseconds=one.timestamp),
        int.from_bytes(one.price, "big", signed=True) / _SCALE,
        int.from_bytes(one.quantity, "big", signed=True) / _SCALE,
        one.currency.decode(),
        SIDES[one.side],
        one.trade_conditions.decode(),
        one.source_sequence,
        _EPOCH + timedelta(microseconds=one.ingestion_timestamp),
        one.platform_sequence,
        None if one.vendor_data is None else one.vendor_data.decode(),
    )


_SCALE = 10**8


def _json(value: bytes) -> TradeRow:
    made = trade.decode(value)
    return TradeRow(
        made.message_id,
        made.trade_id,
        made.symbol,
        made.exchange,
        made.asset_class,
        _EPOCH + timedelta(microseconds=made.timestamp),
        float(made.price),
        float(made.quantity),
        made.currency,
        made.side,
        _text(made.trade_conditions),
        made.source_sequence,
        _EPOCH + timedelta(microseconds=made.ingestion_timestamp),
        made.platform_sequence,
        _text(made.vendor_data),
    )


def _text(raw: msgspec.Raw | None) -> str | None:
    """A field's JSON text as the table keeps it."""
    text = None if raw is None else str(raw, "utf-8")
    return None if text == "null" else text
