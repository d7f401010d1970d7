"""What stream and consumer count, under K2's names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

from k2run.k2.platform.cascade import EVERY_SHED, Level, Shed
from k2run.k2.platform.trade import EXCHANGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k2run.k2.platform.cascade import Transition

_WRITE_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class ConsumerMetrics:
    """The consumer's series in the default registry; make one per process.

    The level and the lag have no series until they are first known: an absent series is not a zero.
    """

    def __init__(self, group: str) -> None:
        cascade = {**SERVICE, "component": "degradation_manager"}
        own = {**SERVICE, "component": "consumer"}
        market = {**own, "exchange": EXCHANGE, "asset_class": "crypto"}
        self._cascade, self._own, self._market, self._group = cascade, own, market, group
        self._level = Gauge("k2_degradation_level", "Degradation level, 0 (NORMAL) to 4 (CIRCUIT_BREAK)", [*cascade])
        self._transitions = Counter(
            "k2_degradation_transitions", "Changes of the level", [*cascade, "from_level", "to_level"]
        )
        self._spent = Counter("k2_degradation_seconds", "Time spent at each level", [*cascade, "level"])
        self._shed = Counter("k2_messages_shed", "Messages deferred by load", [*cascade, "symbol_tier", "reason"])
        self._restored = Counter("k2_messages_restored", "Deferred messages put into the table", [*own, "table"])
        self._pending = Gauge("k2_messages_shed_pending", "Messages still deferred", [*own, "table"])
        self._skipped = Counter("k2_enrichment_skipped", "Rows written without enrichment, by load", [*own, "table"])
        self._lag = Gauge(
            "k2_kafka_consumer_lag_messages",
            "Messages of a partition that are not in the table yet (NaN: unknown)",
            [*market, "topic", "partition", "consumer_group"],
        )
        self._group_lag = Gauge(
            "k2_kafka_consumer_group_lag_messages",
            "Messages of all partitions that are not in the table yet (NaN: unknown)",
            [*own, "consumer_group"],
        )
        self._memory = Gauge("k2_consumer_memory_percent", "Resident memory over the budget", [*own])
        self._consumed = Counter("k2_kafka_messages_consumed", "Messages taken", [*market, "topic", "consumer_group"])
        self._rows = Counter("k2_iceberg_rows_written", "Rows committed", [*market, "table"])
        self._duration = Histogram(
            "k2_iceberg_write_duration_seconds",
            "From message bodies to the committed table",
            [*market, "table", "operation"],
            buckets=_WRITE_BUCKETS,
        )
        self._transactions = Counter("k2_iceberg_transactions", "Commits", [*own, "table"])
        self._errors = Counter("k2_consumer_errors", "Errors", [*own, "error_type", "consumer_group"])
        self._duplicates = Counter("k2_duplicate_messages_detected", "Repeated message ids left out", [*market])
        self._dead_letters = Counter("k2_dead_letters", "Messages that cannot become rows", [*own, "topic"])
        self._awaits_schema = Gauge(
            "k2_consumer_awaits_schema", "1 while messages wait for a schema that no registry node hands out", [*own]
        )
        self._committed_at = Gauge("k2_iceberg_last_commit_timestamp_seconds", "Last commit", [*own, "table"])

    def begin(self, topic: str, table: str) -> None:
        """Show the zeros that are known to be zeros, now that the topic and its table are at hand."""
        self.consumed(topic, 0)
        self.dead_letters(topic, 0)
        self.awaits_schema(False)
        self.restored(table, 0)
        self._rows.labels(**self._market, table=table)
        self._transactions.labels(**self._own, table=table)
        self._duplicates.labels(**self._market)
        self._skipped.labels(**self._own, table=table)
        self.shed(dict.fromkeys(EVERY_SHED, 0))
        for level in Level:
            self.spent(level, 0)

    def awaits_schema(self, waits: bool) -> None:
        """Show whether messages wait for their schema."""
        self._awaits_schema.labels(**self._own).set(waits)

    def moved(self, transition: Transition) -> None:
        """Count a change of level."""
        old, new = transition.old.name.lower(), transition.new.name.lower()
        self._transitions.labels(**self._cascade, from_level=old, to_level=new).inc()

    def spent(self, level: Level, seconds: float) -> None:
        """Count time at a level."""
        self._spent.labels(**self._cascade, level=level.name.lower()).inc(seconds)

    def load(self, level: Level, memory: float, lag: Mapping[tuple[str, int], int] | None) -> None:
        """Show the level and what it was judged by; a lag of None is unknown and shown as NaN."""
        self._level.labels(**self._cascade).set(level)
        self._memory.labels(**self._own).set(memory)
        total = self._group_lag.labels(**self._own, consumer_group=self._group)
        if lag is None:
            total.set(math.nan)
            return
        total.set(sum(lag.values()))
        for (topic, partition), messages in lag.items():
            where = {"topic": topic, "partition": str(partition), "consumer_group": self._group}
            self._lag.labels(**self._market, **where).set(messages)

    def shed(self, counts: Mapping[Shed, int]) -> None:
        """Count messages that were deferred."""
        for why, count in counts.items():
            self._shed.labels(**self._cascade, symbol_tier=why.symbol_tier, reason=why.reason).inc(count)

    def restored(self, table: str, count: int) -> None:
        """Count deferred messages that went into the table."""
        self._restored.labels(**self._own, table=table).inc(count)

    def pending(self, table: str, count: int) -> None:
        """Show how many messages are deferred."""
        self._pending.labels(**self._own, table=table).set(count)

    def enrichment_skipped(self, table: str, count: int) -> None:
        """Count rows that would have been enriched at level NORMAL."""
        self._skipped.labels(**self._own, table=table).inc(count)

    def consumed(self, topic: str, count: int) -> None:
        """Count messages taken from the broker and settled by a commit."""
        self._consumed.labels(**self._market, topic=topic, consumer_group=self._group).inc(count)

    def written(self, table: str, rows: int, duration_s: float, duplicates: int) -> None:
        """Count one commit."""
        self._rows.labels(**self._market, table=table).inc(rows)
        self._duration.labels(**self._market, table=table, operation="append").observe(duration_s)
        self._transactions.labels(**self._own, table=table).inc()
        self._committed_at.labels(**self._own, table=table).set_to_current_time()
        self._duplicates.labels(**self._market).inc(duplicates)

    def dead_letters(self, topic: str, count: int) -> None:
        """Count messages that cannot become rows."""
        self._dead_letters.labels(**self._own, topic=topic).inc(count)

    def error(self, kind: str) -> None:
        """Count an error of this kind."""
        self._errors.labels(**self._own, error_type=kind, consumer_group=self._group).inc()


SERVICE = {"service": "k2-platform", "environment": "dev"}


class StreamMetrics:
    """The stream's series in the default registry; make one per process."""

    def __init__(self, symbols: tuple[str, ...]) -> None:
        service = {**SERVICE, "component": "binance_stream"}
        market = {**service, "exchange": EXCHANGE, "asset_class": "crypto"}
        self._received = Counter("k2_binance_messages_received", "Trades received", [*service, "symbol"])
        self._produced = Counter(
            "k2_kafka_messages_produced", "Messages the broker has acknowledged", [*market, "topic", "data_type"]
        )
        self._failed = Counter(
            "k2_kafka_produce_errors", "Messages given up after 120 s", [*market, "topic", "error_type"]
        )
        self._connection_errors = Counter(
            "k2_binance_connection_errors", "Connections to the exchange that failed", [*service, "error_type"]
        )
        reconnects = Counter("k2_binance_reconnects", "Connections to the exchange made again", [*service, "reason"])
        status = Gauge("k2_binance_connection_status", "1 while trades can be received", list(service))
        newest = Gauge("k2_binance_last_message_timestamp_seconds", "When the newest trade was received", list(service))
        self._service = service
        self._market = market
        self.reconnects = reconnects.labels(**service, reason="connection_lost")
        self.connected = status.labels(**service)
        self.newest = newest.labels(**service)
        self.received = {symbol: self._received.labels(**service, symbol=symbol) for symbol in symbols}

    def produced(self, topic: str, count: int) -> None:
        """Count messages that the broker has acknowledged."""
        data_type = "trades" if "trades" in topic else "reference_data"
        self._produced.labels(**self._market, topic=topic, data_type=data_type).inc(count)

    def failed(self, topic: str, error: str) -> None:
        """Count a message that was given up."""
        self._failed.labels(**self._market, topic=topic, error_type=error).inc()

    def connection_error(self, error: str) -> None:
        """Count a connection to the exchange that failed."""
        self._connection_errors.labels(**self._service, error_type=error).inc()
