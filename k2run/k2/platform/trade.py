"""A trade and reference data as they travel through the sandbox, their JSON form, and a seeded market of trades."""

from __future__ import annotations

import math
import os
import random
import uuid
from datetime import date
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TOPIC = "market.crypto.trades.binance"
REFERENCE_TOPIC = "market.crypto.reference_data.binance"
EXCHANGE = "BINANCE"

AssetClass = Literal["equities", "crypto", "futures", "options"]
Side = Literal["BUY", "SELL", "SELL_SHORT", "UNKNOWN"]
Micros = Annotated[int, msgspec.Meta(ge=0, lt=2**62, description="microseconds since 1970-01-01 UTC")]
Sequence64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

EMPTY_LIST = msgspec.Raw(b"[]")
NULL = msgspec.Raw(b"null")


class Trade(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One trade: the fifteen fields of K2's TradeV2, in its order.

    `price` and `quantity` are decimal strings with at most eight places. `trade_conditions` (a list of strings) and
    `vendor_data` (a map of strings, or null) stay the JSON text they arrived as, which is how the table stores them.
    """

    message_id: str
    trade_id: str
    symbol: str
    exchange: str
    asset_class: AssetClass
    timestamp: Micros
    price: str
    quantity: str
    currency: str
    side: Side
    trade_conditions: msgspec.Raw = EMPTY_LIST
    source_sequence: Sequence64 | None = None
    ingestion_timestamp: Micros
    platform_sequence: Sequence64 | None = None
    vendor_data: msgspec.Raw = NULL


encode = msgspec.json.Encoder().encode
fields = msgspec.structs.asdict
decode = msgspec.json.Decoder(Trade).decode

_OPENING_PRICES = {"BTCUSDT": 94_000.0, "ETHUSDT": 3_300.0, "BNBUSDT": 900.0, "ADAUSDT": 0.41, "DOGEUSDT": 0.14}
_QUOTE_CURRENCIES = ("USDT", "USDC", "BUSD", "EUR", "BTC", "ETH")
_STEP = 0.0002  # one trade moves the price by about two basis points
_PULL = 0.0001  # and back towards the opening price, so that a day of trades stays within a few per cent of it


def split_pair(symbol: str) -> tuple[str, str]:
    """Base and quote asset of a currency pair: `BTCUSDT` is `("BTC", "USDT")`; an unknown quote is taken as USDT."""
    for quote in _QUOTE_CURRENCIES:
        if symbol.endswith(quote) and symbol != quote:
            return symbol.removesuffix(quote), quote
    return symbol, "USDT"


BURST = 80
"""Trades on one symbol in a row, 0.4 s at 200 a second; trades cluster on an exchange, too. A symbol has a partition,
and the broker keeps 1.6 kB for each batch that it is sent: few large ones keep it small (see `stream.LINGER_MS`)."""


class Market:
    """An endless, seeded sequence of trades on some symbols, `BURST` of one before the next is chosen.

    The same seed gives the same symbols, sides, prices and quantities. Identities differ from run to run, as they do
    for a real exchange: were they seeded too, a restarted stream would repeat message ids and its trades would be
    taken for duplicates.
    """

    def __init__(self, symbols: Sequence[str], seed: int, first_trade: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  a synthetic market, not a secret
        self._identity = random.Random(os.urandom(16))  # noqa: S311  unique, need not be unguessable
        self._symbols = tuple(symbols)
        self._opening = {s: _OPENING_PRICES.get(s, 10.0) for s in symbols}
        self._prices = dict(self._opening)
        # The first symbol trades most, as the first pair of an exchange does: weights 1, 1/2, 1/3, ...
        self._weights = tuple(1 / (rank + 1) for rank in range(len(symbols)))
        self._pairs = {s: split_pair(s) for s in symbols}
        self._next_trade = first_trade
        self._symbol = self._symbols[0]
        self._left_of_burst = 0

    def trades(self, count: int, start_us: int, end_us: int) -> Iterator[Trade]:
        """`count` trades whose timestamps (micros) rise evenly from `start_us` to just before `end_us`."""
        span = end_us - start_us
        for number in range(count):
            if not self._left_of_burst:
                (self._symbol,) = self._random.choices(self._symbols, weights=self._weights)
                self._left_of_burst = BURST
            self._left_of_burst -= 1
            yield self._trade(self._symbol, start_us + span * number // count)

    def _trade(self, symbol: str, at_us: int) -> Trade:
        price = self._prices[symbol]
        price *= math.exp(self._random.gauss(0.0, _STEP) - _PULL * math.log(price / self._opening[symbol]))
        self._prices[symbol] = price
        selling = self._random.random() < 0.5  # noqa: PLR2004  a fair coin
        base, quote = self._pairs[symbol]
        at_ms = at_us // 1000
        number = self._next_trade
        self._next_trade += 1
        maker = "true" if selling else "false"
        return Trade(
            message_id=_uuid4(self._identity.getrandbits(128)),
            trade_id=f"{EXCHANGE}-{number}",
            symbol=symbol,
            exchange=EXCHANGE,
            asset_class="crypto",
            timestamp=at_us,
            price=f"{price:.8f}",
            quantity=f"{self._random.expovariate(1.0) * 500.0 / price + 1e-8:.8f}",
            currency=quote,
            side="SELL" if selling else "BUY",
            ingestion_timestamp=at_us,
            vendor_data=msgspec.Raw(
                f'{{"is_buyer_maker":"{maker}","event_type":"trade","event_time":"{at_ms}","trade_time":"{at_ms}",'
                f'"base_asset":"{base}","quote_asset":"{quote}","is_best_match":"true"}}'.encode()
            ),
        )


def _uuid4(bits: int) -> str:
    """The text of a version 4 UUID with these 128 bits; `uuid.UUID` would do the same at three times the cost."""
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[bits & 3]}{text[17:20]}-{text[20:]}"


class ReferenceData(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What one symbol stands for: K2's ReferenceDataV2. The topic's key is `company_id`."""

    message_id: str
    company_id: str
    symbol: str
    exchange: str
    asset_class: AssetClass
    company_name: str
    isin: str | None = None
    currency: str | None = None
    listing_date: date | None = None
    delisting_date: date | None = None
    is_active: bool
    ingestion_timestamp: Micros
    vendor_data: msgspec.Raw = NULL


encode_reference = msgspec.json.Encoder().encode
decode_reference = msgspec.json.Decoder(ReferenceData).decode

_NAMES = {"BTC": "Bitcoin", "ETH": "Ethereum", "BNB": "BNB", "ADA": "Cardano", "DOGE": "Dogecoin", "USDT": "Tether"}
_LISTED = {"BTC": date(2017, 8, 17), "ETH": date(2017, 8, 17), "BNB": date(2017, 11, 6)}


def describe(symbol: str, at_us: int) -> ReferenceData:
    """The record of `symbol` as of `at_us` (micros). For a currency pair the company is the pair itself."""
    base, quote = split_pair(symbol)
    return ReferenceData(
        message_id=str(uuid.uuid4()),
        company_id=symbol,
        symbol=symbol,
        exchange=EXCHANGE,
        asset_class="crypto",
        company_name=f"{_NAMES.get(base, base)} / {_NAMES.get(quote, quote)}",
        currency=quote,
        listing_date=_LISTED.get(base),
        is_active=True,
        ingestion_timestamp=at_us,
    )


def rotation(symbols: Sequence[str]) -> Iterator[str]:
    """The symbols one after the other, for ever: the order in which the stream describes them."""
    while True:
        yield from symbols
