from __future__ import annotations

import threading
import time

import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters.iceberg import actions as tables
from k2run.errors import AuthorError, Refused, TimedOut, Unknown, Unreachable
from k2run.k2.bench_actions import pipeline
from k2run.language.quantities import Duration, Rate

TOPIC = "market.crypto.trades.binance"
TABLE = "market_data.trades_v2"
IN_THE_API = {"service": "api", "path": "/v1/trades", "params": {"symbol": "ETHUSDT", "limit": 1000}}


def send(platform, seconds=90, **arguments):
    arguments = {"topic": TOPIC, "rate": Rate(20), "iterations": 25} | arguments
    return pipeline(platform.kafka, platform.services, Deadline(seconds), **arguments)


def rows_of(platform, prefix):
    return tables.rows(platform.iceberg, Deadline(30), TABLE, where=f"trade_id LIKE '{prefix}%'").rows


@pytest.mark.parametrize("where", [IN_THE_API, {"table": TABLE}], ids=["api", "table"])
def test_every_probe_is_seen_once_and_its_latency_has_an_error_that_is_told(platform, where):
    result = send(platform, **where, watch=["consumer"], warm_up=Duration(0.5))
    assert (result.samples, result.errors, result.lost, result.failed_looks) == (25, 0, 0, 0)
    assert rows_of(platform, result.id_prefix) == 25 + result.warm_up_probes
    assert 0 < result.min_ms <= result.p50_ms <= result.max_ms * 1.001  # a histogram keeps three digits
    assert result.p99_ms is None
    assert 0 < result.error_p50_ms <= result.error_max_ms * 1.001
    assert result.looks.samples > 0
    assert result.acknowledged.samples == 25
    assert result.acknowledged.value("p50") <= result.p50_ms
    assert "consumer" in result.used
    assert "ms too long" in result.headline()


def test_a_consumer_that_stands_still_shows_in_the_latencies(platform):
    consumer = platform.services.backend("consumer")

    def stand_still():
        consumer.pause(Deadline(5))
        time.sleep(1.5)
        consumer.resume(Deadline(5))

    thread = threading.Timer(0.5, stand_still)
    thread.start()
    try:
        result = send(platform, **IN_THE_API, rate=Rate(20), iterations=40, visible_within=Duration(60))
    finally:
        thread.join()
    assert result.samples == 40
    assert result.max_ms > 1000


def test_probes_that_nobody_takes_in_are_lost_not_fast(platform):
    consumer = platform.services.backend("consumer")
    consumer.pause(Deadline(5))
    try:
        with pytest.raises(Unknown, match=r"times not visible within 0\.3s"):
            send(platform, **IN_THE_API, iterations=5, visible_within=Duration(0.3))
    finally:
        consumer.resume(Deadline(5))


def test_what_cannot_be_looked_at_is_no_measurement(platform):
    with pytest.raises(AuthorError, match="needs a `service`, a `url` or a `table`"):
        send(platform)
    with pytest.raises(Unknown, match="there is no topic"):
        send(platform, **IN_THE_API, topic="not-there")
    with pytest.raises(Unknown, match="there is no table"):
        send(platform, table="not_there")
    with pytest.raises(Refused, match="has no list at rows"):
        send(platform, **IN_THE_API, rows="rows")
    with pytest.raises(Unreachable):
        send(platform, url="http://127.0.0.1:1/")


def test_the_deadline_ends_the_probing(platform):
    started = time.monotonic()
    with pytest.raises(TimedOut):
        send(platform, **IN_THE_API, iterations=10_000, seconds=2)
    assert time.monotonic() - started < 15


def test_a_probe_that_was_written_late_is_not_the_pipelines():
    from k2run.adapters.kafka.client import Kafka
    from k2run.bench.result import Measured
    from k2run.k2.probing import Probes, Probing

    kafka = Kafka(bootstrap="127.0.0.1:1")
    plan = Probing(kafka=kafka, topic="t", prefix="p", symbol="BTCUSDT", rate=10, every=0.2, patience=5)
    probes, now = Probes(plan), time.monotonic()
    probes.begin = now - 1
    for number in range(40):
        probes.sent(f"p{number}", now - 0.4)
    probes.seen({f"p{number}" for number in range(40)}, now + 0.1)
    met = Measured.of(probes.tally.outcome(started=40, skipped=0, seconds=1.0), "a pipeline")
    assert met.p50_ms is None
    assert met.lateness.max_ms >= 400
    assert "the generator was late by up to 4" in met.headline()
