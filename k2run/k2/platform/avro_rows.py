"""From framed messages to records, by the schema that each was written with."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from k2run.k2.platform import avro_trades, rows, schemas, table, trade
from k2run.k2.platform.avro_trades import FRAME, NotATradeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from k2run.k2.platform.schemas import RegistryClient

_AGAIN_S = 5.0
"""How long an id that the registry does not know is not asked for again."""
_WIDTH = 16  # bytes of a decimal in a column
_NEGATIVE = 0x80


class UnframedError(ValueError):
    """A message that does not begin as the registry's serializers begin theirs."""


class UnknownSchemaError(ValueError):
    """A message with the id of a schema that the registry does not know."""


@dataclass(frozen=True, slots=True)
class Known:
    """A writer's schema.

    Attributes:
        parsed: As fastavro takes it.
        own: Whether it writes the same bytes as the reader's own.
    """

    parsed: Any
    own: bool


class Writers:
    """The schemas that messages of one topic were written with, by id; each is asked for once.

    Args:
        client: Asks the registry.
        topic: Whose messages they are.
        reader: The reader's own schema.
        beside: Readers of other topics. When one has to ask, all learn their newest schema, so that a topic whose first
            message comes while the registry is down does not hold up the others.
    """

    def __init__(
        self, client: RegistryClient, topic: str, reader: schemas.Schema, beside: Sequence[Writers] = ()
    ) -> None:
        self._client = client
        self._beside = beside
        self._subject = f"{topic}-value"
        self._reader = reader
        self._known: dict[int, Known] = {}
        self._unknown: dict[int, float] = {}
        self.reader = avro_trades.parsed(reader)

    def of(self, value: bytes) -> Known:
        """The schema of a message.

        Raises:
            UnframedError: It has none.
            UnknownSchemaError: The registry does not have it.
            StoppedError: The program was told to end while it waited for the registry.
        """
        if len(value) <= FRAME or value[0]:
            raise UnframedError(
                "the message is not in the schema registry's frame (a zero and four bytes of schema id)"
            )
        number = int.from_bytes(value[1:FRAME], "big")
        return self._known.get(number) or self._ask(number)

    def _ask(self, number: int) -> Known:
        if time.monotonic() - self._unknown.get(number, float("-inf")) < _AGAIN_S:
            raise UnknownSchemaError(f"the registry has no schema {number}")
        schema = self._client.schema(number, self._subject)
        if schema is None:
            self._unknown[number] = time.monotonic()
            raise UnknownSchemaError(f"the registry has no schema {number}")
        known = self._keep(number, schema)
        for other in self._beside:
            other.learn()
        return known

    def learn(self) -> None:
        """Ask for the newest schema of the topic, unless one is known; without waiting."""
        if not self._known and (newest := self._client.newest(self._subject)) is not None:
            with suppress(UnknownSchemaError):
                self._keep(*newest)

    def _keep(self, number: int, schema: Any) -> Known:
        own = schemas.written_alike(schema, self._reader)
        try:
            self._known[number] = Known(avro_trades.parsed(schema), own)
        except Exception as problem:  # fastavro has many for a schema that it does not take
            raise UnknownSchemaError(f"the schema {number} cannot be used: {problem}") from problem
        return self._known[number]


REJECTED = (UnframedError, UnknownSchemaError, NotATradeError, msgspec.MsgspecError, UnicodeError, ValueError)


def trade_reader(writers: Writers) -> Callable[[Sequence[rows.Taken]], rows.Read]:
    """What reads messages as trades."""

    def read(messages: Sequence[rows.Taken]) -> rows.Read:
        heads = {message.value[:FRAME] for message in messages}
        if len(heads) == 1 and _is_own(writers, messages[0].value):  # as nearly always
            found: Sequence[avro_trades.Record | None] = avro_trades.decode(message.value for message in messages)
        else:
            found = list(repeat(None, len(messages)))
        if None in found:
            return _completed(writers, messages, found)
        return rows.Read([record for record in found if record], list(messages))

    return read


def _is_own(writers: Writers, value: bytes) -> bool:
    try:
        return writers.of(value).own
    except (UnframedError, UnknownSchemaError):
        return False


def _completed(
    writers: Writers, messages: Sequence[rows.Taken], found: Sequence[avro_trades.Record | None]
) -> rows.Read:
    """The records that were decoded, and the others one by one."""
    decoded = iter(found)
    return rows.one_by_one(lambda value: next(decoded) or read_trade(writers, value), messages, REJECTED)


def read_trade(writers: Writers, value: bytes) -> avro_trades.Record:
    """One message as a trade.

    Raises:
        UnframedError, UnknownSchemaError, NotATradeError: It is none.
    """
    known = writers.of(value)
    if known.own and (record := avro_trades.decode((value,))[0]) is not None:
        return record
    return avro_trades.decode_any(value, known.parsed, writers.reader)


def trade_columns(records: Sequence[avro_trades.Record], names: Mapping[str, str]) -> pa.Table:
    """Trades as rows of `trades_v2`. A symbol found in `names` has its name added to the vendor data."""
    if not records:
        return rows.TRADES_ROWS.empty_table()
    columns: dict[str, Any] = dict(zip(avro_trades.Record._fields, zip(*records, strict=True), strict=True))
    for name in ("trade_id", "symbol", "exchange", "currency", "trade_conditions"):
        columns[name] = _text(columns[name])
    columns["asset_class"] = _named(columns["asset_class"], avro_trades.ASSET_CLASSES)
    columns["side"] = _named(columns["side"], avro_trades.SIDES)
    columns["price"], columns["quantity"] = _amounts(columns["price"]), _amounts(columns["quantity"])
    columns["vendor_data"] = _text(_enriched(records, names) if names else columns["vendor_data"])
    columns["is_sample_data"] = [False] * len(records)
    return rows.laid_out([columns[name] for name in rows.TRADES_ROWS.names], rows.TRADES_ROWS)


def _text(values: Sequence[bytes | None]) -> pa.Array:
    return pa.array(values, pa.binary()).cast(pa.string())  # which refuses what is not UTF-8


def _named(numbers: Sequence[int], names: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(
        pa.array(numbers, pa.int8()), pa.array(names, pa.string())
    ).dictionary_decode()


def _amounts(values: Sequence[bytes]) -> pa.Array:
    """A column of decimals of their bytes: turned round, and filled up with what their sign is."""
    if min(map(len, values)) == 0 or max(map(len, values)) > _WIDTH:
        raise ValueError("an amount has no byte, or more than sixteen")
    turned = b"".join([one[::-1].ljust(_WIDTH, b"\0" if one[0] < _NEGATIVE else b"\xff") for one in values])
    column = pa.Array.from_buffers(pa.decimal128(18, 8), len(values), [None, pa.py_buffer(turned)])
    column.validate(full=True)  # which refuses what has more than eighteen digits
    return column


def _enriched(records: Sequence[avro_trades.Record], names: Mapping[str, str]) -> list[bytes | None]:
    added = {symbol.encode(): b',"instrument":%b}' % msgspec.json.encode(name) for symbol, name in names.items()}
    return [
        one.vendor_data
        if one.vendor_data is None or (more := added.get(one.symbol)) is None or one.vendor_data == b"{}"
        else one.vendor_data[:-1] + more
        for one in records
    ]


def reference_reader(writers: Writers) -> Callable[[Sequence[rows.Taken]], rows.Read]:
    """What reads messages as reference data."""
    return lambda messages: rows.one_by_one(lambda value: _reference(writers, value), messages, REJECTED)


def _reference(writers: Writers, value: bytes) -> trade.ReferenceData:
    one = avro_trades.decoded(value, writers.of(value).parsed, writers.reader)
    vendor = one.pop("vendor_data")
    micros = avro_trades.micros(one.pop("ingestion_timestamp"))
    return trade.ReferenceData(
        **one,
        ingestion_timestamp=micros,
        vendor_data=msgspec.Raw(b"null" if vendor is None else msgspec.json.encode(vendor)),
    )


def forms(client: RegistryClient) -> list[rows.Form]:
    """How the topics' messages become rows, when they are Avro in the registry's frame."""
    every: list[Writers] = []
    trades = Writers(client, trade.TOPIC, schemas.TRADE, every)
    described = Writers(client, trade.REFERENCE_TOPIC, schemas.REFERENCE_DATA, every)
    every += [trades, described]
    return [
        rows.Form(trade.TOPIC, table.TRADES, "trades", trade_reader(trades), trade_columns),
        rows.Form(
            trade.REFERENCE_TOPIC,
            table.REFERENCE_DATA,
            "reference_data",
            reference_reader(described),
            rows.reference_columns,
        ),
    ]
