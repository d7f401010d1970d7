"""What the stream counts, under K2's names."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from k2run.k2.platform.trade import EXCHANGE

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
