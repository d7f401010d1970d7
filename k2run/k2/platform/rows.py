"""From messages, as JSON or framed by the schema that each was written with, to rows of a table.

What cannot be a row is set aside. Long because both kinds of messages go through the same steps.
"""

from __future__ import annotations

import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
from pyiceberg.io.pyarrow import schema_to_pyarrow

from k2run.k2.platform import avro_trades, schemas, table, trade
from k2run.k2.platform.avro_trades import FRAME, NotATradeError
from k2run.k2.platform.topics import Deferred

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from k2run.k2.platform.schemas import RegistryClient

_AGAIN_S = 5.0
"""How long an id that the registry does not know is not asked for again."""
_WIDTH = 16  # bytes of a decimal in a column
_NEGATIVE = 0x80


class Taken(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message's body and where it was."""

    partition: int
    offset: int
    value: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Taken]).decode


class SpillFile:
    """The directory of spill files of one table. A file counts only once a committed ledger names it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, messages: Sequence[Taken]) -> Deferred:
        """Write the messages to a new file and to the disk below it."""
        self._directory.mkdir(parents=True, exist_ok=True)
        name = f"{uuid.uuid4().hex}.msgpack"
        with (self._directory / name).open("wb") as file:
            file.write(_encode(messages))
            file.flush()
            os.fsync(file.fileno())
        return Deferred(name, len(messages))

    def load(self, spilled: Deferred) -> list[Taken]:
        """The messages of a file.

        Raises:
            OSError: the file is not there any more.
        """
        return _decode((self._directory / spilled.file).read_bytes())

    def keep_only(self, wanted: Iterable[Deferred]) -> None:
        """Delete the files no ledger names: those already restored, and those a kill left without their commit."""
        names = {spilled.file for spilled in wanted}
        for path in self._directory.glob("*.msgpack"):
            if path.name not in names:
                path.unlink(missing_ok=True)


TRADES_ROWS: pa.Schema = schema_to_pyarrow(table.TRADES_SCHEMA, include_field_ids=False)
REFERENCE_ROWS: pa.Schema = schema_to_pyarrow(table.REFERENCE_DATA_SCHEMA, include_field_ids=False)

Record = trade.Trade | trade.ReferenceData | avro_trades.Record


@dataclass(frozen=True, slots=True)
class Form:
    """How one topic's messages become rows of its table. `columns` gets the names by which symbols are enriched."""

    topic: str
    table: str
    data_type: str
    read: Callable[[Sequence[Taken]], Read]
    columns: Callable[[Sequence[Any], Mapping[str, str]], pa.Table]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that is no row, and why."""

    message: Taken
    error: Exception


@dataclass(slots=True)
class Read:
    """Decoded messages, each beside the message it came from, and those that could not be decoded."""

    records: list[Record] = field(default_factory=list)
    messages: list[Taken] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def only(self, positions: Iterable[int]) -> Read:
        """The records at these positions."""
        chosen = list(positions)
        return Read([self.records[at] for at in chosen], [self.messages[at] for at in chosen], self.rejected)


def json_reader(decode: Callable[[bytes], Record]) -> Callable[[Sequence[Taken]], Read]:
    """What reads messages whose bodies are JSON."""

    def read(messages: Sequence[Taken]) -> Read:
        try:
            return Read([decode(message.value) for message in messages], list(messages))
        except (msgspec.MsgspecError, UnicodeError):
            return one_by_one(decode, messages, (msgspec.MsgspecError, UnicodeError))

    return read


def one_by_one(
    decode: Callable[[bytes], Record], messages: Sequence[Taken], rejected: tuple[type[Exception], ...]
) -> Read:
    """Messages decoded each by itself; those at which `decode` raises one of `rejected` are set aside."""
    found = Read()
    for message in messages:
        try:
            found.records.append(decode(message.value))
        except rejected as problem:
            found.rejected.append(Rejected(message, problem))
        else:
            found.messages.append(message)
    return found


def lay_out(form: Form, found: Read, names: Mapping[str, str]) -> pa.Table:
    """The records as rows; those with a value the table cannot hold join `found.rejected`."""
    try:
        return form.columns(found.records, names)
    except (pa.ArrowException, ValueError, OverflowError) as problem:
        if len(found.records) == 1:
            found.rejected.append(Rejected(found.messages[0], problem))
            return form.columns([], names)
        # Halving finds one bad price among fifty thousand in sixteen steps.
        middle = len(found.records) // 2
        halves = (range(middle), range(middle, len(found.records)))
        return pa.concat_tables([lay_out(form, found.only(half), names) for half in halves])


def trade_columns(trades: Sequence[trade.Trade], names: Mapping[str, str]) -> pa.Table:
    """Trades as rows of `trades_v2`. A symbol found in `names` has its name added to the vendor data."""
    named = {symbol: f',"instrument":{msgspec.json.encode(name).decode()}}}' for symbol, name in names.items()}
    columns = (
        [t.message_id for t in trades],
        [t.trade_id for t in trades],
        [t.symbol for t in trades],
        [t.exchange for t in trades],
        [t.asset_class for t in trades],
        [t.timestamp for t in trades],
        pa.array([t.price for t in trades], pa.string()).cast(pa.decimal128(18, 8)),
        pa.array([t.quantity for t in trades], pa.string()).cast(pa.decimal128(18, 8)),
        [t.currency for t in trades],
        [t.side for t in trades],
        [_text(t.trade_conditions) for t in trades],
        [t.source_sequence for t in trades],
        [t.ingestion_timestamp for t in trades],
        [t.platform_sequence for t in trades],
        [_enriched(t, named) for t in trades] if named else [_text(t.vendor_data) for t in trades],
        [False] * len(trades),
    )
    return laid_out(columns, TRADES_ROWS)


def reference_columns(records: Sequence[trade.ReferenceData], names: Mapping[str, str]) -> pa.Table:  # noqa: ARG001  reference data is what others are enriched with
    """Reference data as rows of `reference_data_v2`."""
    kept = ("vendor_data",)
    columns = [
        [_text(r.vendor_data) for r in records] if name in kept else [getattr(r, name) for r in records]
        for name in REFERENCE_ROWS.names
    ]
    return laid_out(columns, REFERENCE_ROWS)


def laid_out(columns: Iterable[Sequence[object] | pa.Array], schema: pa.Schema) -> pa.Table:
    """Columns, in the schema's order, as a table of it."""
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values, kind.type)
        for values, kind in zip(columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _text(raw: msgspec.Raw) -> str | None:
    text = str(raw, "utf-8")
    return None if text == "null" else text


def _enriched(one: trade.Trade, named: Mapping[str, str]) -> str | None:
    text = _text(one.vendor_data)
    addition = named.get(one.symbol)
    if addition is None or text is None or not text.startswith('{"'):
        return text
    return text[:-1] + addition


TRADES = Form(trade.TOPIC, table.TRADES, "trades", json_reader(trade.decode), trade_columns)
REFERENCE_DATA = Form(
    trade.REFERENCE_TOPIC,
    table.REFERENCE_DATA,
    "reference_data",
    json_reader(trade.decode_reference),
    reference_columns,
)
"""Both for messages that are JSON; `forms` are those of messages in the registry's frame."""


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


def trade_reader(writers: Writers) -> Callable[[Sequence[Taken]], Read]:
    """What reads messages as trades."""

    def read(messages: Sequence[Taken]) -> Read:
        heads = {message.value[:FRAME] for message in messages}
        if len(heads) == 1 and _is_own(writers, messages[0].value):  # as nearly always
            found: Sequence[avro_trades.Record | None] = avro_trades.decode(message.value for message in messages)
        else:
            found = list(repeat(None, len(messages)))
        if None in found:
            return _completed(writers, messages, found)
        return Read([record for record in found if record], list(messages))

    return read


def _is_own(writers: Writers, value: bytes) -> bool:
    try:
        return writers.of(value).own
    except (UnframedError, UnknownSchemaError):
        return False


def _completed(writers: Writers, messages: Sequence[Taken], found: Sequence[avro_trades.Record | None]) -> Read:
    """The records that were decoded, and the others one by one."""
    decoded = iter(found)
    return one_by_one(lambda value: next(decoded) or read_trade(writers, value), messages, REJECTED)


def read_trade(writers: Writers, value: bytes) -> avro_trades.Record:
    """One message as a trade.

    Raises:
        UnframedError, UnknownSchemaError, NotATradeError: It is none.
    """
    known = writers.of(value)
    if known.own and (record := avro_trades.decode((value,))[0]) is not None:
        return record
    return avro_trades.decode_any(value, known.parsed, writers.reader)


def framed_trade_columns(records: Sequence[avro_trades.Record], names: Mapping[str, str]) -> pa.Table:
    """Trades as rows of `trades_v2`. A symbol found in `names` has its name added to the vendor data."""
    if not records:
        return TRADES_ROWS.empty_table()
    columns: dict[str, Any] = dict(zip(avro_trades.Record._fields, zip(*records, strict=True), strict=True))
    for name in ("trade_id", "symbol", "exchange", "currency", "trade_conditions"):
        columns[name] = _texts(columns[name])
    columns["asset_class"] = _named(columns["asset_class"], avro_trades.ASSET_CLASSES)
    columns["side"] = _named(columns["side"], avro_trades.SIDES)
    columns["price"], columns["quantity"] = _amounts(columns["price"]), _amounts(columns["quantity"])
    columns["vendor_data"] = _texts(_all_enriched(records, names) if names else columns["vendor_data"])
    columns["is_sample_data"] = [False] * len(records)
    return laid_out([columns[name] for name in TRADES_ROWS.names], TRADES_ROWS)


def _texts(values: Sequence[bytes | None]) -> pa.Array:
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


def _all_enriched(records: Sequence[avro_trades.Record], names: Mapping[str, str]) -> list[bytes | None]:
    added = {symbol.encode(): b',"instrument":%b}' % msgspec.json.encode(name) for symbol, name in names.items()}
    return [
        one.vendor_data
        if one.vendor_data is None or (more := added.get(one.symbol)) is None or one.vendor_data == b"{}"
        else one.vendor_data[:-1] + more
        for one in records
    ]


def reference_reader(writers: Writers) -> Callable[[Sequence[Taken]], Read]:
    """What reads messages as reference data."""
    return lambda messages: one_by_one(lambda value: _reference(writers, value), messages, REJECTED)


def _reference(writers: Writers, value: bytes) -> trade.ReferenceData:
    one = avro_trades.decoded(value, writers.of(value).parsed, writers.reader)
    vendor = one.pop("vendor_data")
    micros = avro_trades.micros(one.pop("ingestion_timestamp"))
    return trade.ReferenceData(
        **one,
        ingestion_timestamp=micros,
        vendor_data=msgspec.Raw(b"null" if vendor is None else msgspec.json.encode(vendor)),
    )


def forms(client: RegistryClient) -> list[Form]:
    """How the topics' messages become rows, when they are Avro in the registry's frame."""
    every: list[Writers] = []
    trades = Writers(client, trade.TOPIC, schemas.TRADE, every)
    described = Writers(client, trade.REFERENCE_TOPIC, schemas.REFERENCE_DATA, every)
    every += [trades, described]
    return [
        Form(trade.TOPIC, table.TRADES, "trades", trade_reader(trades), framed_trade_columns),
        Form(
            trade.REFERENCE_TOPIC,
            table.REFERENCE_DATA,
            "reference_data",
            reference_reader(described),
            reference_columns,
        ),
    ]
