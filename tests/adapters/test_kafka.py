"""The kafka actions against a real broker, and against things that are none."""

from __future__ import annotations

import signal
import socket
import threading
import time
import uuid
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from k2run.actions.catalogue import Catalogue
from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.adapters.kafka import actions, offsets, transfer
from k2run.adapters.kafka.client import Kafka, Link
from k2run.errors import AuthorError, Interrupted, Refused, TimedOut, Unknown, Unreachable
from k2run.language.json_schema import JsonSchema
from k2run.language.quantities import Duration, Rate

if TYPE_CHECKING:
    from collections.abc import Callable

TESTED_ON = {"kafka": "the Tansu broker; Apache Kafka 3.9 in KRaft mode, plain, with SASL, over TLS, and with both"}


def soon(seconds: float = 20) -> Deadline:
    return Deadline(seconds)


@pytest.fixture
def kafka(broker) -> Kafka:
    return Kafka(bootstrap=broker.bootstrap)


@pytest.fixture
def topic(kafka) -> str:
    name = f"t-{uuid.uuid4().hex[:8]}"
    actions.create_topic(kafka, soon(), name, partitions=4)
    return name


def produce(kafka: Kafka, topic: str, count: int, **arguments):
    return actions.produce(kafka, soon(), topic, count=count, template="trade", **arguments)


def test_every_kafka_action_describes_itself_and_each_of_its_arguments():
    found = [action for action in Catalogue().all() if action.name.startswith("kafka.")]
    assert len(found) == 17
    for action in found:
        assert action.connections == (Kafka,)
        assert action.summary.endswith((".", "unknown.", ":")), action.name
        for argument in action.arguments.__struct_encode_fields__:
            assert f"{argument}: " in action.doc, (action.name, argument)


def test_the_connection_is_what_the_stack_file_says():
    class Stack:
        name = "prod"

        def settings(self, key):
            return {"bootstrap": "a:1,b:2", "config": {"security.protocol": "SSL"}} if key == "kafka" else None

    assert issubclass(Kafka, Connection)
    assert Kafka.of(Stack()) == Kafka(bootstrap="a:1,b:2", config={"security.protocol": "SSL"})


def test_a_cluster_that_answers_tells_its_brokers(kafka, broker):
    found = actions.cluster(kafka, soon())
    assert [each.address for each in found.brokers] == [broker.bootstrap]
    assert found.elapsed_ms > 0
    assert found.source == f"kafka {broker.bootstrap}"


def test_a_topic_is_made_once_described_and_deleted(kafka):
    name = f"life-{uuid.uuid4().hex[:8]}"
    settings = {"retention.ms": 60000}
    assert actions.create_topic(kafka, soon(), name, partitions=3, settings=settings).created
    assert not actions.create_topic(kafka, soon(), name, partitions=3).created
    assert actions.topics(kafka, soon()).topics[name] == 3
    described = actions.describe_topic(kafka, soon(), name)
    assert (described.partitions, described.leaderless, described.settings["retention.ms"]) == (3, 0, "60000")
    assert actions.delete_topic(kafka, soon(), name).deleted
    assert name not in actions.topics(kafka, soon()).topics


def test_a_topic_with_other_partitions_is_not_taken_for_the_wanted_one(kafka, topic):
    with pytest.raises(Refused, match="with 4 partitions instead of 5"):
        actions.create_topic(kafka, soon(), topic, partitions=5)


def test_a_mistyped_topic_is_unknown_and_the_nearest_name_is_offered(kafka, topic):
    wrong = topic[:-1] + "_"
    for action in (actions.watermarks, actions.describe_topic, actions.sample, actions.delete_topic):
        with pytest.raises(Unknown, match=topic):
            action(kafka, soon(), wrong)
    with pytest.raises(Unknown):
        actions.produce(kafka, soon(), wrong, values=["x"])
    assert wrong not in actions.topics(kafka, soon()).topics, "looking must not create"


def test_deleting_what_is_not_there_is_fine_only_when_said_so(kafka):
    assert not actions.delete_topic(kafka, soon(), "never-was", missing_ok=True).deleted
    with pytest.raises(Unknown):
        actions.delete_topic(kafka, soon(), "never-was")


def test_an_empty_topic_holds_nothing_and_has_nothing_to_sample(kafka, topic):
    assert actions.watermarks(kafka, soon(), topic).total == 0
    with pytest.raises(Unknown, match="holds no messages"):
        actions.sample(kafka, soon(), topic)


@pytest.mark.parametrize("count", [1, 7, 5000])
def test_watermarks_count_every_message_whatever_the_size_of_the_last_batch(kafka, topic, count):
    produced = produce(kafka, topic, count)
    marks = actions.watermarks(kafka, soon(), topic)
    assert marks.total == marks.written == produced.acked == count
    assert {n: last + 1 for n, last in produced.last_offsets.items()} == marks.high


def test_produced_trades_have_the_fields_of_k2_and_ids_of_their_own(kafka, topic):
    produced = produce(kafka, topic, 50, tag="run 7/a")
    again = produce(kafka, topic, 50, tag="run 7/a")
    assert produced.id_prefix.startswith("K2RUN-run-7-a-")
    assert produced.id_prefix != again.id_prefix
    found = [message.value for message in actions.sample(kafka, soon(), topic, count=100).messages]
    assert len({trade["message_id"] for trade in found}) == 100
    assert all(uuid.UUID(trade["message_id"]).version == 4 for trade in found)
    assert sum(trade["trade_id"].startswith(produced.id_prefix) for trade in found) == 50
    assert list(found[0]) == [
        *("message_id", "trade_id", "symbol", "exchange", "asset_class", "timestamp", "price", "quantity", "currency"),
        *("side", "trade_conditions", "source_sequence", "ingestion_timestamp", "platform_sequence", "vendor_data"),
    ]


def test_the_value_of_each_message_conforms_to_a_schema_or_every_violation_is_told(kafka, topic):
    actions.produce(kafka, soon(), topic, values=[{"price": 1}, {"price": 0}], count=2, keys=["k"])
    schema = JsonSchema.parse({"properties": {"price": {"exclusiveMinimum": 0}}})
    with pytest.raises(Refused, match=r"1 violation: partition \d, offset 1: \$\.price: is 0, not more than 0"):
        actions.sample(kafka, soon(), topic, conforms_to=schema)
    assert actions.sample(kafka, soon(), topic, conforms_to=JsonSchema.parse({"required": ["price"]})).count == 2


def test_a_trade_is_keyed_by_its_symbol(kafka, topic):
    produce(kafka, topic, 20, symbols=["ADAUSDT"])
    found = actions.sample(kafka, soon(), topic, count=20).messages
    assert {message.key for message in found} == {message.value["symbol"] for message in found} == {"ADAUSDT"}
    assert len({message.partition for message in found}) == 1


def test_values_and_keys_go_round_and_what_is_not_text_becomes_json(kafka, topic):
    actions.produce(kafka, soon(), topic, count=4, values=[{"a": 1}, "plain"], keys=["k"])
    found = actions.sample(kafka, soon(), topic, count=10).messages
    assert [message.value for message in reversed(found)] == [{"a": 1}, "plain", {"a": 1}, "plain"]
    assert {message.key for message in found} == {"k"}


def test_a_sample_can_be_taken_from_either_end(kafka, topic):
    actions.produce(kafka, soon(), topic, count=9, values=list(range(9)), keys=["k"])
    newest = actions.sample(kafka, soon(), topic, count=2)
    assert [message.value for message in newest.messages] == [8, 7]
    assert 0 <= newest.newest_age_s < 20
    oldest = actions.sample(kafka, soon(), topic, count=2, end="oldest")
    assert [message.value for message in oldest.messages] == [1, 0]


def fetching() -> set[str]:
    """The threads by which librdkafka speaks to brokers in this process."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # one that ends meanwhile
            if (task / "comm").read_text().startswith("rdk:"):
                found.add(task.name)
    return found


def test_nothing_fetches_any_more_from_a_topic_that_was_read(kafka, topic, monkeypatch):
    produce(kafka, topic, 10)
    monkeypatch.setattr("k2run.adapters.kafka.client.CLOSE_S", 0.0)  # how long a broker that has gone is waited for
    link = Link(kafka, soon())
    spans = {number: span for number, span in offsets.spans(link, topic).items() if span.high}
    before = fetching()
    assert len(list(transfer.between(link, topic, spans))) == 10
    assert fetching() <= before


def test_a_load_keeps_to_its_rate(kafka, topic):
    started = time.monotonic()
    produced = produce(kafka, topic, 300, rate=Rate(400))
    assert produced.acked == 300
    assert time.monotonic() - started > 0.7
    assert produced.per_s < 450


@pytest.mark.slow
def test_a_backlog_of_trades_is_written_fast(kafka, topic):
    produced = produce(kafka, topic, 200_000)
    assert produced.acked == 200_000
    # Measured alone at 140,000 to 200,000/s; the bound leaves room for a busy machine.
    assert produced.per_s > 40_000


def test_a_load_that_does_not_fit_its_time_stops_and_says_how_far_it_came(kafka, topic):
    started = time.monotonic()
    with pytest.raises(TimedOut, match=r"messages of topic .* were acknowledged"):
        actions.produce(kafka, Deadline(1.5), topic, count=10**7, template="trade")
    assert time.monotonic() - started < 2.5
    time.sleep(0.3)
    before = actions.watermarks(kafka, soon(), topic).total
    time.sleep(0.3)
    assert actions.watermarks(kafka, soon(), topic).total == before, "nothing is written after the step has ended"


def test_a_run_that_is_asked_to_end_stops_a_load_at_once(kafka, topic):
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        actions.produce(kafka, Deadline(60, stop), topic, count=10**6, template="trade", rate=Rate(1000))
    assert time.monotonic() - started < 2


def test_a_load_needs_either_a_template_or_values(kafka, topic):
    for arguments in ({}, {"template": "trade", "values": ["x"]}, {"values": ["x"], "count": 0}):
        with pytest.raises(AuthorError, match=r"kafka\.produce needs"):
            actions.produce(kafka, soon(), topic, **arguments)


def test_the_rate_of_a_topic_is_what_is_written_to_it(kafka, topic):
    found = []
    look = threading.Thread(target=lambda: found.append(actions.rate(kafka, soon(), topic, window=Duration(2.5))))
    look.start()
    time.sleep(0.5)
    produce(kafka, topic, 300)
    look.join()
    assert found[0].messages == 300
    assert found[0].per_s == pytest.approx(300 / found[0].window_s)
    assert 2.5 <= found[0].window_s < 3.5
    assert 1 <= found[0].busy_partitions <= 3


def test_a_topic_at_rest_has_a_rate_of_zero(kafka, topic):
    produce(kafka, topic, 10)
    assert actions.rate(kafka, soon(), topic, window=Duration(0.1)).per_s == 0


def test_lag_is_what_a_group_has_not_read_yet(kafka, topic):
    produce(kafka, topic, 1000)
    group = f"g-{topic}"
    assert actions.reset_offsets(kafka, soon(), topic, group, to="latest").lag_before is None
    assert actions.lag(kafka, soon(), topic, group).total == 0
    produce(kafka, topic, 250)
    lag = actions.lag(kafka, soon(), topic, group)
    assert lag.total == sum(lag.by_partition.values()) == 250
    assert lag.worst == max(lag.by_partition.values())


def test_a_partition_never_committed_counts_from_its_start(kafka, topic):
    produce(kafka, topic, 600)
    group = f"g-{topic}"
    filled = actions.watermarks(kafka, soon(), topic).high
    one = next(iter(filled))
    offsets.commit(Link(kafka, soon()), group, topic, {one: filled[one]})
    lag = actions.lag(kafka, soon(), topic, group)
    assert lag.committed_partitions == 1
    assert lag.total == 600 - filled[one]


def test_the_lag_of_a_group_that_nobody_used_is_unknown_not_everything(kafka, topic):
    produce(kafka, topic, 10)
    actions.reset_offsets(kafka, soon(), topic, "writer-group")
    with pytest.raises(Unknown, match="writer-group"):
        actions.lag(kafka, soon(), topic, "writer-grup")


def test_offsets_of_an_earlier_life_of_a_topic_are_unknown_not_a_negative_lag(kafka, topic):
    produce(kafka, topic, 100)
    group = f"g-{topic}"
    actions.reset_offsets(kafka, soon(), topic, group)
    actions.delete_topic(kafka, soon(), topic)
    actions.create_topic(kafka, soon(), topic, partitions=4)
    offsets.commit(Link(kafka, soon()), group, topic, {0: 100})
    with pytest.raises(Unknown, match="recreated"):
        actions.lag(kafka, soon(), topic, group)


def test_a_group_can_be_set_back_to_a_moment(kafka, topic):
    produce(kafka, topic, 30)
    time.sleep(1.2)
    produce(kafka, topic, 20)
    group = f"g-{topic}"
    assert actions.reset_offsets(kafka, soon(), topic, group, to="earliest").lag_after == 50
    # Brokers look a time up by batch, which may bring a little more but never less.
    assert 20 <= actions.reset_offsets(kafka, soon(), topic, group, ago=Duration(1)).lag_after <= 50


def test_groups_are_listed_and_described(kafka, topic):
    group = f"g-{topic}"
    actions.reset_offsets(kafka, soon(), topic, group)
    assert group in actions.groups(kafka, soon()).groups
    assert actions.describe_group(kafka, soon(), group).state == "empty"
    with pytest.raises(Unknown):
        actions.describe_group(kafka, soon(), "nobody")


def test_a_group_with_members_is_not_reset_under_their_feet(kafka, topic):
    from confluent_kafka import Consumer

    group = f"g-{topic}"
    session = {"session.timeout.ms": 3000, "heartbeat.interval.ms": 600}
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group, **session})
    consumer.subscribe([topic])
    try:
        patience = time.monotonic() + 10
        while not consumer.assignment() and time.monotonic() < patience:
            consumer.poll(0.1)
        with pytest.raises(Refused) as refused:
            actions.reset_offsets(kafka, soon(), topic, group)
        assert "stop its consumers" in refused.value.hint
    finally:
        consumer.close()


def test_a_round_trip_proves_that_the_cluster_works(kafka):
    found = actions.round_trip(kafka, soon())
    assert found.total_ms == pytest.approx(found.write_ms + found.read_ms)
    assert found.total_ms < 2000


def test_lag_over_a_thousand_partitions_is_exact_and_asks_no_more_than_over_one(kafka, monkeypatch):
    asked: list[str] = []
    ask = Link.ask
    monkeypatch.setattr(
        Link, "ask", lambda link, request, *args: asked.append(request.__name__) or ask(link, request, *args)
    )
    requests = []
    for partitions in (1, 1000):
        name = f"wide-{uuid.uuid4().hex[:8]}"
        actions.create_topic(kafka, soon(), name, partitions=partitions)
        actions.produce(kafka, soon(), name, count=20_000, values=["x"], keys=[str(n) for n in range(5000)])
        actions.reset_offsets(kafka, soon(), name, f"g-{name}", to="earliest")
        asked.clear()
        assert actions.lag(kafka, soon(), name, f"g-{name}").total == 20_000
        requests.append(list(asked))
        actions.delete_topic(kafka, soon(), name)
    assert requests[0] == requests[1] != []


# --- systems that do not answer -------------------------------------------------------------------------------------


def looks(topic: str = "t") -> list[Callable]:
    return [
        actions.cluster,
        actions.topics,
        lambda k, d: actions.watermarks(k, d, topic),
        lambda k, d: actions.lag(k, d, topic, "g"),
        lambda k, d: actions.produce(k, d, topic, values=["x"]),
        lambda k, d: actions.sample(k, d, topic),
        actions.round_trip,
        actions.groups,
    ]


def test_a_closed_port_is_unreachable_at_once_and_says_why():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for look in looks():
        started = time.monotonic()
        with pytest.raises(Unreachable, match="Connection refused"):
            look(Kafka(bootstrap=f"127.0.0.1:{port}"), soon())
        assert time.monotonic() - started < 1


def test_a_probe_tells_that_a_cluster_does_not_answer_instead_of_failing():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    seen = actions.probe(Kafka(bootstrap=f"127.0.0.1:{port}"), soon())
    assert not seen.answered
    assert "Connection refused" in seen.detail


@pytest.mark.parametrize("bootstrap", ["nonsense", "", "127.0.0.1:notaport", "no-such-host.invalid:9092"])
def test_an_address_that_is_none_is_unreachable(bootstrap):
    with pytest.raises(Unreachable, match=r"connections\.kafka\.bootstrap"):
        actions.cluster(Kafka(bootstrap=bootstrap), soon(4))


def test_a_server_that_speaks_something_else_is_unreachable_within_the_deadline(speaker):
    address = speaker(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")).removeprefix(
        "http://"
    )
    for look in looks()[:2]:
        started = time.monotonic()
        with pytest.raises(Unreachable):
            look(Kafka(bootstrap=address), Deadline(1))
        assert time.monotonic() - started < 1.5


def test_a_server_that_says_nothing_is_unreachable_within_the_deadline(speaker):
    silent = threading.Event()
    address = speaker(lambda _: silent.wait(10)).removeprefix("http://")
    for look in (looks()[2], looks()[4]):
        started = time.monotonic()
        with pytest.raises(Unreachable):
            look(Kafka(bootstrap=address), Deadline(1))
        assert time.monotonic() - started < 1.5
    silent.set()


def test_a_cluster_that_answered_before_the_time_ended_is_slow_and_not_unreachable(kafka, topic):
    link = Link(kafka, Deadline(2))
    with pytest.raises(Unreachable, match="gave no answer to: describe 'x'"):
        Link(kafka, Deadline(0.1)).answer(Future(), "describe 'x'")
    assert len(offsets.spans(link, topic)) == 4
    with pytest.raises(TimedOut, match=r"not done within 2s; last, Kafka at \S+ was asked to describe 'x'"):
        link.answer(Future(), "describe 'x'")


def test_settings_that_the_client_refuses_are_told_with_where_they_stand():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        bootstrap = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(Refused, match=r"connections\.kafka\.config"):
            actions.cluster(Kafka(bootstrap=bootstrap, config={"no.such.setting": "1"}), soon(2))


def test_a_password_does_not_show_in_an_error():
    secret = {"sasl.mechanism": "PLAIN", "sasl.username": "u", "sasl.password": "hunter2", "security.protocol": "x"}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        bootstrap = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(Refused) as refused:
            actions.cluster(Kafka(bootstrap=bootstrap, config=secret), soon(2))
    assert "hunter2" not in str(refused.value)


def test_a_frozen_broker_is_unreachable_and_a_woken_one_answers(own_broker):
    kafka = Kafka(bootstrap=own_broker.bootstrap)
    actions.create_topic(kafka, soon(), "t")
    own_broker.process.send_signal(signal.SIGSTOP)
    try:
        for look in (looks()[2], looks()[4]):
            started = time.monotonic()
            with pytest.raises(Unreachable):
                look(kafka, Deadline(1))
            assert time.monotonic() - started < 1.5
    finally:
        own_broker.process.send_signal(signal.SIGCONT)
    assert actions.round_trip(kafka, soon()).total_ms > 0


def test_a_broker_killed_under_a_load_fails_the_step_and_what_was_acknowledged_is_counted(own_broker):
    kafka = Kafka(bootstrap=own_broker.bootstrap)
    actions.create_topic(kafka, soon(), "t")

    def kill_once_something_is_acknowledged() -> None:
        while not actions.watermarks(kafka, soon(), "t").written:
            time.sleep(0.05)
        own_broker.stop()

    killing = threading.Thread(target=kill_once_something_is_acknowledged)
    killing.start()
    with pytest.raises(TimedOut, match=r"\b[1-9][\d,]* messages .* were acknowledged"):
        actions.produce(kafka, Deadline(6), "t", count=100_000, template="trade", rate=Rate(2000))
    killing.join()
    assert own_broker.process.poll() is not None


def test_a_restarted_broker_answers_at_once(own_broker):
    kafka = Kafka(bootstrap=own_broker.bootstrap)
    actions.round_trip(kafka, soon())
    own_broker.stop()
    with pytest.raises(Unreachable):
        actions.round_trip(kafka, soon())
    own_broker.start()
    started = time.monotonic()
    actions.round_trip(kafka, soon())
    assert time.monotonic() - started < 1.5
