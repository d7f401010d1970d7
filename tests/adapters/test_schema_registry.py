"""The registry's actions, and Avro through a real broker: on the embedded platform's registry, and on Apicurio."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters.kafka import actions as kafka
from k2run.adapters.kafka.client import Kafka
from k2run.adapters.schema_registry import actions, avro
from k2run.adapters.schema_registry.client import SchemaRegistry
from k2run.errors import AuthorError, NotApplicable, Refused, TimedOut, Unknown, Unreachable
from k2run.k2.platform import schemas
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTED_ON = {
    "schema_registry": (
        "the sandbox's own registry, Apicurio's through its Confluent-compatible API, and a fake: see "
        "below; a real broker carries the messages"
    )
}

PROGRAM = Path(__file__).with_name("registry_server.py")
TRADE = {
    "type": "record",
    "name": "TradeV2",
    "namespace": "com.k2.marketdata",
    "fields": [
        {"name": "message_id", "type": "string"},
        {"name": "trade_id", "type": "string"},
        {"name": "symbol", "type": "string"},
        {"name": "exchange", "type": "string"},
        {"name": "asset_class", "type": {"type": "enum", "name": "AssetClass", "symbols": ["crypto", "equities"]}},
        {"name": "timestamp", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 8}},
        {"name": "quantity", "type": {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 8}},
        {"name": "currency", "type": "string"},
        {"name": "side", "type": {"type": "enum", "name": "Side", "symbols": ["BUY", "SELL", "UNKNOWN"]}},
        {"name": "trade_conditions", "type": {"type": "array", "items": "string"}},
        {"name": "source_sequence", "type": ["null", "long"], "default": None},
        {"name": "ingestion_timestamp", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "platform_sequence", "type": ["null", "long"], "default": None},
        {"name": "vendor_data", "type": ["null", {"type": "map", "values": "string"}], "default": None},
    ],
}
FIELDS = [field["name"] for field in TRADE["fields"]]


def soon(seconds: float = 15) -> Deadline:
    return Deadline(seconds)


def started(*options: str) -> tuple[subprocess.Popen, str]:
    process = subprocess.Popen([sys.executable, PROGRAM, *options], stdout=subprocess.PIPE, text=True)
    return process, f"http://127.0.0.1:{process.stdout.readline().strip()}"


def embedded(log: Path) -> tuple[subprocess.Popen, str]:
    """A node of the embedded platform's registry."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "k2run.k2.platform.registry", f"--port={port}", f"--state={log.parent}/schemas.db"]
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output), f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module", params=["embedded", pytest.param("apicurio", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that judges new versions by BACKWARD, as Confluent's does unless told otherwise."""
    log = tmp_path_factory.mktemp("registry") / "log"
    process, url = embedded(log) if request.param == "embedded" else apicurio(log)
    try:
        await_registry(process, url, log)
        actions.set_config(SchemaRegistry(url=url), soon(), "BACKWARD")
        yield url
    finally:
        process.kill()
        process.wait()


def apicurio(log: Path) -> tuple[subprocess.Popen, str]:
    """Apicurio's registry, which answers by Confluent's API at a path of its own."""
    from java_programs import APICURIO, unpacked

    folder = unpacked("apicurio", APICURIO)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = ["-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={port}"]
    command = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", *where, "-jar", *map(str, folder.glob("*-runner.jar"))]
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output), f"http://127.0.0.1:{port}/apis/ccompat/v7"


def await_registry(process: subprocess.Popen, url: str, log: Path) -> None:
    patience = time.monotonic() + 120
    while True:
        with contextlib.suppress(Unreachable, TimedOut):
            actions.health(SchemaRegistry(url=url), soon(2))
            return
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < patience, log.read_text()[-2000:]
        time.sleep(0.2)


@pytest.fixture
def registry(url) -> SchemaRegistry:
    return SchemaRegistry(url=url)


@pytest.fixture
def subject(registry) -> str:
    name = f"s-{uuid.uuid4().hex[:8]}-value"
    actions.register(registry, soon(), name, TRADE)
    return name


def changed(name: str, **more: object) -> dict:
    return {**TRADE, "fields": [*TRADE["fields"], {"name": name, "type": "string", **more}]}


def test_a_schema_is_registered_once_and_compared_with_the_fields_it_should_have(registry, subject):
    again = actions.register(registry, soon(), subject, TRADE)
    found = actions.schema(registry, soon(), subject, fields=[*FIELDS[:-1], "venue"])
    assert (found.version, found.id, found.type) == (1, again.id, "AVRO")
    assert found.fields == FIELDS
    assert (found.missing, found.extra) == (["venue"], ["vendor_data"])
    assert subject in actions.subjects(registry, soon(), prefix=subject[:4]).subjects


def test_a_new_field_without_a_default_is_not_compatible_and_not_registered(registry, subject):
    wrong = actions.compatible(registry, soon(), subject, changed("venue"))
    assert not wrong.compatible
    # Apicurio gives no reasons; the headline then says so.
    assert any("venue" in reason for reason in wrong.reasons) or wrong.headline().endswith("no reason given")
    with pytest.raises(Refused, match=r"409 Conflict.*incompatible"):
        actions.register(registry, soon(), subject, changed("venue"))
    assert actions.compatible(registry, soon(), subject, changed("venue", default="")).compatible
    assert actions.register(registry, soon(), subject, changed("venue", default="")).version == 2
    assert actions.schema(registry, soon(), subject, version=1).fields == FIELDS


def test_a_subject_follows_the_registrys_rule_until_it_has_its_own(registry, subject):
    # Apicurio judges by the registry's rule as well, but says NONE of a subject that has none of its own.
    followed = "NONE" if "ccompat" in registry.url else "BACKWARD"
    assert actions.config(registry, soon(), subject).compatibility == followed
    assert actions.set_config(registry, soon(), "FULL", subject).compatibility == "FULL"
    assert actions.set_config(registry, soon(), "NONE", subject).compatibility == "NONE"
    assert actions.config(registry, soon()).compatibility == "BACKWARD"


def test_what_the_registry_does_not_have_is_unknown_and_says_what(registry, subject):
    with pytest.raises(Unknown, match="no such subject"):
        actions.schema(registry, soon(), "market.crypto.trade-value")
    with pytest.raises(Unknown, match="no such version"):
        actions.schema(registry, soon(), subject, version=9)
    with pytest.raises(Unknown, match="no subject that starts with 'zz'"):
        actions.subjects(registry, soon(), prefix="zz")
    with pytest.raises(Unknown, match="no such schema"):
        actions.decode(registry, soon(), "00000f423f02")
    with pytest.raises(Refused, match=r"422 Unprocessable Entity: (Invalid schema|Failed to discover)"):
        actions.register(registry, soon(), subject, {"type": "recrod"})


def test_each_node_is_looked_at_and_a_dead_one_is_told_with_its_cause(url):
    found = actions.health(SchemaRegistry(url=url, nodes=["http://127.0.0.1:1"]), soon())
    assert (found.healthy, found.unhealthy) == (1, 1)
    assert "refused" in found.nodes[1].error
    with pytest.raises(Unreachable, match="no node of the schema registry"):
        actions.health(SchemaRegistry(url="http://127.0.0.1:1"), soon())


def test_trades_go_through_a_broker_as_avro_and_come_back_as_they_were(registry, broker):
    topic = f"avro-{uuid.uuid4().hex[:8]}"
    cluster = Kafka(bootstrap=broker.bootstrap, registry=registry)
    kafka.create_topic(cluster, soon(), topic)
    actions.register(registry, soon(), f"{topic}-value", TRADE)
    kafka.produce(cluster, soon(), topic, count=20, template="trade", format="avro", tag="avro")
    found = kafka.sample(cluster, soon(), topic, count=20)
    assert {message.key for message in found.messages} <= {"BTCUSDT", "ETHUSDT", "BNBUSDT"}
    newest = found.messages[0].value
    assert list(newest) == FIELDS
    assert newest["trade_id"].startswith("K2RUN-avro-")
    assert len(newest["price"].partition(".")[2]) == 8
    assert newest["timestamp"].endswith("+00:00")
    assert newest["source_sequence"] is None
    assert found.messages[0].schema_id == actions.schema(registry, soon(), f"{topic}-value").id
    framed = kafka.sample(Kafka(bootstrap=broker.bootstrap), soon(), topic, count=1).messages[0]
    assert framed.schema_id == found.messages[0].schema_id
    assert actions.decode(registry, soon(), framed.value).value["symbol"] == newest["symbol"]
    with pytest.raises(AuthorError, match="does not fit the schema"):
        kafka.produce(cluster, soon(), topic, values=[{"message_id": 5}], format="avro")
    with pytest.raises(NotApplicable, match="needs a schema registry"):
        kafka.produce(Kafka(bootstrap=broker.bootstrap), soon(), topic, values=[{}], format="avro")


def test_a_template_writes_by_the_schema_in_use_where_a_producer_gone_wrong_registered_a_newer_one(registry, broker):
    topic = f"rolled-back-{uuid.uuid4().hex[:8]}"
    cluster = Kafka(bootstrap=broker.bootstrap, registry=registry)
    kafka.create_topic(cluster, soon(), topic)
    used = actions.register(registry, soon(), f"{topic}-value", schemas.TRADE)
    kafka.produce(cluster, soon(), topic, count=3, template="trade", format="avro")
    assert actions.register(registry, soon(), f"{topic}-value", schemas.without(schemas.TRADE, "price")).version == 2
    for how in ("avro", "auto"):
        assert kafka.produce(cluster, soon(), topic, count=2, template="trade", format=how).acked == 2
    found = kafka.sample(cluster, soon(), topic, count=20)
    assert {message.schema_id for message in found.messages} == {used.id}


def test_a_poison_message_is_written_raw_and_told_when_it_is_read(registry, broker, subject):
    topic = f"poison-{uuid.uuid4().hex[:8]}"
    cluster = Kafka(bootstrap=broker.bootstrap, registry=registry)
    kafka.create_topic(cluster, soon(), topic)
    number = actions.schema(registry, soon(), subject).id
    kafka.produce(cluster, soon(), topic, values=[f"00{number:08x}ffffffffffffff"], format="raw")
    with pytest.raises(Refused, match="does not follow schema"):
        kafka.sample(cluster, soon(), topic)
    with pytest.raises(AuthorError, match="hexadecimal"):
        kafka.produce(cluster, soon(), topic, values=["poison"], format="raw")


def test_consume_waits_for_what_is_written_from_now_on(broker):
    topic, cluster = f"wait-{uuid.uuid4().hex[:8]}", Kafka(bootstrap=broker.bootstrap)
    kafka.create_topic(cluster, soon(), topic)
    kafka.produce(cluster, soon(), topic, values=["old"])
    writer = f"""
import time
from k2run.actions.deadline import Deadline
from k2run.adapters.kafka import actions as kafka
from k2run.adapters.kafka.client import Kafka
time.sleep(1.5)
kafka.produce(Kafka(bootstrap={broker.bootstrap!r}), Deadline(10), {topic!r}, count=4, values=["new", "other"])
"""
    process = subprocess.Popen([sys.executable, "-c", writer])
    found = kafka.consume(cluster, soon(), topic, count=2, within=Duration(12), contains="new")
    process.wait()
    assert [message.value for message in found.messages] == ["new", "new"]
    with pytest.raises(Unknown, match="0 of 1 messages arrived"):
        kafka.consume(cluster, soon(), topic, within=Duration(0.3))


def test_the_settings_of_a_broker_are_told_by_name(broker):
    cluster = Kafka(bootstrap=broker.bootstrap)
    found = kafka.configs(cluster, soon())
    assert found.settings or found.changed == []
    with pytest.raises(Unknown, match="has no setting"):
        kafka.configs(cluster, soon(), names=["num.partitoins"])


def test_what_avro_says_comes_back_as_json_has_it():
    assert avro.plain({"raw": b"\xff", "several": [(1, 2)]}) == {"raw": "ff", "several": [[1, 2]]}


def test_the_kafka_connection_finds_the_stacks_own_registry():
    class Stack:
        name = "k2"

        def settings(self, key):
            return {"kafka": {"bootstrap": "a:1"}, "schema_registry": {"url": "http://b:2"}}.get(key)

    assert Kafka.of(Stack()).registry == SchemaRegistry(url="http://b:2")


def test_a_wrong_password_a_closed_port_garbage_and_silence_each_say_what_to_look_at(speaker):
    process, guarded = started("--user", "k2", "--password", "right")
    try:
        assert actions.config(SchemaRegistry(url=guarded, user="k2", password="right"), soon()).compatibility
        with pytest.raises(Refused, match=r"credentials of connections\.schema_registry"):
            actions.subjects(SchemaRegistry(url=guarded, user="k2", password="wrong"), soon())
    finally:
        process.kill()
        process.wait()
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1.*connections\.schema_registry"):
        actions.subjects(SchemaRegistry(url="http://127.0.0.1:1"), soon())
    garbage = speaker(lambda link: link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhola"))
    with pytest.raises(Refused, match=r"does not answer like the schema registry.*connections\.schema_registry"):
        actions.subjects(SchemaRegistry(url=garbage), soon())
    silent, begun = speaker(lambda _: time.sleep(30)), time.monotonic()
    with pytest.raises(TimedOut, match="has not answered within"):
        actions.subjects(SchemaRegistry(url=silent), soon(0.5))
    assert time.monotonic() - begun < 1.0


def test_without_the_extra_a_record_is_not_read_and_it_is_said_what_to_install():
    program = """\
import sys
sys.modules["fastavro"] = None  # as if it were not installed
from k2run.actions.deadline import Deadline
from k2run.adapters.schema_registry import avro
from k2run.adapters.schema_registry.client import SchemaRegistry
from k2run.errors import NotApplicable
try:
    avro.decode(SchemaRegistry(url="http://127.0.0.1:1"), Deadline(5), bytes(5) + b"x")
except NotApplicable as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "fastavro is not installed (pip install 'k2run[avro]')\n"
