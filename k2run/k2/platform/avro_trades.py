"""Trades as Avro bytes, many a second: K2's TradeV2 by hand, every other writer's schema by fastavro.

A general decoder asks at each value what it is; here the fifteen fields stand one after the other, which is three times
as fast. What does not look as expected (a string of 64 bytes or more, a block of a list) is read by the general one.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from k2run.k2.platform import schemas, trade

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k2run.k2.platform.trade import ReferenceData

FRAME = 5
"""Bytes before the record: a zero, and four of the schema's id."""
ASSET_CLASSES = ("equities", "crypto", "futures", "options")
SIDES = ("BUY", "SELL", "SELL_SHORT", "UNKNOWN")

_LONG_OR_NEGATIVE = 0x81  # of a length's first byte: it goes on, or it is odd, which is negative
_MICROS = 8
"""Bytes of a time in microseconds, from 1987 to 2112."""
_MORE = 0x0080808080808080  # bits that are set in such a time, and
_END = 0x8080808080808080  # that are tested
_ESCAPED = bytes([*range(32), *b'"\\'])  # what JSON does not take as it stands


class Record(NamedTuple):
    """A trade, half decoded: the rest is cheaper by column.

    Attributes:
        price: Unscaled, in two's complement, the highest byte first; so is `quantity`.
        trade_conditions: JSON text, as the table has it; so is `vendor_data`.
    """

    message_id: str
    trade_id: bytes
    symbol: bytes
    exchange: bytes
    asset_class: int
    timestamp: int
    price: bytes
    quantity: bytes
    currency: bytes
    side: int
    trade_conditions: bytes
    source_sequence: int | None
    ingestion_timestamp: int
    platform_sequence: int | None
    vendor_data: bytes | None


def decode(values: Iterable[bytes]) -> list[Record | None]:
    """Framed trades that were written with TradeV2 itself; None for each that has to be read by `decode_any`.

    Trades of one burst share times and vendor data: each is read once.
    """
    found: list[Record | None] = []
    add, read = found.append, _read
    times: dict[bytes, int] = {}
    vendors: dict[bytes, bytes | None] = {}
    for value in values:
        try:
            add(read(value, times, vendors))
        except (IndexError, UnicodeDecodeError, _UnusualError):
            add(None)
    return found


class _UnusualError(Exception):
    """A value that is not where, or not as, it usually is."""


def _micros(eight: bytes) -> int:
    """A time out of its eight bytes of seven bits each, the lowest first, and its zigzag."""
    word = int.from_bytes(eight, "little")
    if word & _END != _MORE or word & 1:
        raise _UnusualError
    word = (word & 0x007F007F007F007F) | (word & 0x7F007F007F007F00) >> 1
    word = (word & 0x00003FFF00003FFF) | (word & 0x3FFF00003FFF0000) >> 2
    return ((word & 0x0FFFFFFF) | (word & 0x0FFFFFFF00000000) >> 4) >> 1


def _read(b: bytes, times: dict[bytes, int], vendors: dict[bytes, bytes | None]) -> Record:  # noqa: C901, PLR0915 - one statement a field, and no call, is what makes it fast
    """One framed trade: `p` is where a value begins, `q` where the next one does."""
    if (n := b[5]) & _LONG_OR_NEGATIVE:
        raise _UnusualError
    q = 6 + (n >> 1)
    message_id = b[6:q].decode()
    if (n := b[q]) & _LONG_OR_NEGATIVE:
        raise _UnusualError
    p = q + 1
    q = p + (n >> 1)
    trade_id = b[p:q]
    if (n := b[q]) & _LONG_OR_NEGATIVE:
        raise _UnusualError
    p = q + 1
    q = p + (n >> 1)
    symbol = b[p:q]
    if (n := b[q]) & _LONG_OR_NEGATIVE:
        raise _UnusualError
    p = q + 1
    q = p + (n >> 1)
    exchange = b[p:q]
    asset_class = b[q]
    p = q + 1
    q = p + _MICROS
    if (timestamp := times.get(b[p:q])) is None:
        timestamp = times[b[p:q]] = _micros(b[p:q])
    if (n := b[q]) & _LONG_OR_NEGATIVE:
        raise _UnusualError
    p = q + 1
    q = p + (n >> 1)
    price = b[p:q]
    if (n := b[q]) & _LONG_OR_NEGATIVE:
        raise _UnusualError
    p = q + 1
    q = p + (n >> 1)
    quantity = b[p:q]
    if (n := b[q]) & _LONG_OR_NEGATIVE:
        raise _UnusualError
    p = q + 1
    q = p + (n >> 1)
    currency = b[p:q]
    side = b[q]
    if asset_class not in _CLASS or side not in _SIDE or b[q + 1] or b[q + 2]:  # conditions, or a sequence
        raise _UnusualError
    p = q + 3
    q = p + _MICROS
    if (ingestion := times.get(b[p:q])) is None:
        ingestion = times[b[p:q]] = _micros(b[p:q])
    if b[q]:
        raise _UnusualError
    rest = b[q + 1 :]
    if rest not in vendors:
        vendors[rest] = _vendor(rest)
    vendor = vendors[rest]
    made: Record = _new(
        Record,
        (
            *(
                message_id,
                trade_id,
                symbol,
                exchange,
                asset_class >> 1,
                timestamp,
                price,
                quantity,
                currency,
                side >> 1,
            ),
            *(b"[]", None, ingestion, None, vendor),
        ),
    )
    return made


_new: Any = tuple.__new__  # what a named tuple does of itself, without its way there


def _vendor(b: bytes) -> bytes | None:
    """The end of a trade: a map of texts, or null."""
    if b == _NULL:
        return None
    if b[0] != _MAP or (n := b[1]) & _LONG_OR_NEGATIVE:
        raise _UnusualError
    q, entries = 2, []
    for _ in range(n >> 1):
        if (n := b[q]) & _LONG_OR_NEGATIVE:
            raise _UnusualError
        p = q + 1
        q = p + (n >> 1)
        key = b[p:q]
        if (n := b[q]) & _LONG_OR_NEGATIVE:
            raise _UnusualError
        p = q + 1
        q = p + (n >> 1)
        entries.append(b'"%b":"%b"' % (key, b[p:q]))
    if not entries or b[q] or q + 1 != len(b):
        raise _UnusualError
    text = b"{%b}" % b",".join(entries)
    if len(text.translate(None, _ESCAPED)) + _QUOTES * len(entries) != len(text):
        raise _UnusualError
    return text


_NULL, _MAP = b"\0", 2  # branches of the union
_QUOTES = 4  # of an entry
_CLASS = frozenset(range(0, 2 * len(ASSET_CLASSES), 2))  # in zigzag
_SIDE = frozenset(range(0, 2 * len(SIDES), 2))


class NotATradeError(ValueError):
    """A message whose schema is known is no trade."""


def decode_any(value: bytes, writer: Any, reader: Any) -> Record:
    """A framed trade by whatever schema it was written with, as Avro resolves it.

    Args:
        value: The message.
        writer: The schema it was written with, parsed by fastavro.
        reader: TradeV2, likewise.

    Raises:
        NotATradeError: The bytes do not follow the writer's schema, or it has no trades that TradeV2 can read.
    """
    one = decoded(value, writer, reader)
    try:
        return _half(one)
    except (ValueError, TypeError, ArithmeticError, AttributeError) as problem:
        raise NotATradeError(f"a value cannot be one of TradeV2: {problem}") from problem


def decoded(value: bytes, writer: Any, reader: Any) -> dict[str, Any]:
    """A framed record as fastavro has it.

    Raises:
        NotATradeError: The bytes do not follow the writer's schema, or the reader's cannot be read from it.
    """
    from fastavro import schemaless_reader
    from fastavro.read import SchemaResolutionError

    rest = io.BytesIO(value)
    rest.seek(FRAME)
    try:
        one: Any = schemaless_reader(rest, writer, reader)
    except SchemaResolutionError as problem:
        raise NotATradeError(
            f"{reader['name']} cannot be read from the schema it was written with: {problem}"
        ) from problem
    except (
        ValueError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        ArithmeticError,
        StopIteration,
        AttributeError,
    ) as bad:
        raise NotATradeError(f"the bytes do not follow their schema: {type(bad).__name__}: {bad}") from bad
    if left := len(value) - rest.tell():
        raise NotATradeError(f"{left} bytes are left after the record")
    return one  # type: ignore[no-any-return]  # a record, as its schema says


def _half(one: dict[str, Any]) -> Record:
    conditions, vendor = one["trade_conditions"], one["vendor_data"]
    return Record(
        message_id=one["message_id"],
        trade_id=one["trade_id"].encode(),
        symbol=one["symbol"].encode(),
        exchange=one["exchange"].encode(),
        asset_class=ASSET_CLASSES.index(one["asset_class"]),
        timestamp=micros(one["timestamp"]),
        price=_unscaled(one["price"]),
        quantity=_unscaled(one["quantity"]),
        currency=one["currency"].encode(),
        side=SIDES.index(one["side"]),
        trade_conditions=msgspec.json.encode(conditions),
        source_sequence=one["source_sequence"],
        ingestion_timestamp=micros(one["ingestion_timestamp"]),
        platform_sequence=one["platform_sequence"],
        vendor_data=None if vendor is None else msgspec.json.encode(vendor),
    )


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(value: datetime | int) -> int:
    """Microseconds; fastavro hands out those of the writer's logical type, whichever it is."""
    if isinstance(value, int):
        return value
    past = value - _EPOCH
    return (past.days * 86_400 + past.seconds) * 1_000_000 + past.microseconds


def _unscaled(value: Decimal | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    whole = value.scaleb(8)
    if whole != whole.to_integral_value():
        raise NotATradeError(f"{value} has more than eight decimal places")
    number = int(whole)
    return number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)


# --- writing ---------------------------------------------------------------------------------------------------------


class Writer:
    """Writes records in the frame of a schema's id."""

    def __init__(self, schema: schemas.Schema, number: int) -> None:
        self._frame = b"\0" + number.to_bytes(4, "big")
        self._schema = parsed(schema)

    def trade(self, sent: trade.Trade) -> bytes:
        """One trade."""
        return self._framed(_typed(sent))

    def reference(self, described: ReferenceData) -> bytes:
        """One record of reference data."""
        vendor = msgspec.json.decode(described.vendor_data)
        return self._framed({**trade.fields(described), "vendor_data": vendor})

    def _framed(self, record: dict[str, Any]) -> bytes:
        from fastavro import schemaless_writer

        content = io.BytesIO(self._frame)
        content.seek(FRAME)
        schemaless_writer(content, self._schema, record)
        return content.getvalue()


def _typed(sent: trade.Trade) -> dict[str, Any]:
    """A trade as fastavro takes it."""
    values = trade.fields(sent)
    values["price"], values["quantity"] = _amount(sent.price), _amount(sent.quantity)
    values["trade_conditions"] = msgspec.json.decode(sent.trade_conditions)
    values["vendor_data"] = msgspec.json.decode(sent.vendor_data)
    return values


_PLACES = Decimal("1e-8")


def _amount(text: str) -> Decimal:
    return Decimal(text).quantize(_PLACES)


def parsed(schema: Any) -> Any:
    """A schema as fastavro takes it."""
    from fastavro import parse_schema

    return parse_schema(schema)
