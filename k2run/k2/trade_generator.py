"""Synthetic trades in the fifteen fields of K2's TradeV2, as JSON, at several hundred thousand a second."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

from k2run.adapters.kafka.form import MessageTemplate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SYMBOLS = ["BTCUSDT", "ETHUSDT", "BNBUSDT"]

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


def _identity() -> bytes:
    """The first 24 characters of UUIDs of version 4 that are unique; twelve digits are left to count."""
    drawn = os.urandom(7).hex()
    return f"{drawn[:8]}-{drawn[8:12]}-4{drawn[11:14]}-8{os.urandom(2).hex()[:3]}-".encode()


def _pair(symbol: str) -> tuple[bytes, bytes, bytes, int]:
    """Symbol, base asset, quote asset and the price it starts at; an unknown quote is taken for USDT."""
    quote = next((quote for quote in _QUOTES if symbol.endswith(quote) and symbol != quote), "")
    base = symbol.removesuffix(quote)
    return symbol.encode(), base.encode(), (quote or "USDT").encode(), _OPENING.get(symbol, 10)


TRADE = MessageTemplate(symbols=SYMBOLS, messages=trades)
"""`template: trade` of a step."""
