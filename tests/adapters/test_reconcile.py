"""What was written to a topic compared with what reached a table: a real broker, a real table."""

from __future__ import annotations

import json
import uuid

import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters import reconcile
from k2run.adapters.iceberg.catalog import Iceberg
from k2run.adapters.kafka import actions as kafka
from k2run.adapters.kafka.client import Kafka, Link
from k2run.adapters.kafka.offsets import commit
from k2run.errors import Unknown

TESTED_ON = {"reconcile": "the sandbox"}


def soon() -> Deadline:
    return Deadline(20)


@pytest.fixture
def topic(broker) -> str:
    name = f"reconciled-{uuid.uuid4().hex[:8]}"
    kafka.create_topic(Kafka(bootstrap=broker.bootstrap), soon(), name)
    return name


def write(broker, topic: str, *ids: str | None) -> None:
    values = [json.dumps({"message_id": one}) if one else "no JSON" for one in ids]
    kafka.produce(Kafka(bootstrap=broker.bootstrap), soon(), topic, count=len(values), values=values)


def look(broker, warehouse, topic: str, **further) -> reconcile.Reconciled:
    return reconcile.topic(
        Kafka(bootstrap=broker.bootstrap),
        Iceberg(uri=warehouse.uri, namespace="market_data"),
        soon(),
        topic,
        "market_data.trades",
        wait=False,
        **further,
    )


def test_what_is_in_the_topic_and_not_in_the_table_is_lost(broker, warehouse, topic):
    write(broker, topic, "a", "b", "c")
    warehouse.append(1, message_id="a")
    warehouse.append(1, message_id="c")
    found = look(broker, warehouse, topic)
    assert (found.messages, found.ids, found.lost, found.some_lost, found.duplicated) == (3, 3, 1, ["b"], 0)
    assert found.headline() == "3 messages: 1 lost, 0 duplicated"


def test_a_row_that_is_there_twice_is_doubled_and_a_message_that_was_sent_twice_is_not(broker, warehouse, topic):
    write(broker, topic, "a", "a", "b")
    warehouse.append(1, message_id="a")
    warehouse.append(2, message_id="b")
    found = look(broker, warehouse, topic)
    assert (found.messages, found.ids, found.repeated, found.lost, found.duplicated) == (3, 2, 1, 0, 1)


def test_what_has_no_readable_id_is_told_apart_and_what_is_older_is_left_out(broker, warehouse, topic):
    write(broker, topic, "old", None, "a")
    warehouse.append(1, message_id="a")
    assert look(broker, warehouse, topic).unreadable == 1
    found = look(broker, warehouse, topic, after={0: 2})
    assert (found.messages, found.unreadable, found.lost) == (1, 0, 0)


def test_a_topic_without_messages_proves_nothing(broker, warehouse, topic):
    with pytest.raises(Unknown, match="no messages"):
        look(broker, warehouse, topic)


def test_what_the_group_has_read_and_the_table_lacks_is_written_again_once(broker, warehouse, topic):
    write(broker, topic, "a", "b", "c", "d")
    kafka_ = Kafka(bootstrap=broker.bootstrap)
    read = dict(kafka.watermarks(kafka_, soon(), topic).high.items())
    group = f"group-{topic}"
    link = Link(kafka_, soon())
    commit(link, group, topic, read)
    write(broker, topic, "e")  # on its way: the group has not read it
    for one in ("a", "b", "d"):
        warehouse.append(1, message_id=one)
    iceberg = Iceberg(uri=warehouse.uri, namespace="market_data")
    done = reconcile.resend(kafka_, iceberg, soon(), topic, "market_data.trades", group)
    assert (done.messages, done.resent, done.ids) == (4, 1, ["c"])
    assert look(broker, warehouse, topic).repeated == 1
