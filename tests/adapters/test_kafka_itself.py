"""The kafka actions against Apache Kafka itself, where it can be had: other brokers differ in small things."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, TopicPartition
from msgspec import structs

from k2run.actions.deadline import Deadline
from k2run.adapters import kafka as actions
from k2run.adapters._kafka.link import Kafka
from k2run.errors import Refused, Unknown, Unreachable
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("apache-kafka")]

JAAS = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_k2="right";'


def soon(seconds: float = 20) -> Deadline:
    return Deadline(seconds)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def settings(folder: Path, plain: int, guarded: int) -> str:
    controller = free_port()
    lines = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": ",".join(
            f"{name}://127.0.0.1:{port}"
            for name, port in (("PLAINTEXT", plain), ("SASL_PLAINTEXT", guarded), ("CONTROLLER", controller))
        ),
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": JAAS,
        "log.dirs": str(folder / "data"),
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "3",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "auto.create.topics.enable": "false",
    }
    return "".join(f"{name}={value}\n" for name, value in lines.items())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kafka, Kafka]]:
    """One broker in KRaft mode: its plain listener, and the one that wants a password."""
    from java_programs import KAFKA, class_path

    jars = class_path("kafka", KAFKA)
    folder = tmp_path_factory.mktemp("kafka")
    plain, guarded = free_port(), free_port()
    file = folder / "server.properties"
    file.write_text(settings(folder, plain, guarded))
    java = ["java", "-Xmx512m", f"-Dk2run.logs={folder}", "-cp", jars]
    formatting = [*java, "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", str(file)]
    subprocess.run(formatting, check=True, capture_output=True, timeout=60)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*java, "kafka.Kafka", str(file)], stdout=log, stderr=log, env=os.environ)
    try:
        patience = time.monotonic() + 40
        plainly = Kafka(bootstrap=f"127.0.0.1:{plain}")
        while True:
            with contextlib.suppress(Unreachable):
                actions.cluster(plainly, Deadline(2))
                break
            assert time.monotonic() < patience, (folder / "log").read_text()[-2000:]
            time.sleep(0.2)
        login = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN"}
        login |= {"sasl.username": "k2", "sasl.password": "right"}
        yield plainly, Kafka(bootstrap=f"127.0.0.1:{guarded}", config=login)
    finally:
        server.kill()
        server.wait()


def commit(kafka: Kafka, topic: str, group: str, offset: int) -> None:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group})
    consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    consumer.close()


def test_a_topic_from_its_making_to_its_end(cluster):
    kafka, _ = cluster
    assert len(actions.cluster(kafka, soon()).brokers) == 1
    made = actions.create_topic(kafka, soon(), "trades", partitions=3, settings={"retention.ms": 60_000})
    assert made.created
    described = actions.describe_topic(kafka, soon(), "trades")
    assert (described.partitions, described.under_replicated) == (3, 0)
    assert described.settings["retention.ms"] == "60000"
    assert actions.topics(kafka, soon()).topics["trades"] == 3
    actions.produce(kafka, soon(), "trades", count=500, template="trade", tag="real")
    assert actions.watermarks(kafka, soon(), "trades").total == 500
    sampled = actions.sample(kafka, soon(), "trades", count=3)
    assert all(message.value["trade_id"].startswith("K2RUN-real-") for message in sampled.messages)
    assert actions.rate(kafka, soon(), "trades", window=Duration(0.3)).messages == 0
    assert actions.round_trip(kafka, soon()).total_ms > 0
    with pytest.raises(Unknown, match="0 of 1 messages came"):
        actions.consume(kafka, soon(), "trades", within=Duration(0.5))
    assert actions.delete_topic(kafka, soon(), "trades").deleted


def test_the_lag_of_a_group_and_setting_it_anew(cluster):
    kafka, _ = cluster
    actions.create_topic(kafka, soon(), "lagging")
    actions.produce(kafka, soon(), "lagging", count=100, values=["x"])
    commit(kafka, "lagging", "writer", 40)
    assert actions.lag(kafka, soon(), "lagging", "writer").total == 60
    assert "writer" in actions.groups(kafka, soon()).groups
    assert actions.describe_group(kafka, soon(), "writer").members == []
    assert actions.reset_offsets(kafka, soon(), "lagging", "writer", to="earliest").lag_after == 100
    with pytest.raises(Unknown, match="nobody"):
        actions.lag(kafka, soon(), "lagging", "nobody")


def test_the_lag_of_a_thousand_partitions_takes_less_than_two_seconds(cluster):
    kafka, _ = cluster
    actions.create_topic(kafka, soon(60), "wide", partitions=1000)
    actions.produce(kafka, soon(60), "wide", count=5000, values=["x"])
    commit(kafka, "wide", "writer-wide", 0)
    took = []
    for _ in range(3):
        started = time.monotonic()
        assert actions.lag(kafka, soon(), "wide", "writer-wide").total == 5000
        took.append(time.monotonic() - started)
    assert min(took) < 2


def test_the_settings_of_the_broker_are_told_without_secrets(cluster):
    kafka, _ = cluster
    found = actions.configs(kafka, soon())
    assert found.settings["auto.create.topics.enable"] == "false"
    assert "auto.create.topics.enable" in found.changed
    assert not any("right" in value for value in found.settings.values())
    assert actions.configs(kafka, soon(), names=["num.partitions"]).settings == {"num.partitions": "1"}


def test_a_password_passes_through_and_a_wrong_one_is_told(cluster):
    kafka, guarded = cluster
    assert actions.cluster(guarded, soon()).cluster_id == actions.cluster(kafka, soon()).cluster_id
    assert actions.round_trip(guarded, soon()).total_ms > 0
    wrong = structs.replace(guarded, config={**guarded.config, "sasl.password": "wrong"})
    started = time.monotonic()
    with pytest.raises((Refused, Unreachable), match=f"{guarded.bootstrap}.*"):
        actions.cluster(wrong, Deadline(4))
    assert time.monotonic() - started < 4.5
