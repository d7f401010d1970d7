"""The kafka actions against Apache Kafka itself, where it can be had: other brokers differ in small things."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
from confluent_kafka import Consumer, TopicPartition
from msgspec import structs

from k2run.actions.deadline import Deadline
from k2run.adapters.kafka import actions
from k2run.adapters.kafka.client import Kafka
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


def settings(folder: Path, certificate: Path, ports: dict[str, int]) -> str:
    controller = free_port()
    protocols = {name: name for name in ports} | {"CONTROLLER": "PLAINTEXT"}
    lines = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": ",".join(
            f"{name}://127.0.0.1:{port}" for name, port in {**ports, "CONTROLLER": controller}.items()
        ),
        "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": JAAS,
        "listener.name.sasl_ssl.plain.sasl.jaas.config": JAAS,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificate),
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
def listeners(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[dict[str, Kafka]]:
    """One broker in KRaft mode: by security protocol, its listener as a client that may come in sees it."""
    from java_programs import KAFKA, class_path

    jars = class_path("kafka", KAFKA)
    folder = tmp_path_factory.mktemp("kafka")
    ports = {name: free_port() for name in ("PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL")}
    file = folder / "server.properties"
    file.write_text(settings(folder, certificate, ports))
    java = ["java", "-Xmx512m", f"-Dk2run.logs={folder}", "-cp", jars]
    formatting = [*java, "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", str(file)]
    subprocess.run(formatting, check=True, capture_output=True, timeout=60)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*java, "kafka.Kafka", str(file)], stdout=log, stderr=log, env=os.environ)
    try:
        patience = time.monotonic() + 40
        plainly = Kafka(bootstrap=f"127.0.0.1:{ports['PLAINTEXT']}")
        while True:
            with contextlib.suppress(Unreachable):
                actions.cluster(plainly, Deadline(2))
                break
            assert time.monotonic() < patience, (folder / "log").read_text()[-2000:]
            time.sleep(0.2)
        login = {"sasl.mechanism": "PLAIN", "sasl.username": "k2", "sasl.password": "right"}
        trust = {"ssl.ca.location": str(certificate)}
        further = {"PLAINTEXT": {}, "SASL_PLAINTEXT": login, "SSL": trust, "SASL_SSL": login | trust}
        yield {
            name: Kafka(bootstrap=f"127.0.0.1:{port}", config={"security.protocol": name, **further[name]})
            for name, port in ports.items()
        }
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def cluster(listeners: dict[str, Kafka]) -> tuple[Kafka, Kafka]:
    """The plain listener, and the one that wants a password."""
    return listeners["PLAINTEXT"], listeners["SASL_PLAINTEXT"]


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
    with pytest.raises(Unknown, match="0 of 1 messages arrived"):
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


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SSL", "SASL_SSL"])
def test_tls_and_a_login_pass_through_to_every_client(listeners, protocol):
    kafka, plain = listeners[protocol], listeners["PLAINTEXT"]
    topic = f"through-{protocol.lower()}"
    assert actions.cluster(kafka, soon()).cluster_id == actions.cluster(plain, soon()).cluster_id
    assert actions.create_topic(kafka, soon(), topic, partitions=3).created
    assert actions.produce(kafka, soon(), topic, count=200, values=["x"]).acked == 200
    assert actions.watermarks(plain, soon(), topic).total == 200
    commit(plain, topic, "through", 0)
    assert actions.lag(kafka, soon(), topic, "through").total == 200
    assert actions.sample(kafka, soon(), topic, count=3).messages
    assert actions.round_trip(kafka, soon()).total_ms > 0


class Wrong(NamedTuple):
    """A listener, what is set wrongly for it, and what the error says and hints at."""

    listener: str
    config: dict[str, str]
    said: str
    setting: str


WRONG = {
    "the password": Wrong("SASL_SSL", {"sasl.password": "wrong"}, "Authentication failed", "sasl.password"),
    "the password, without TLS": Wrong(
        "SASL_PLAINTEXT", {"sasl.password": "wrong"}, "Authentication failed", "sasl.password"
    ),
    "the mechanism": Wrong("SASL_SSL", {"sasl.mechanism": "SCRAM-SHA-256"}, "mechanism", "sasl.mechanism"),
    "the authority": Wrong("SSL", {"ssl.ca.location": "OTHER"}, "certificate verify failed", "ssl.ca.location"),
    "no file with the authority": Wrong("SSL", {"ssl.ca.location": "/nowhere.pem"}, "ssl.ca.location", "kafka.config"),
    "no TLS where it is wanted": Wrong("SSL", {"security.protocol": "PLAINTEXT"}, "", "security.protocol"),
    "TLS where there is none": Wrong("PLAINTEXT", {"security.protocol": "SSL"}, "", "security.protocol"),
    "a login where none is taken": Wrong(
        "PLAINTEXT",
        {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "a", "sasl.password": "b"},
        "",
        "kafka.config",
    ),
    "no login where one is wanted": Wrong(
        "SASL_PLAINTEXT", {"security.protocol": "PLAINTEXT"}, "", "security.protocol"
    ),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_keeps_a_client_out_is_told_with_the_setting_to_look_at(listeners, wrong, other_authority):
    kafka = listeners[wrong.listener]
    config = {name: str(other_authority) if value == "OTHER" else value for name, value in wrong.config.items()}
    kafka = structs.replace(kafka, config={**kafka.config, **config})
    for act in (
        lambda limit: actions.cluster(kafka, limit),
        lambda limit: actions.lag(kafka, limit, "some", "body"),
        lambda limit: actions.produce(kafka, limit, "some", count=1, values=["x"]),
        lambda limit: actions.sample(kafka, limit, "some", count=1),
    ):
        started = time.monotonic()
        with pytest.raises((Refused, Unreachable)) as told:
            act(Deadline(2))
        assert time.monotonic() - started < 2.5
        said = told.value.message + " " + told.value.hint
        assert kafka.bootstrap in said
        assert wrong.said in said
        assert wrong.setting in said
        assert "right" not in said


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of a client that the broker does not know."""
    folder = tmp_path_factory.mktemp("other")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=other"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem"
