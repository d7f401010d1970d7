"""What the stream sends, at which rate, and how it behaves as a process."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections import Counter
from decimal import Decimal
from itertools import pairwise

import pytest
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from k2run.k2.platform import stream, trade

FIELDS = [
    "message_id", "trade_id", "symbol", "exchange", "asset_class", "timestamp", "price", "quantity", "currency", "side",
    "trade_conditions", "source_sequence", "ingestion_timestamp", "platform_sequence", "vendor_data",
]  # fmt: skip


def messages(sandbox, count, topic="market.crypto.trades.binance", partitions=40):
    """At least `count` messages of a topic, from its beginning."""
    consumer = Consumer({"bootstrap.servers": sandbox.bootstrap, "group.id": "test", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    found = []
    sandbox.wait_for(lambda: found.extend(consumer.consume(5_000, 0.2)) or len(found) >= count, 20, f"{count} messages")
    consumer.close()
    return found


def test_trades_have_k2s_fields_in_k2s_order(sandbox):
    sandbox.broker()
    sandbox.stream()
    for message in messages(sandbox, 50):
        body = json.loads(message.value())
        assert list(body) == FIELDS
        assert message.key().decode() == body["symbol"]
        assert body["trade_id"].startswith("BINANCE-")
        assert abs(body["timestamp"] / 1e6 - time.time()) < 60
        for number in (Decimal(body["price"]), Decimal(body["quantity"])):
            assert number > 0
            assert -number.as_tuple().exponent <= 8
    topics = AdminClient({"bootstrap.servers": sandbox.bootstrap}).list_topics(timeout=5).topics
    assert len(topics["market.crypto.trades.binance"].partitions) == 40
    assert len(topics["market.crypto.reference_data.binance"].partitions) == 1


def test_reference_data_trickles_beside_the_trades(sandbox):
    sandbox.broker()
    sandbox.stream("--symbols", "BTCUSDT,ETHUSDT")
    first, second = messages(sandbox, 2, "market.crypto.reference_data.binance", partitions=1)[:2]
    assert [json.loads(m.value())["symbol"] for m in (first, second)] == ["BTCUSDT", "ETHUSDT"]
    assert json.loads(first.value())["company_name"] == "Bitcoin / Tether"


def test_a_backfill_spreads_its_trades_over_the_past_twenty_minutes(sandbox):
    sandbox.broker()
    sandbox.backlog(5_000)
    times = sorted(json.loads(m.value())["timestamp"] / 1e6 for m in messages(sandbox, 5_000))
    assert len(times) == 5_000
    assert 19 * 60 < times[-1] - times[0] <= 20 * 60
    assert times[-1] <= time.time()
    assert max(later - earlier for earlier, later in pairwise(times)) < 1.0


def test_the_rate_holds_and_a_stream_that_was_held_up_does_not_make_up_for_it(sandbox):
    sandbox.broker()
    stream = sandbox.stream("--rate", 500)
    produced = "k2_kafka_messages_produced_total"
    sandbox.wait_for(lambda: (stream.metric(produced, data_type="trades") or 0) > 0, 20, "trades are produced")
    before, started = stream.metric(produced, data_type="trades"), time.monotonic()
    time.sleep(2.0)
    rate = (stream.metric(produced, data_type="trades") - before) / (time.monotonic() - started)
    assert rate == pytest.approx(500, rel=0.25)

    before = stream.metric(produced, data_type="trades")
    stream.send(signal.SIGSTOP)
    time.sleep(3.0)
    stream.send(signal.SIGCONT)
    time.sleep(0.5)
    # One second's arrears and what is due since: far from the 1,750 a catch-up would bring.
    assert stream.metric(produced, data_type="trades") - before < 1_200


def test_the_log_tells_of_every_hundredth_trade_and_metrics_of_all(sandbox):
    sandbox.broker()
    stream = sandbox.stream("--rate", 400)
    sandbox.wait_for(lambda: "trades_streamed=200" in stream.log, 20, "two hundred trades")
    assert "streaming_progress trades_streamed=100 errors=0 symbol=" in stream.log
    assert "Streamed 100 trades (errors: 0) | Last: " in stream.log
    assert stream.metric("k2_binance_connection_status") == 1
    assert time.time() - stream.metric("k2_binance_last_message_timestamp_seconds") < 5
    assert stream.metric("k2_binance_messages_received_total") >= 200
    assert stream.metric("k2_binance_messages_received_total", symbol="BTCUSDT") > 0
    started = time.monotonic()
    assert stream.stop() == 0
    assert time.monotonic() - started < 2.0
    assert stream.log.rstrip().endswith("stream_stopped undelivered=0")


def test_a_recorded_file_is_replayed_as_it_is(sandbox, tmp_path):
    trades = list(trade.Market(["BTCUSDT"], seed=1, first_trade=1).trades(20, 0, 20_000_000))
    recorded = tmp_path / "trades.jsonl"
    recorded.write_bytes(b"\n".join(trade.encode(one) for one in trades))
    sandbox.broker()
    stream = sandbox.stream("--source", f"replay:{recorded}")
    assert [m.value() for m in messages(sandbox, 20)] == [trade.encode(one) for one in trades]
    sandbox.wait_for(lambda: "replay_finished" in stream.log, 10, "the file has ended")


def test_a_recorded_line_that_is_no_trade_is_named(sandbox, tmp_path):
    recorded = tmp_path / "trades.jsonl"
    recorded.write_text('{"symbol": "BTCUSDT"}\n')
    sandbox.broker()
    stream = sandbox.stream("--source", f"replay:{recorded}")
    assert stream.process.wait(15) == 1
    assert f"error: {recorded}:1: not a trade: " in stream.log


def test_a_metrics_port_in_use_is_one_line_that_names_it(sandbox):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        stream = sandbox.run("stream", metrics_port=port)
        assert stream.process.wait(10) == 1
    assert stream.log.strip() == f"error: port {port} is already in use"


def test_a_stream_waits_for_a_broker_that_starts_later(sandbox):
    stream = sandbox.stream()
    time.sleep(1.5)
    assert stream.process.poll() is None
    sandbox.broker()
    sandbox.wait_for(lambda: "trades_streamed=100" in stream.log, 15, "trades are streamed")


def test_the_same_seed_gives_the_same_market_under_other_identities():
    one, other = (list(trade.Market(["A", "B"], 7, 1).trades(100, 0, 1_000)) for _ in range(2))
    assert [(t.symbol, t.price, t.quantity, t.side) for t in one] == [
        (t.symbol, t.price, t.quantity, t.side) for t in other
    ]
    assert not {t.message_id for t in one} & {t.message_id for t in other}


def test_an_event_of_the_exchange_becomes_a_trade_of_k2():
    event = stream.Event(1_700_000_000_123, "BTCUSDT", 42, 1_700_000_000_100, maker=True, p="94000.01", q="0.5")
    made = stream.to_trade(event)
    assert (made.trade_id, made.timestamp, made.side) == ("BINANCE-42", 1_700_000_000_100_000, "SELL")
    assert json.loads(bytes(made.vendor_data)) == {
        "is_buyer_maker": "true",
        "event_type": "trade",
        "event_time": "1700000000123",
        "trade_time": "1700000000100",
        "base_asset": "BTC",
        "quote_asset": "USDT",
        "is_best_match": "true",
    }


def test_reconnections_wait_longer_and_longer_ten_times():
    assert list(stream.delays()) == [5, 10, 20, 40, 60, 60, 60, 60, 60, 60]


def test_what_a_broker_refuses_that_has_forgotten_the_producer_is_sent_by_another(sandbox):
    class Metrics:
        def __init__(self):
            self.counts = Counter()

        def produced(self, topic, count):
            self.counts[topic] += count

    sandbox.broker()
    keeper, metrics = stream.TopicKeeper(sandbox.bootstrap, threading.Event()), Metrics()
    sandbox.wait_for(keeper.ready, 20, "the topics are made")
    way = stream.TradeProducer(sandbox.bootstrap, keeper, metrics)
    refused = Message(topic=trade.TOPIC, key=b"BTCUSDT", value=b"{}")
    way._settled(KafkaError(KafkaError.UNKNOWN_PRODUCER_ID), refused)  # what librdkafka calls; it is rare, and a race
    way.settle()
    assert way.close(10) == 0
    assert way.errors == 0
    assert metrics.counts[trade.TOPIC] == 1
    assert [message.value() for message in messages(sandbox, 1)] == [b"{}"]
