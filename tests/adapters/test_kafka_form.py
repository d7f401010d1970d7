"""What is written to a topic has the form of what is in it: its readers can read nothing else."""

from __future__ import annotations

import json
import time
import uuid

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.actions.deadline import Deadline
from k2run.adapters.kafka import actions, offsets
from k2run.adapters.kafka.client import Kafka, Link
from k2run.adapters.kafka.form import Form, form_of
from k2run.bench.produce import produce as bench_produce
from k2run.errors import Refused, RunbookInvalid
from k2run.language.loader import parse_runbook
from k2run.language.quantities import Size

FRAMED = (b"\0" + (7).to_bytes(4, "big") + b"\x06BTC").hex()
GIVEN = {
    Form.FRAMED: {"values": [FRAMED], "format": "raw"},
    Form.JSON: {"values": [{"symbol": "BTCUSDT"}]},
    Form.OTHER: {"values": ["2026-11-29 a line of a log"]},
}


def soon() -> Deadline:
    return Deadline(20)


@pytest.fixture
def kafka(broker) -> Kafka:
    return Kafka(bootstrap=broker.bootstrap)


@pytest.fixture
def topic(kafka) -> str:
    name = f"t-{uuid.uuid4().hex[:8]}"
    actions.create_topic(kafka, soon(), name, partitions=4)
    return name


def count(kafka: Kafka, topic: str) -> int:
    return sum(span.high - span.low for span in offsets.spans(Link(kafka, soon()), topic).values())


@pytest.mark.parametrize("there", Form)
@pytest.mark.parametrize("own", Form)
def test_only_the_form_of_a_topic_is_written_to_it(kafka, topic, there, own):
    actions.produce(kafka, soon(), topic, count=3, **GIVEN[there])
    if own is there:
        assert actions.produce(kafka, soon(), topic, count=2, **GIVEN[own]).acked == 2
        return
    with pytest.raises(Refused, match="nothing was written: the newest messages of") as caught:
        actions.produce(kafka, soon(), topic, count=2, **GIVEN[own])
    assert there in caught.value.message
    assert f"this would be {own}" in caught.value.message
    assert ("(schema id 7)" in caught.value.message) == (there is Form.FRAMED)
    assert count(kafka, topic) == 3


def test_the_600000_trades_of_the_demo_day_are_not_written_into_an_avro_topic(kafka, topic):
    actions.produce(kafka, soon(), topic, count=40, **GIVEN[Form.FRAMED])
    with pytest.raises(Refused, match="and this would be JSON") as caught:
        actions.produce(kafka, soon(), topic, count=600_000, template="trade")
    assert "format: avro" in caught.value.hint
    assert count(kafka, topic) == 40


def test_a_load_is_refused_likewise(kafka, topic):
    from k2run.stack.services import Services

    actions.produce(kafka, soon(), topic, count=3, **GIVEN[Form.JSON])
    with pytest.raises(Refused, match="nothing was written"):
        bench_produce(kafka, Services(stack=None), soon(), topic, size=Size(100), iterations=10)  # type: ignore[arg-type]
    assert count(kafka, topic) == 3


def test_one_bad_message_among_the_newest_does_not_close_a_topic(kafka, topic):
    from confluent_kafka import Producer

    actions.produce(kafka, soon(), topic, count=20, **GIVEN[Form.JSON])
    time.sleep(0.01)
    bad = Producer({"bootstrap.servers": kafka.bootstrap})
    bad.produce(topic, b"{not json")
    bad.flush(10)
    assert actions.produce(kafka, soon(), topic, count=1, **GIVEN[Form.JSON]).acked == 1


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (json.dumps({"a": 1}).encode(), Form.JSON),
        (b"[1]", Form.JSON),
        (b"\0\0\0\0\1x", Form.FRAMED),
        (b"\0\0\0", Form.OTHER),
        (b"plain", Form.OTHER),
        (b"\xff\xfe", Form.OTHER),
        (b"[" * 100_000, Form.OTHER),
    ],
)
def test_the_form_of_a_value_is_seen_in_its_bytes(value, form):
    assert form_of(value) is form


def test_a_template_that_does_not_exist_is_told_with_the_nearest_one() -> None:
    text = "runbook: 1\nkind: readiness\nsections:\n  - steps:\n      - kafka.produce: {topic: t, template: traed}\n"
    with pytest.raises(RunbookInvalid) as error:
        parse_runbook(text, "runbook.yaml", Catalogue())
    [problem] = error.value.problems
    assert (problem.code, problem.message, problem.hint) == (
        "K304",
        "there is no template 'traed'",
        "did you mean `trade`?",
    )
