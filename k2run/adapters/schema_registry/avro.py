"""Avro in the registry's framing: a zero, four bytes of schema id, then the record."""

from __future__ import annotations

import datetime as dt
import io
import json
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from k2run.adapters._answers import MISREAD
from k2run.adapters._clients import require
from k2run.adapters.schema_registry.client import call, latest, path, schema_of
from k2run.errors import AuthorError, Refused, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from k2run.actions.deadline import Deadline
    from k2run.adapters.schema_registry.client import Schema, SchemaRegistry

FRAME = 5
"""Bytes before the record."""


def framed_id(value: bytes | None) -> int | None:
    """The schema's id of a value in the registry's framing; None for any other."""
    return int.from_bytes(value[1:FRAME], "big") if value and len(value) > FRAME and value[0] == 0 else None


class Encoder:
    """Writes records by the newest schema of a subject.

    Args:
        registry: Where the schema is.
        deadline: Of the step.
        subject: Such as `orders-value`.

    Raises:
        Unknown: The registry has no such subject.
        Refused: Its schema is not Avro.
        NotApplicable: The extra `avro` is not installed.
    """

    def __init__(self, registry: SchemaRegistry, deadline: Deadline, subject: str) -> None:
        found = latest(registry, deadline, subject)
        self._subject = subject
        self._schema = _parsed(found, subject)
        self._frame = b"\0" + found.id.to_bytes(4, "big")
        self._times = {
            field["name"]: kind for field in self._schema.get("fields", ()) if (kind := _logical(field["type"]))
        }

    def encode(self, value: Any) -> bytes:
        """One record in its framing.

        Raises:
            AuthorError: It does not fit the schema.
        """
        from fastavro import schemaless_writer

        if not isinstance(value, dict):
            raise AuthorError(f"a record of {self._subject} is a mapping of field to value, not {value!r}")
        content = io.BytesIO(self._frame)
        content.seek(FRAME)
        try:
            schemaless_writer(content, self._schema, self._typed(value), strict=True)
        except (ValueError, TypeError, KeyError, ArithmeticError) as error:
            raise AuthorError(f"a record does not fit the schema of {self._subject}: {error}") from error
        return content.getvalue()

    def _typed(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """JSON has neither decimals nor dates; the schema says where they belong."""
        return {name: _as(self._times.get(name, ""), item) for name, item in value.items()}


def decode(registry: SchemaRegistry, deadline: Deadline, value: bytes) -> Any:
    """The record in a framed value, as JSON types.

    Raises:
        Unknown: The registry has no schema with that id.
        Refused: The schema is not Avro, or the bytes do not follow it.
        NotApplicable: The extra `avro` is not installed.
    """
    number = framed_id(value)
    if number is None:
        raise Refused("the value is not in the schema registry's framing (a zero and four bytes of schema id)")
    require("avro", "fastavro")
    from fastavro import schemaless_reader

    schema = _parsed(schema_of(registry, deadline, number), f"schema {number}")
    rest = io.BytesIO(value[FRAME:])
    try:
        record = schemaless_reader(rest, schema, None)
    except (ValueError, EOFError, IndexError, KeyError, UnicodeDecodeError, StopIteration) as error:
        raise Refused(f"the value does not follow schema {number} of {registry.url}: {error!r}") from error
    if left := len(value) - FRAME - rest.tell():
        raise Refused(f"the value has {left} bytes more than schema {number} of {registry.url} says")
    return plain(record)


class FieldReader:
    """Reads one field of many messages, framed or JSON; what has none, or is neither, gives None.

    Args:
        registry: Where the schemas are; without one framed messages have no field that could be read.
        deadline: Of the step.
        field: Its name.
    """

    def __init__(self, registry: SchemaRegistry | None, deadline: Deadline, field: str) -> None:
        self._registry, self._deadline, self._field = registry, deadline, field
        form = msgspec.defstruct("Identified", [("found", Any)], rename={"found": field})
        self._json: msgspec.json.Decoder[Any] = msgspec.json.Decoder(form)  # ten times as fast as reading all fields
        self._readers: dict[int, Callable[[bytes], Any] | None] = {}

    def read(self, value: bytes) -> Any:
        """The field of one message."""
        number = framed_id(value) if self._registry else None
        try:
            if number is None:
                return self._json.decode(value).found
            if number not in self._readers:
                self._readers[number] = self._reader(number)
            read = self._readers[number]
            return None if read is None else read(value)
        except (*MISREAD, ValueError, EOFError, IndexError, KeyError, StopIteration):
            return None

    def _reader(self, number: int) -> Callable[[bytes], Any] | None:
        """What reads the field by a schema: a text that comes first without the rest, any other with all of it."""
        if self._registry is None:
            return None
        try:
            schema = _parsed(schema_of(self._registry, self._deadline, number), f"schema {number}")
        except (Unknown, Refused):
            return None
        fields = (
            {field["name"]: field["type"] for field in schema.get("fields", ())} if isinstance(schema, dict) else {}
        )
        if self._field not in fields:
            return None
        if next(iter(fields)) == self._field and fields[self._field] == "string":
            return _first_text
        return lambda value: _whole(value, schema)[self._field]


def _whole(value: bytes, schema: Any) -> Any:
    from fastavro import schemaless_reader

    return plain(schemaless_reader(io.BytesIO(value[FRAME:]), schema, None))


def _first_text(value: bytes) -> str:
    from fastavro import schemaless_reader

    length = value[FRAME]
    if length & 0x81:  # it goes on in the next byte, or is negative
        return str(schemaless_reader(io.BytesIO(value[FRAME:]), "string", None))
    end = FRAME + 1 + (length >> 1)
    if end > len(value):
        raise EOFError
    return value[FRAME + 1 : end].decode()


def changed(
    registry: SchemaRegistry, deadline: Deadline, value: bytes, subject: str, change: Callable[[Any], Any]
) -> bytes:
    """A framed record as a producer with another schema writes it.

    Args:
        registry: Where the schema of the record is, and where the other one is registered.
        deadline: Of the step.
        value: The record in its framing.
        subject: Where the other schema is registered; it is deleted there again, so that only its id is known.
        change: Gives a mapping of other fields, or of the same ones, for a mapping of the fields.

    Raises:
        Refused: The value does not follow its schema, or the registry does not take the other one.
    """
    number = framed_id(value) or 0
    before = json.loads(schema_of(registry, deadline, number).schema)
    record = change(decode(registry, deadline, value))
    kept = {field["name"]: field for field in before["fields"]}
    fields = [kept.get(name) if _holds(kept.get(name), item) else _guessed(name, item) for name, item in record.items()]
    sent = {"schema": json.dumps({**before, "fields": fields})}
    place = path("subjects", subject)
    call(registry, deadline, path("subjects", subject, "versions"), Registered, method="POST", sent=sent)
    try:
        return Encoder(registry, deadline, subject).encode(record)
    finally:
        call(registry, deadline, place, list[int], method="DELETE")


class Registered(Struct):
    """What the registry says to a new schema."""

    id: int


def _holds(field: Mapping[str, Any] | None, item: Any) -> bool:
    """Whether a field of the schema can have a value; null only where it may be null."""
    return field is not None and (item is not None or (isinstance(field["type"], list) and "null" in field["type"]))


def _guessed(name: str, item: Any) -> dict[str, Any]:
    kinds: dict[type, str] = {type(None): "null", bool: "boolean", int: "long", float: "double"}
    return {"name": name, "type": kinds.get(type(item), "string")}


def plain(value: Any) -> Any:
    """A decoded value as JSON types: decimals as text (so that no digit is lost), times as ISO 8601."""
    match value:
        case dict():
            return {name: plain(item) for name, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case Decimal() | uuid.UUID():
            return str(value)
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case bytes():
            return value.hex()
        case _:
            return value


def _parsed(found: Schema, called: str) -> Any:
    require("avro", "fastavro")
    from fastavro import parse_schema
    from fastavro.schema import SchemaParseException, UnknownType

    if found.schemaType not in {"AVRO", ""}:
        raise Refused(f"{called} is {found.schemaType}, not Avro")
    try:
        return parse_schema(json.loads(found.schema))
    except (SchemaParseException, UnknownType, ValueError) as error:
        raise Refused(f"{called} is not an Avro schema: {error}") from error


def _logical(kind: Any) -> str:
    """The logical type of a field, also of one that may be null; empty when it has none."""
    if isinstance(kind, list):
        return next(filter(None, map(_logical, kind)), "")
    return str(kind.get("logicalType", "")) if isinstance(kind, dict) else ""


def _as(logical: str, value: Any) -> Any:
    if logical == "decimal" and isinstance(value, int | float | str) and not isinstance(value, bool):
        return Decimal(str(value))
    if logical.startswith("timestamp") and isinstance(value, str):
        moment = dt.datetime.fromisoformat(value)
        return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    return value
