from __future__ import annotations

import contextlib

import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters.kafka import actions as topics
from k2run.errors import AuthorError, TimedOut, Unknown
from k2run.k2.bench_actions import ingest
from k2run.language.quantities import Duration

TOPIC = "market.crypto.trades.binance"
PIPE = {"topic": TOPIC, "group": "k2-iceberg-writer-crypto-v2", "table": "trades_v2"}


def drain(platform, seconds=120, **arguments):
    return ingest(platform.kafka, platform.iceberg, platform.services, Deadline(seconds), **(PIPE | arguments))


def drain_the_first_that_lasts(platform, **arguments):
    """A backlog that the consumer drains while it is written says so, and wants to be larger."""
    # All below the lag at which the consumer begins to put trades off.
    for backlog in (20_000, 40_000, 80_000):
        with contextlib.suppress(Unknown):
            return drain(platform, backlog=backlog, **arguments)
    pytest.fail("the consumer is faster than the producer")


def test_a_backlog_becomes_rows_and_each_message_is_there_once(platform):
    result = drain_the_first_that_lasts(platform, watch=["consumer"])
    assert result.written in {20_000, 40_000, 80_000}
    assert (result.in_table, result.missing, result.doubled) == (result.written, 0, 0)
    assert 0 < result.messages <= result.rows
    assert result.rows + result.rows_meanwhile >= result.written
    assert result.rate == pytest.approx(result.rows / result.seconds, rel=0.01)
    assert result.error_ms > 0
    assert "none missing, none twice" in result.headline()
    assert result.used.keys() == {"consumer"}


def test_what_a_held_consumer_is_behind_is_drained_without_a_backlog(platform):
    consumer = platform.services.backend("consumer")
    consumer.pause(Deadline(5))
    try:
        topics.produce(platform.kafka, Deadline(60), TOPIC, count=5000, template="trade", tag="held")
        with pytest.raises(TimedOut, match="messages are left"):
            drain(platform, seconds=8, backlog=0)
    finally:
        consumer.resume(Deadline(5))
    with pytest.raises(Unknown, match="no consumer group"):
        drain(platform, group="k2-iceberg-writer")
    with pytest.raises(Unknown, match="there is no table"):
        drain(platform, table="trades_v9")
    with pytest.raises(AuthorError):
        drain(platform, backlog=-1)


def test_a_backlog_that_is_gone_before_the_clock_starts_is_no_measurement(platform):
    topics.create_topic(platform.kafka, Deadline(20), "read-by-nobody")
    with pytest.raises(Unknown, match="nothing was left"):
        drain(platform, topic="read-by-nobody", backlog=0, every=Duration(0.05))
