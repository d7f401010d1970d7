"""Synthetic trades in the fifteen fields of K2's TradeV2, as JSON or Avro, and the `topic.*` faults that write them.

They are made at several hundred thousand a second.
"""

from __future__ import annotations

import os
import random
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.actions.action import Blast, Striking, fault
from k2run.actions.deadline import Deadline
from k2run.adapters.kafka.client import Kafka, Link
from k2run.adapters.kafka.form import MessageTemplate, frame_for, made_up, schema_for
from k2run.adapters.schema_registry.avro import Encoder
from k2run.adapters.topic import Troubled, bounded, trouble
from k2run.k2.platform import schemas
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SYMBOLS = ["BTCUSDT", "ETHUSDT", "BNBUSDT"]
A_MINUTE = Duration(60)

_OPENING = {"BTCUSDT": 94_000, "ETHUSDT": 3_300, "BNBUSDT": 900}
_QUOTES = ("USDT", "USDC", "BUSD", "EUR", "BTC", "ETH")
_SIDES = ((b"BUY", b"false"), (b"SELL", b"true"))
_BATCH = 1000  # trades that share one timestamp
_FRACTION = 26  # bits: 2**26 is less than 10**8, so it makes eight decimal places

# Python's % on bytes is several times faster than a JSON encoder, and no value here needs an escape.
_TRADE = (
    b'{"message_id":"%s%012x","trade_id":"%s%d","symbol":"%s","exchange":"BINANCE","asset_class":"crypto",'
    b'"timestamp":%d,"price":"%d.%08d","quantity":"0.%08d","currency":"%s","side":"%s","trade_conditions":[],'
    b'"source_sequence":null,"ingestion_timestamp":%d,"platform_sequence":null,"vendor_data":{"event_type":"trade",'
    b'"is_buyer_maker":"%s","event_time":"%d","trade_time":"%d","base_asset":"%s","quote_asset":"%s",'
    b'"is_best_match":"true"}}'
)


def trades(prefix: str, seed: int, symbols: Sequence[str]) -> Iterator[tuple[bytes, bytes]]:
    """Endless trades as (key, value); the key is the symbol.

    The seed settles symbols, sides, prices and quantities. Message ids are new each time: a second backlog with the
    same seed must not be taken for a copy of the first.

    Args:
        prefix: Every trade id is this and a number that counts from 0.
        seed: Of the market.
        symbols: Currency pairs; the first trades most.
    """
    market = random.Random(seed)  # noqa: S311 - a synthetic market, not a secret
    bits = market.getrandbits
    pairs = [_pair(symbol) for symbol in symbols]
    weights = [1 / (rank + 1) for rank in range(len(pairs))]
    ids, start, number = _identity(), prefix.encode(), 0
    while True:
        us = time.time_ns() // 1000
        ms = us // 1000
        for symbol, base, quote, price in market.choices(pairs, weights, k=_BATCH):
            side, maker = _SIDES[bits(1)]
            amounts = (price + bits(3), bits(_FRACTION), bits(_FRACTION))
            # fmt: off
            yield symbol, _TRADE % (
                ids, number, start, number, symbol, us, *amounts, quote, side, us, maker, ms, ms, base, quote,
            )
            # fmt: on
            number += 1


def framed_trades(prefix: str, seed: int, symbols: Sequence[str], schema_id: int) -> Iterator[tuple[bytes, bytes]]:
    """The trades of `trades`, as Avro in the frame of a schema's id.

    Args:
        prefix: Every trade id is this and a number that counts from 0.
        seed: Of the market.
        symbols: Currency pairs; the first trades most.
        schema_id: The id of TradeV2 in the registry.
    """
    market = random.Random(seed)  # noqa: S311 - a synthetic market, not a secret
    bits = market.getrandbits
    pairs = [(_pair(symbol), _texts(symbol.encode(), b"BINANCE") + _CRYPTO) for symbol in symbols]
    weights = [1 / (rank + 1) for rank in range(len(pairs))]
    ids, start, number = _identity(), prefix.encode(), 0
    head = b"\0" + schema_id.to_bytes(4, "big") + _number(36)
    while True:
        us = time.time_ns() // 1000
        at, ends = _number(us), _ends(us, [pair for pair, _ in pairs])
        for (symbol, _, _, price), where in market.choices(pairs, weights, k=_BATCH):
            end = ends[symbol, bits(1)]
            whole, places, quantity = price + bits(3), bits(_FRACTION), bits(_FRACTION)
            trade_id = b"%s%d" % (start, number)
            yield (
                symbol,
                b"%s%s%012x%s%s%s%s\x10%s\x10%s%s"
                % (
                    *(head, ids, number, _number(len(trade_id)), trade_id, where, at),
                    *((whole * _PLACES + places).to_bytes(8, "big"), quantity.to_bytes(8, "big"), end),
                ),
            )
            number += 1


_PLACES = 10**8
_CRYPTO = b"\x02"  # the second symbol of the enum


def _ends(us: int, pairs: Sequence[tuple[bytes, bytes, bytes, int]]) -> dict[tuple[bytes, int], bytes]:
    """What follows the quantity, for each symbol and side: the same for all trades of one moment."""
    ms = b"%d" % (us // 1000)
    found = {}
    for symbol, base, quote, _ in pairs:
        for side, (_, maker) in enumerate(_SIDES):
            vendor = _texts(
                *(b"event_type", b"trade", b"is_buyer_maker", maker, b"event_time", ms, b"trade_time", ms),
                *(b"base_asset", base, b"quote_asset", quote, b"is_best_match", b"true"),
            )
            # side; no conditions; no sequence; the time; no sequence; seven entries of vendor data, and their end
            found[symbol, side] = b"%s%c\0\0%s\0\x02\x0e%s\0" % (_texts(quote), side * 2, _number(us), vendor)
    return found


def _texts(*values: bytes) -> bytes:
    return b"".join(_number(len(value)) + value for value in values)


def _number(value: int) -> bytes:
    """A number that is not negative as Avro writes it: seven bits a byte, the lowest first."""
    left, written = value << 1, b""
    while left > 0x7F:  # noqa: PLR2004 - seven bits
        written += bytes((left & 0x7F | 0x80,))
        left >>= 7
    return written + bytes((left,))


def _identity() -> bytes:
    """The first 24 characters of UUIDs of version 4 that are unique; twelve digits are left to count."""
    drawn = os.urandom(7).hex()
    return f"{drawn[:8]}-{drawn[8:12]}-4{drawn[11:14]}-8{os.urandom(2).hex()[:3]}-".encode()


def _pair(symbol: str) -> tuple[bytes, bytes, bytes, int]:
    """Symbol, base asset, quote asset and the price it starts at; an unknown quote is taken for USDT."""
    quote = next((quote for quote in _QUOTES if symbol.endswith(quote) and symbol != quote), "")
    base = symbol.removesuffix(quote)
    return symbol.encode(), base.encode(), (quote or "USDT").encode(), _OPENING.get(symbol, 10)


def _fits(schema: object) -> bool:
    return schemas.written_alike(schema, schemas.TRADE)


TRADE = MessageTemplate(symbols=SYMBOLS, messages=trades, framed=framed_trades, fits=_fits)
"""`template: trade` of a step."""


@fault("topic.disorder", blast=Blast.DATA, undone_by="topic.await_read")
def disorder(
    kafka: Kafka,
    deadline: Deadline,
    topic: str,
    group: str,
    count: int = 1000,
    late: Duration = A_MINUTE,
    seed: int = 1,
) -> Striking[Troubled]:
    """Write trades whose times are up to `late` ago, in no order. Undone when the group is past them.

    Blast radius: every reader of the topic; the trades stay in it.

    Args:
        topic: Name of the topic.
        group: Consumer group that has to get past them.
        count: How many.
        late: How late the latest is.
        seed: The same seed gives the same disorder.
    """
    shuffled = random.Random(seed)  # noqa: S311 - an order, not a secret
    prefix = f"K2RUN-late-{shuffled.getrandbits(24):06x}-"
    link = Link(kafka, deadline)
    write = _writer(link, topic)
    messages = []
    for key, value in islice(trades(prefix, seed, SYMBOLS), bounded(count)):
        trade = msgspec.json.decode(value)
        trade["timestamp"] -= int(shuffled.random() * late * 1e6)
        messages.append((key, write(trade)))
    return (yield from trouble(kafka, deadline, topic, group, messages, prefix))


@fault("topic.flood", blast=Blast.DATA, undone_by="topic.await_read")
def flood(
    kafka: Kafka, deadline: Deadline, topic: str, group: str, count: int = 100_000, seed: int = 1
) -> Striking[Troubled]:
    """Write a burst of trades as fast as the cluster takes them. Undone when the group is past them.

    Blast radius: every reader of the topic falls behind; the trades stay in it.

    Args:
        topic: Name of the topic.
        group: Consumer group that has to get past them.
        count: How many.
        seed: The same seed gives the same market, with new ids.
    """
    prefix = f"K2RUN-flood-{random.getrandbits(24):06x}-"
    frame = frame_for(Link(kafka, deadline), topic, "trade")
    messages = islice(made_up("trade", prefix, seed, SYMBOLS, frame), count)
    return (yield from trouble(kafka, deadline, topic, group, messages, prefix))


def _writer(link: Link, topic: str) -> Callable[[Any], bytes]:
    """What writes a trade for the readers of the topic."""
    registry = link.kafka.registry
    if registry is None or schema_for(link, topic) is None:
        return msgspec.json.encode
    return Encoder(registry, link.deadline, f"{topic}-value").encode
