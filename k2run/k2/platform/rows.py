"""From message bodies to rows of a table, setting aside those that cannot be one."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
from pyiceberg.io.pyarrow import schema_to_pyarrow

from k2run.k2.platform import avro_trades, table, trade
from k2run.k2.platform.topics import Deferred

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path


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
"""Both for messages that are JSON; `avro_rows.forms` are those of messages in the registry's frame."""
