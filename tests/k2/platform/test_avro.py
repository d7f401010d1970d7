"""Trades as Avro: Confluent's own serializers read and write what the programs do; what is no trade does no harm."""

from __future__ import annotations

import io
import json
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import fastavro
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2run.k2.platform import avro_trades, rows, schemas, trade
from k2run.k2.platform.schemas import RegistryClient, StoppedError
from k2run.k2.trade_generator import framed_trades

if TYPE_CHECKING:
    from collections.abc import Sequence

NUMBER = 7
PARSED = avro_trades.parsed(schemas.TRADE)
TEXT = st.text(max_size=70)
BOTH = ("market.crypto.trades-value", "market.crypto.trades.binance-value")


class Registered:
    """A registry's client that knows schemas by number."""

    def __init__(self, **known: Any) -> None:
        self._known = {int(name[1:]): schema for name, schema in known.items()}
        self.asked: list[int] = []

    def schema(self, number: int, _subject: str) -> Any:
        self.asked.append(number)
        return self._known.get(number)

    def newest(self, _subject: str) -> None:
        """Each schema is asked for by its number here."""


def written(record: dict[str, Any], schema: Any = PARSED, number: int = NUMBER) -> bytes:
    content = io.BytesIO()
    content.write(b"\0" + number.to_bytes(4, "big"))
    fastavro.schemaless_writer(content, schema, record)
    return content.getvalue()


def a_trade(**changed: Any) -> dict[str, Any]:
    return {
        "message_id": "4ab7d154-6dec-4c57-8c4b-622777a6e014",
        "trade_id": "BINANCE-1",
        "symbol": "BTCUSDT",
        "exchange": "BINANCE",
        "asset_class": "crypto",
        "timestamp": 1_772_600_000_000_001,
        "price": Decimal("94003.46669036"),
        "quantity": Decimal("0.20521692"),
        "currency": "USDT",
        "side": "SELL",
        "trade_conditions": [],
        "source_sequence": None,
        "ingestion_timestamp": 1_772_600_000_000_002,
        "platform_sequence": None,
        "vendor_data": {"is_buyer_maker": "true"},
        **changed,
    }


def table_of(values: Sequence[bytes], client: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of messages, and why the others are none."""
    form = rows.forms(client)[0]
    found = form.read([rows.Taken(0, at, value) for at, value in enumerate(values)])
    laid_out = rows.lay_out(form, found, {})
    return laid_out.to_pylist(), [str(one.error) for one in found.rejected]


SLOWLY = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=15)


@SLOWLY
@given(
    st.lists(
        st.builds(
            a_trade,
            message_id=TEXT,
            symbol=TEXT,
            price=st.decimals("-9999999999", "9999999999", places=8),
            side=st.sampled_from(avro_trades.SIDES),
            timestamp=st.integers(0, 2**52),
            trade_conditions=st.lists(TEXT, max_size=3),
            source_sequence=st.none() | st.integers(-(2**63), 2**63 - 1),
            vendor_data=st.none() | st.dictionaries(TEXT, TEXT, max_size=8),
        ),
        max_size=5,
    )
)
def test_whatever_is_a_trade_becomes_the_row_that_a_general_decoder_gives(trades):
    found, rejected = table_of([written(one) for one in trades], Registered(n7=schemas.TRADE))
    assert not rejected
    for row, one in zip(found, trades, strict=True):
        assert row["message_id"] == one["message_id"]
        assert (row["symbol"], row["price"], row["side"]) == (one["symbol"], one["price"], one["side"])
        assert row["source_sequence"] == one["source_sequence"]
        assert json.loads(row["trade_conditions"]) == one["trade_conditions"]
        assert (row["vendor_data"] and json.loads(row["vendor_data"])) == one["vendor_data"]
        assert avro_trades.micros(row["timestamp"].replace(tzinfo=avro_trades.UTC)) == one["timestamp"]


@SLOWLY
@given(st.binary(max_size=60), st.integers(0, 200))
def test_whatever_bytes_come_the_trades_beside_them_are_read(noise, cut):
    good = written(a_trade())
    broken = good[: 5 + cut % (len(good) - 5)] + noise
    found, rejected = table_of([good, broken, good], Registered(n7=schemas.TRADE))
    assert len(found) + len(rejected) == 3
    assert [row["message_id"] for row in found].count(a_trade()["message_id"]) >= 2


def test_each_reason_for_which_a_message_is_no_trade_is_told():
    late = schemas.without(schemas.TRADE, "price")
    client = Registered(n7=schemas.TRADE, n8=late)
    values = [
        written(a_trade()),
        b'{"message_id":"json"}',
        b"\0\0\0\0\x63more",
        written({name: value for name, value in a_trade().items() if name != "price"}, avro_trades.parsed(late), 8),
        written(a_trade())[:-3],
        written(a_trade()) + b"!",
        written(a_trade(price=Decimal("94003.46669036"))).replace(b"crypto", b"crypt\xff"),
    ]
    found, rejected = table_of([*values, values[2]], client)
    assert len(found) == 2  # the last of the values has no such text in it
    assert ["frame" in rejected[0], "no schema 99" in rejected[1], "price" in rejected[2]] == [True] * 3
    assert "follow" in rejected[3]
    assert "1 bytes are left" in rejected[4]
    assert client.asked.count(99) == 1  # not at every message


def test_a_schema_that_came_later_is_read_and_so_is_one_that_counts_otherwise():
    wider = {
        **schemas.TRADE,
        "fields": [{"name": "venue", "type": "string"}, *schemas.TRADE["fields"]],
    }
    coarse = json.loads(json.dumps(schemas.TRADE).replace('"scale": 8', '"scale": 2'))
    client = Registered(n8=wider, n9=coarse)
    values = [
        written(a_trade(venue="X"), avro_trades.parsed(wider), 8),
        written(a_trade(price=Decimal("1.25"), quantity=Decimal("2.00")), avro_trades.parsed(coarse), 9),
    ]
    found, rejected = table_of(values, client)
    assert not rejected
    assert [row["price"] for row in found] == [Decimal("94003.46669036"), Decimal("1.25000000")]


def test_what_is_written_alike_is_seen_through_documentation_and_names():
    spelled = json.loads(json.dumps(schemas.TRADE))
    spelled["doc"] = "A trade"
    spelled["name"] = f"{spelled.pop('namespace')}.{spelled['name']}"
    spelled["fields"][0]["type"] = {"type": "string"}
    assert schemas.written_alike(spelled, schemas.TRADE)
    spelled["fields"][6]["type"]["scale"] = 2
    assert not schemas.written_alike(spelled, schemas.TRADE)
    assert not schemas.written_alike(schemas.without(schemas.TRADE, "price"), schemas.TRADE)


def test_synthetic_trades_are_trades_in_the_frame_of_their_schema():
    made = framed_trades("K2RUN-" + "x" * 80, 1, ["BTCUSDT", "ETHUSDT"], NUMBER)
    values = [value for (_, value), _ in zip(made, range(2000), strict=False)]
    read = [fastavro.schemaless_reader(io.BytesIO(value[5:]), PARSED, None) for value in values]
    assert len({one["message_id"] for one in read}) == 2000
    assert {one["symbol"] for one in read} == {"BTCUSDT", "ETHUSDT"}
    assert all(0 < one["quantity"] < 1 for one in read)
    found, rejected = table_of(values, Registered(n7=schemas.TRADE))
    assert not rejected
    assert [row["price"] for row in found] == [one["price"] for one in read]


def test_the_streams_own_trades_never_need_the_general_decoder():
    market = trade.Market(["BTCUSDT", "ETHUSDT"], 1, 10**12)
    writer = avro_trades.Writer(schemas.TRADE, NUMBER)
    values = [writer.trade(one) for one in market.trades(3000, 1_772_600_000_000_000, 1_772_600_100_000_000)]
    assert None not in avro_trades.decode(values)  # by hand, not by the general decoder


@pytest.fixture
def registries(sandbox) -> list[Any]:
    return [sandbox.registry(), sandbox.registry()]


@pytest.fixture
def urls(registries) -> str:
    return ",".join(node.url for node in registries)


def test_confluents_serializers_read_what_the_stream_writes_and_write_what_the_consumer_reads(
    sandbox, registries, urls
):
    sandbox.broker()
    client = SchemaRegistryClient({"url": registries[0].url})
    stream = sandbox.stream("--registry", urls, "--backfill", 300, "--rate", 0)
    sandbox.wait_for(lambda: "backfill_finished" in stream.log, 30, "the stream has sent its trades")
    assert set(BOTH) < set(client.get_subjects())
    deserialize = AvroDeserializer(client)
    context = SerializationContext(sandbox.trades_topic, MessageField.VALUE)
    read = [deserialize(value, context) for value in framed(sandbox, 300)]
    assert {one["exchange"] for one in read} == {"BINANCE"}
    assert all(isinstance(one["price"], Decimal) and one["timestamp"].tzinfo for one in read)

    serialize = AvroSerializer(client, json.dumps(schemas.TRADE))
    producer = Producer({"bootstrap.servers": sandbox.bootstrap})
    for number in range(50):
        value = serialize(a_trade(message_id=f"theirs-{number}"), context)
        producer.produce(sandbox.trades_topic, value, "BTCUSDT")
    producer.produce(sandbox.trades_topic, b"{no frame", "BTCUSDT")
    producer.produce(sandbox.trades_topic, b"\0\0\0\0\x63no schema", "BTCUSDT")
    producer.flush(10)
    consumer = sandbox.consumer("--registry", urls, "--interval", 0.2)
    sandbox.wait_for(lambda: sandbox.count() == 350, 40, "both kinds are in the table")
    theirs = sandbox.rows(columns=("message_id", "price", "vendor_data")).to_pylist()
    [one] = [row for row in theirs if row["message_id"] == "theirs-7"]
    assert (one["price"], one["vendor_data"]) == (Decimal("94003.46669036"), '{"is_buyer_maker":"true"}')
    sandbox.wait_for(
        lambda: consumer.metric("k2_dead_letters_total", topic=sandbox.trades_topic) == 2, 10, "two dead letters"
    )
    assert "Messages rejected" in consumer.log


def framed(sandbox, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": sandbox.bootstrap, "group.id": "t", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(sandbox.trades_topic, number, 0) for number in range(40)])
    found: list[bytes] = []
    sandbox.wait_for(
        lambda: found.extend(m.value() for m in consumer.consume(500, 0.5)) or len(found) >= count, 30, "all"
    )
    consumer.close()
    return found


def test_without_any_registry_what_runs_goes_on_and_what_starts_waits(sandbox, registries, urls):
    sandbox.broker()
    stream = sandbox.stream("--registry", urls, "--rate", 100)
    consumer = sandbox.consumer("--registry", urls, "--interval", 0.2)
    sandbox.wait_for(lambda: sandbox.count() > 100, 40, "trades come into the table")
    for node in registries:
        node.kill()
    before = sandbox.count()
    sandbox.wait_for(lambda: sandbox.count() > before + 100, 20, "trades still come into the table")
    consumer.kill()
    again = sandbox.consumer("--registry", urls, "--interval", 0.2)
    sandbox.wait_for(lambda: again.metric("k2_consumer_awaits_schema") == 1, 30, "it waits for the schema")
    second = sandbox.stream("--registry", urls, "--rate", 1)
    sandbox.wait_for(lambda: "schema_registry_unreachable" in second.log, 20, "it waits as well")
    assert second.stop() == 0
    assert again.metric("k2_dead_letters_total", topic=sandbox.trades_topic) == 0
    stood = sandbox.count()
    sandbox.run("registry", "--port", registries[1].metrics_port, "--state", sandbox.registry_state)
    sandbox.wait_for(lambda: sandbox.count() > stood + 100, 30, "the node is found and the trades come in")
    assert stream.stop() == 0
    sandbox.wait_for(lambda: again.metric("k2_consumer_awaits_schema") == 0, 5, "nothing waits")
    assert sandbox.ids_once()


def test_a_registry_that_lost_its_state_makes_no_dead_letters(sandbox):
    node, stopping = sandbox.registry(), threading.Event()
    client = RegistryClient(node.url, stopping)
    threading.Timer(1.0, stopping.set).start()
    with pytest.raises(StoppedError):
        client.schema(1, BOTH[1])  # it has neither the schema nor the subject
    fresh = RegistryClient(node.url, threading.Event())
    known = fresh.register(BOTH[1], schemas.TRADE)
    assert schemas.written_alike(fresh.schema(known, BOTH[1]), schemas.TRADE)
    assert fresh.schema(99, BOTH[1]) is None
