"""The consumer at work: freshness, levels, dead letters, duplicates."""

from __future__ import annotations

import json
import signal
import time

import pytest
from confluent_kafka import Producer

from k2run.k2.platform import trade

LEVEL = "k2_degradation_level"


def made(count, **fields):
    """Some trades, each with these fields replaced."""
    trades = trade.Market(["BTCUSDT"], seed=1, first_trade=1).trades(count, 10**15, 10**15 + 10**6)
    return [json.dumps(json.loads(trade.encode(one)) | fields).encode() for one in trades]


def produce(sandbox, bodies):
    """Send bodies to the trades topic, which a stream has to have made."""
    producer = Producer({"bootstrap.servers": sandbox.bootstrap})
    for body in bodies:
        producer.produce(sandbox.trades_topic, body, key="BTCUSDT")
    assert producer.flush(10) == 0


def test_a_trade_is_in_the_table_within_two_seconds(sandbox):
    sandbox.broker()
    sandbox.stream("--rate", 200)
    sandbox.consumer()
    sandbox.wait_for(lambda: sandbox.count() > 200, 30, "trades arrive")
    ages = []
    for _ in range(10):
        newest = max(sandbox.rows(columns=("timestamp",))["timestamp"].to_pylist())
        ages.append(time.time() - newest.timestamp())
        time.sleep(0.15)
    assert min(ages) < 1.0
    assert max(ages) < 2.0


def test_a_paused_consumer_degrades_sheds_recovers_and_misses_nothing(sandbox):
    sandbox.broker()
    sandbox.stream("--rate", 100)
    consumer = sandbox.consumer("--lag-scale", 0.04, "--cooldown", 4, "--batch", 4_000)  # GRACEFUL at 20,000
    sandbox.wait_for(lambda: sandbox.count() > 0, 30, "trades arrive")
    assert consumer.metric(LEVEL) == 0
    consumer.send(signal.SIGSTOP)
    sandbox.backlog(30_000)
    consumer.send(signal.SIGCONT)
    sandbox.wait_for(lambda: consumer.metric(LEVEL) == 2, 3, "the level is GRACEFUL")
    assert "System degraded old_level=NORMAL new_level=GRACEFUL lag=" in consumer.log
    reason = {"reason": "low_priority"}
    sandbox.wait_for(lambda: consumer.metric("k2_messages_shed_total", **reason) > 0, 10, "reference data is shed")
    sandbox.wait_for(lambda: consumer.metric("k2_enrichment_skipped_total") > 0, 10, "enrichment is skipped")
    sandbox.wait_for(lambda: consumer.metric(LEVEL) == 0, 20, "the level is NORMAL again")
    transitions = {"from_level": "graceful", "to_level": "normal"}
    assert consumer.metric("k2_degradation_transitions_total", **transitions) == 1
    shed, restored = "k2_messages_shed_total", "k2_messages_restored_total"
    sandbox.wait_for(lambda: consumer.metric(restored) == consumer.metric(shed), 15, "all that was shed is restored")
    assert consumer.metric("k2_messages_shed_pending") == 0
    assert consumer.metric("k2_kafka_consumer_group_lag_messages") < 1_000
    companies = sandbox.rows(sandbox.reference_table)["message_id"]
    assert len(companies) == len(companies.unique()) >= 3
    assert sandbox.ids_once()


def test_too_little_memory_degrades_a_consumer_without_lag(sandbox):
    sandbox.broker()
    sandbox.stream("--rate", 0)
    consumer = sandbox.consumer("--memory-budget-mib", 64)
    sandbox.wait_for(lambda: consumer.metric(LEVEL) == 4, 20, "the level is CIRCUIT_BREAK")
    assert consumer.metric("k2_consumer_memory_percent") > 95


def test_what_cannot_become_a_row_goes_to_the_dead_letters_and_the_rest_goes_on(sandbox):
    sandbox.broker()
    sandbox.backlog(100)
    bad = [
        b"\xff\xfe not text",
        b"{}",
        *made(1, price="cheap"),
        *made(1, quantity="0.123456789"),
        *made(1, side="MAYBE"),
    ]
    good = made(50)
    produce(sandbox, [*good[:20], *bad, *good[20:]])
    consumer = sandbox.consumer()
    sandbox.wait_for(lambda: sandbox.count() == 150, 30, "the good ones are in the table")
    sandbox.wait_for(
        lambda: consumer.metric("k2_dead_letters_total") == len(bad), 5, "they are counted with the next turn"
    )
    letters = [json.loads(line) for path in sandbox.state.glob("dlq/*.jsonl") for line in path.read_text().splitlines()]
    assert len(letters) == len(bad)
    assert {letter["metadata"]["topic"] for letter in letters} == {sandbox.trades_topic}
    assert {letter["error_type"] for letter in letters} >= {"ValidationError", "ArrowInvalid"}
    assert sum("message_base64" in letter for letter in letters) == 1


def test_a_repeated_message_is_written_once_even_across_a_restart(sandbox):
    sandbox.broker()
    sandbox.backlog(10)
    bodies = made(100)
    produce(sandbox, [*bodies, *bodies[:30]])
    consumer = sandbox.consumer()
    sandbox.wait_for(lambda: sandbox.count() == 110, 30, "the trades are in the table")
    sandbox.wait_for(lambda: consumer.metric("k2_duplicate_messages_detected_total") == 30, 5, "repeats are counted")
    consumer.kill()
    produce(sandbox, bodies)
    consumer = sandbox.consumer()
    sandbox.wait_for(lambda: consumer.metric("k2_duplicate_messages_detected_total") == 100, 30, "repeats again")
    assert sandbox.ids_once(110)


def test_a_second_consumer_with_the_same_state_is_refused(sandbox):
    sandbox.broker()
    sandbox.backlog(10)
    sandbox.consumer()
    sandbox.wait_for(lambda: sandbox.count() == 10, 30, "the first one writes")
    second = sandbox.consumer()
    assert second.process.wait(20) == 1
    assert f"error: another consumer has its files in {sandbox.state}" in second.log


def test_the_lag_is_unknown_and_not_zero_while_the_broker_is_away(sandbox):
    broker = sandbox.broker()
    sandbox.backlog(10)
    consumer = sandbox.consumer()
    lag = "k2_kafka_consumer_group_lag_messages"
    sandbox.wait_for(lambda: consumer.metric(lag) == 0, 30, "nothing is left to read")
    broker.send(signal.SIGSTOP)
    sandbox.wait_for(lambda: (value := consumer.metric(lag)) is not None and value != value, 30, "the lag is NaN")  # noqa: PLR0124  NaN is the number that is not itself
    assert consumer.metric(LEVEL) == 0
    broker.send(signal.SIGCONT)
    sandbox.wait_for(lambda: consumer.metric(lag) == 0, 30, "the lag is known again")


@pytest.mark.parametrize("name", ["broker", "stream", "consumer"])
def test_a_program_explains_its_options(sandbox, name):
    program = sandbox.run(name, "--help")
    assert program.process.wait(20) == 0
    assert "--port" in program.log or "--bootstrap" in program.log
