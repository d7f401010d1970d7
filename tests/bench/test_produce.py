from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters.kafka import actions as topics
from k2run.adapters.kafka.client import Kafka
from k2run.bench.actions import produce
from k2run.bench.thresholds import Threshold
from k2run.errors import AuthorError, Interrupted, Refused, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Duration, Rate, Size

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def topic():
    return f"t-{uuid.uuid4().hex[:8]}"


def write(platform, topic, seconds=60, **arguments):
    return produce(platform.kafka, platform.services, Deadline(seconds), topic=topic, **{"partitions": 2, **arguments})


def held(platform, topic):
    return topics.watermarks(platform.kafka, Deadline(20), topic)


def test_a_closed_loop_counts_exactly_what_the_broker_has(platform, topic):
    result = write(platform, topic, size=Size(200), iterations=20_000, watch=["broker"])
    assert (result.samples, result.errors, result.empty) == (20_000, 0, 0)
    assert held(platform, topic).total == 20_000
    assert result.bytes == 20_000 * 200
    assert result.loop == "closed"
    if not result.tardy:  # a machine that starves the generator lets it measure no latencies
        assert 0 < result.min_ms <= result.p50_ms <= result.p99_ms <= result.max_ms
    assert 20_000 / result.rate == pytest.approx(result.seconds, abs=0.0006)  # told in whole milliseconds
    assert result.used.keys() == {"broker"}


@pytest.mark.alone
def test_few_messages_on_their_way_are_acknowledged_sooner_than_many(platform, topic):
    many = write(platform, topic, size=Size(1000), during=Duration(0.5), warm_up=Duration(0.6), waiting=20_000)
    few = write(platform, topic, size=Size(1000), during=Duration(0.5), warm_up=Duration(0.6), waiting=200)
    assert few.mean_ms < many.mean_ms  # the median of many is not measured where this process was starved


def test_the_warm_up_is_written_but_not_counted(platform, topic):
    result = write(platform, topic, size=Size(100), iterations=1000, warm_up=Duration(0.7))
    assert result.samples == 1000
    assert held(platform, topic).total == 1000 + result.warm_up_messages
    assert result.warm_up_messages > 0


def test_an_open_loop_keeps_its_rate(platform, topic):
    result = write(platform, topic, size=Size(100), rate=Rate(500), during=Duration(1), warm_up=Duration(0.6))
    assert (result.loop, result.samples, result.warm_up_messages) == ("open", 500, 300)
    assert held(platform, topic).total == 800
    assert result.lateness.samples == result.samples


def _wait_for_messages(platform, topic):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(Unknown):  # the load makes its topic
            if held(platform, topic).total:
                return
        time.sleep(0.05)
    pytest.fail("the load wrote nothing in 30 s")


ALONE = """
import json, sys
from no_services import no_services
from k2run.actions.deadline import Deadline
from k2run.adapters.kafka.client import Kafka
from k2run.bench.actions import produce
from k2run.language.quantities import Duration, Rate, Size

given = json.loads(sys.argv[1])
if "rate" in given:
    given["rate"] = Rate(given["rate"])
with no_services() as services:
    print("ready", flush=True)
    met = produce(
        Kafka(bootstrap=given.pop("bootstrap")), services, Deadline(60), size=Size(100), partitions=2,
        during=Duration(2.5), warm_up=Duration(1), **given,
    )
print(json.dumps(met.plain() | {"headline": met.headline()}))
"""


@pytest.mark.alone  # the generator is held for a moment: nothing else may hold it
@pytest.mark.parametrize("load", [{"rate": 500}, {"waiting": 500}], ids=["open", "closed"])
def test_a_generator_that_stood_still_does_not_blame_the_broker(platform, topic, load):
    """Its client could neither write nor hear what the broker had said."""
    given = json.dumps({"bootstrap": platform.kafka.bootstrap, "topic": topic, **load})
    places = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    command, environment = [sys.executable, "-c", ALONE, given], {**os.environ, "PYTHONPATH": places}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "ready\n"
        _wait_for_messages(platform, topic)
        time.sleep(1.6)  # the warm-up takes one second, what is measured the next two and a half
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.6)
        process.send_signal(signal.SIGCONT)
        met = json.loads(process.communicate(timeout=60)[0])
    assert met["max_ms"] is None, met["headline"]
    assert met["tardy"] > 0
    assert "the generator" in met["generator"]
    if "rate" in load:
        assert met["p95_ms"] is None
        assert "p99 not measured" in met["headline"]


@pytest.mark.slow  # the stall has to fall into the load: a busy machine begins it too late
def test_an_open_loop_does_not_forgive_a_broker_that_stalls(platform, topic):
    broker = platform.services.backend("broker")

    def stall():
        broker.pause(Deadline(5))
        time.sleep(0.8)
        broker.resume(Deadline(5))

    stalling = threading.Timer(1.2, stall)
    stalling.start()
    result = write(platform, topic, size=Size(100), rate=Rate(200), during=Duration(2), warm_up=Duration(0.8))
    stalling.join()
    assert result.samples == 400
    assert result.p90_ms > 300  # two fifths of the messages fell into the stall
    assert result.max_ms > 700


def test_trades_carry_a_prefix_that_no_other_load_has(platform, topic):
    result = write(platform, topic, template="trade", iterations=200, processes=1)
    other = write(platform, topic, template="trade", iterations=200)
    assert result.id_prefix != other.id_prefix
    found = topics.sample(platform.kafka, Deadline(20), topic, count=1)
    assert found.messages[0].value["trade_id"].startswith(other.id_prefix)
    assert found.messages[0].key in {"BTCUSDT", "ETHUSDT", "BNBUSDT"}


def test_given_values_and_keys_take_turns(platform, topic):
    write(platform, topic, values=[{"n": 1}, "plain"], keys=["a", "b", "c"], iterations=6, partitions=1)
    found = topics.sample(platform.kafka, Deadline(20), topic, count=6, end="oldest")
    assert [message.key for message in found.messages[::-1]] == ["a", "b", "c", "a", "b", "c"]
    assert [message.value for message in found.messages[::-1]] == [{"n": 1}, "plain"] * 3


def test_several_processes_write_what_one_would(platform, topic):
    result = write(platform, topic, size=Size(100), iterations=3001, processes=2)
    assert (result.samples, result.lost_processes, result.processes) == (3001, 0, 2)
    assert held(platform, topic).total == 3001


def test_messages_that_the_broker_refuses_are_counted_by_their_reason(platform, topic):
    good = write(platform, topic, values=["x", "x" * 300_000], iterations=20, settings={"message.max.bytes": 1000})
    assert (good.samples, good.errors) == (10, 10)
    assert list(good.errors_by_class) == ["broker: message size too large"]
    with pytest.raises(Unknown, match="20 times broker: message size too large"):
        write(platform, topic, size=Size(30_000), iterations=20, settings={"message.max.bytes": 1000})


def test_a_topic_that_is_not_there_is_not_made_by_mistake(platform, topic):
    with pytest.raises(Unknown, match="there is no topic"):
        write(platform, topic, size=Size(10), iterations=5, partitions=0)


def test_what_cannot_be_written_is_refused_beforehand(platform, topic):
    with pytest.raises(AuthorError, match="one of `size`"):
        write(platform, topic, size=Size(10), template="trade")
    with pytest.raises(Refused, match="takes 10s"):
        write(platform, topic, seconds=5, size=Size(10))
    unreachable = platform._replace(kafka=Kafka(bootstrap="127.0.0.1:1"))
    with pytest.raises(Unreachable, match="no Kafka broker listens"):
        write(unreachable, topic, size=Size(10), iterations=5)


def test_the_deadline_and_a_request_to_stop_end_a_load(platform, topic):
    started = time.monotonic()
    with pytest.raises(TimedOut):
        write(platform, topic, seconds=1.5, size=Size(10), rate=Rate(10), iterations=1_000_000)
    assert time.monotonic() - started < 5
    deadline = Deadline(60)
    threading.Timer(0.5, deadline.stop.set).start()
    with pytest.raises(Interrupted):
        produce(platform.kafka, platform.services, deadline, topic=topic, size=Size(10), during=Duration(50))
    assert time.monotonic() - started < 20


def test_a_threshold_that_is_lost_ends_the_load(platform, topic):
    promised = [Threshold.parse("p90 < 0.01ms"), Threshold.parse("errors < 1%")]
    started = time.monotonic()
    result = write(platform, topic, size=Size(10), rate=Rate(100), during=Duration(20), thresholds=promised)
    assert time.monotonic() - started < 15
    assert [measure.met for measure in result.judged()] == [False, None]
