"""JSON as systems and files give it: read as it is meant, or refused with the place at which it cannot be read."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.language.json_schema import JsonSchema

_WIDE = ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"))
_HALF = ((codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"))
_AT = re.compile(r" \(byte (\d+)\)$")
_NO_NUMBER = re.compile(rb"-?(?:NaN|Infinity|inf(?:inity)?)\b", re.IGNORECASE)
NEW_LINE = b"\n"
MOST_TOLD = 50
"""Violations of a schema that an error lists."""
MISREAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What reading JSON raises: not JSON, not UTF-8, nested too deep."""


class Unreadable(ValueError):
    """It is not JSON; the message says why, and where."""


def read_json(content: bytes, kind: Any = Any) -> Any:
    """The value that a document stands for; a byte order mark before it is not part of it.

    Args:
        content: The document.
        kind: The type that it should have.

    Raises:
        Unreadable: It is not JSON, or not of that type.
    """
    bare = content.removeprefix(codecs.BOM_UTF8)
    try:
        return msgspec.json.decode(bare, type=kind)
    except MISREAD as error:
        raise Unreadable(reason(bare, error)) from error


def conforming(schema: JsonSchema | None, value: Any, what: str, result: Any = None) -> None:
    """Check a value against the schema that a step gives, if it gives one.

    Args:
        schema: The step's `conforms_to`.
        value: The value.
        what: What it is, for the message.
        result: The action's result, which the failed step keeps.

    Raises:
        Refused: It violates the schema; every violation is told with its JSON path.
    """
    refuse_violations(schema.violations(value) if schema is not None else [], what, result)


def refuse_violations(found: Sequence[str], what: str, result: Any = None) -> None:
    """Complain of violations of a schema; nothing happens when there are none.

    Raises:
        Refused: There are some.
    """
    if found:
        count = f"{len(found):,} violation{'s' if len(found) != 1 else ''}"
        told = "; ".join(found[:MOST_TOLD]) + (f"; and {len(found) - MOST_TOLD:,} more" * (len(found) > MOST_TOLD))
        raise Refused(f"{what} does not conform to the schema, {count}: {told}", result=result)


def reason(content: bytes, error: BaseException) -> str:
    """Why a document cannot be read, and at which line and column."""
    named = next((name for mark, name in _WIDE + _HALF if content.startswith(mark)), "")
    if named:
        return f"it is {named}, and JSON is UTF-8"
    wrong = _not_utf8(content) or (error if isinstance(error, UnicodeDecodeError) else None)
    if wrong is not None:  # msgspec 0.22 raises that itself, 0.23 an error without a place
        return f"it is not UTF-8: byte 0x{wrong.object[wrong.start]:02x} at {place(wrong.object, wrong.start)}"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    text = str(error)
    at = _AT.search(text)
    if at is None:
        return text
    number = int(at[1])
    odd = _NO_NUMBER.match(content, max(0, number - 1)) or _NO_NUMBER.match(content, number)
    said = f"JSON knows no {odd[0].decode()}" if odd else text[: at.start()]
    return f"{said} at {place(content, number)}"


def place(content: bytes, at: int) -> str:
    """Where a byte stands, as line and column, from 1."""
    before = content[:at]
    return f"line {before.count(NEW_LINE) + 1}, column {at - before.rfind(NEW_LINE)}"


def _not_utf8(content: bytes) -> UnicodeDecodeError | None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return error
    return None
