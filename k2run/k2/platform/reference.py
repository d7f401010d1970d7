"""Reference data as it travels through the sandbox: what is traded, as opposed to the trades themselves."""

from __future__ import annotations

import uuid
from datetime import date
from typing import TYPE_CHECKING

import msgspec

from k2run.k2.platform.trade import EXCHANGE, NULL, AssetClass, Micros, split_pair

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TOPIC = "market.crypto.reference_data.binance"


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


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(ReferenceData).decode
decode_many = msgspec.json.Decoder(list[ReferenceData]).decode

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
