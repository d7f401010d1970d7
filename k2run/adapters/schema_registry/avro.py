"""Avro in the registry's framing: a zero, four bytes of schema id, then the record."""

from __future__ import annotations

import datetime as dt
import io
import json
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from k2run.adapters._clients import require
from k2run.adapters.schema_registry.client import latest, schema_of
from k2run.errors import AuthorError, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        raise Refused(f"{called} is no Avro schema: {error}") from error


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
