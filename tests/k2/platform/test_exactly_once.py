"""A kill at any moment loses nothing and doubles nothing."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient

GROUP = "k2-iceberg-writer-crypto-v2"


def test_a_consumer_killed_again_and_again_writes_every_trade_once(sandbox):
    sandbox.broker()
    sandbox.backlog(30_000)
    for target in (1, 8_000, 18_000):
        consumer = sandbox.consumer("--batch", 1_500)
        sandbox.wait_for(lambda target=target: sandbox.count() >= target, 30, f"{target} rows")
        consumer.kill()
    sandbox.consumer("--batch", 1_500)
    sandbox.wait_for(lambda: sandbox.count() >= 30_000, 60, "the backlog is in the table")
    assert sandbox.ids_once(30_000)


@pytest.mark.slow
def test_a_kill_in_a_drain_of_600_000_trades_loses_and_doubles_none(sandbox):
    sandbox.broker()
    sandbox.backlog(600_000)
    consumer = sandbox.consumer()
    sandbox.wait_for(lambda: sandbox.count() > 0, 30, "the drain has begun")
    time.sleep(0.7)  # into the middle of a batch
    consumer.kill()
    assert sandbox.count() < 600_000, "the kill came too late to prove anything"
    sandbox.consumer()
    sandbox.wait_for(lambda: sandbox.count() >= 600_000, 60, "the backlog is in the table")
    assert sandbox.ids_once(600_000)


def test_trades_shed_before_a_kill_are_in_the_table_once_the_load_is_gone(sandbox):
    sandbox.broker()
    sandbox.backlog(30_000)
    # AGGRESSIVE begins at a lag of 10,000, where the trades of BNBUSDT, about one in five, are shed.
    options = ("--lag-scale", 0.01, "--cooldown", 3, "--batch", 3_000)
    consumer = sandbox.consumer(*options)
    sandbox.wait_for(lambda: (consumer.metric("k2_messages_shed_pending") or 0) > 2_000, 30, "trades are shed")
    consumer.kill()
    assert "BNBUSDT" not in sandbox.rows(columns=("symbol",))["symbol"].unique().to_pylist()
    consumer = sandbox.consumer(*options)
    sandbox.wait_for(lambda: sandbox.count() >= 30_000, 60, "the shed trades are back")
    assert sandbox.ids_once(30_000)
    sandbox.wait_for(lambda: consumer.metric("k2_messages_shed_pending") == 0, 5, "nothing is pending")
    assert not list(sandbox.state.glob("shed/trades/*"))


def test_the_group_commits_what_the_table_has(sandbox):
    sandbox.broker()
    sandbox.backlog(5_000)
    sandbox.consumer()
    sandbox.wait_for(lambda: sandbox.count() == 5_000, 30, "the trades are in the table")
    client = AdminClient({"bootstrap.servers": sandbox.bootstrap})

    def committed():
        asked = client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(GROUP)])
        found = asked[GROUP].result(5).topic_partitions
        return sum(max(0, at.offset) for at in found if at.topic == sandbox.trades_topic)

    sandbox.wait_for(lambda: committed() == 5_000, 5, "the group's offsets follow")


def test_a_consumer_that_is_told_to_stop_commits_what_it_took(sandbox):
    sandbox.broker()
    sandbox.backlog(3_000)
    consumer = sandbox.consumer("--interval", 60)
    sandbox.wait_for(lambda: "topics_opened" in consumer.log, 20, "the consumer reads")
    time.sleep(1.0)
    started = time.monotonic()
    assert consumer.stop() == 0
    assert time.monotonic() - started < 2.0
    assert sandbox.ids_once(3_000)


def test_a_broker_that_lost_everything_is_read_from_its_new_beginning(sandbox):
    broker = sandbox.broker()
    stream = sandbox.stream("--rate", 200, "--backfill", 2_000)
    consumer = sandbox.consumer()
    sandbox.wait_for(lambda: sandbox.count() > 2_000, 30, "trades arrive")
    broker.kill()
    sandbox.broker()
    sandbox.wait_for(lambda: "the topics are new" in stream.log, 60, "the stream sends to the new topics")
    before = sandbox.count()
    sandbox.wait_for(lambda: sandbox.count() > before + 400, 60, "trades arrive again")
    sandbox.wait_for(lambda: "topic_read_once_more" in consumer.log, 30, "the new topic is read once more")
    sandbox.wait_for(
        lambda: consumer.metric("k2_duplicate_messages_detected_total") > 0, 30, "what was in the table is recognised"
    )
    assert sandbox.ids_once()
    client = AdminClient({"bootstrap.servers": sandbox.bootstrap})
    assert len(client.list_topics(timeout=5).topics[sandbox.trades_topic].partitions) == 40
