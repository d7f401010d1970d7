"""Answers of systems as plain values: JSON read as it is meant, or refused with the place; rows of SQL databases."""

from __future__ import annotations

import codecs
import datetime as dt
import decimal
import math
import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from k2run.actions.action import Result
from k2run.actions.connection import Connection
from k2run.errors import Refused, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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

    Raises:
        Unreadable: It is not JSON, or not of that type.
    """
    bare = content.removeprefix(codecs.BOM_UTF8)
    try:
        return msgspec.json.decode(bare, type=kind)
    except MISREAD as error:
        raise Unreadable(reason(bare, error)) from error


def nearest(name: str, known: Iterable[str], none: str = "there are none") -> str:
    """A hint with the nearest known name, or with a few of them."""
    from difflib import get_close_matches

    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there are: {', '.join(names[:8])}" if names else none


def conforming(schema: JsonSchema | None, value: Any, what: str, result: Any = None) -> None:
    """Check a value against the schema that a step gives, if it gives one.

    `what` names the value in the message; the failed step keeps `result`, the action's.

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


class Server(Connection, frozen=True, kw_only=True):
    """A database server that a user logs in to."""

    host: str = "127.0.0.1"
    port: int
    database: str
    user: str
    password: str = ""

    @property
    def address(self) -> str:
        """Where it is, without the password."""
        return f"{self.user}@{self.host}:{self.port}/{self.database}"

    @property
    def source(self) -> str:
        """What results give as their source."""
        return f"{self.key} {self.address}"


class Rows(NamedTuple):
    """What a statement brought.

    Attributes:
        rows: With values as JSON has them.
        more: Whether there were more than it may bring.
        affected: How many rows it changed.
    """

    columns: list[str]
    rows: list[dict[str, Any]]
    more: bool = False
    affected: int = 0


class Answer(Result, frozen=True, kw_only=True):
    """The answer to a query.

    Attributes:
        rows: Each a mapping of column to value: `result.rows[0].n`.
        columns: Their names in order.
        row_count: How many rows are in `rows`.
        value: The value, when the answer is one row with one column; otherwise None.
        truncated: Whether there were more rows than `limit`.
        elapsed_ms: With connecting, or opening the files.
    """

    rows: list[dict[str, Any]]
    columns: list[str]
    row_count: int
    value: Any
    truncated: bool
    elapsed_ms: float

    def headline(self) -> str:
        """The only value, or how many rows there are."""
        if self.value is not None:
            return f"{self.columns[0]} {self.value}"
        return f"{'more than ' * self.truncated}{self.row_count:,} rows in {self.elapsed_ms:.0f} ms"


def answer(found: Rows, started: float, *, place: str, source: str, allow_empty: bool) -> Answer:
    """The result of a query.

    Args:
        found: What it brought.
        started: When it was begun, by `time.perf_counter`.
        place: What was asked, for an error.
        source: The same, for the result.
        allow_empty: Whether no rows are an answer, too.

    Raises:
        Unknown: There are no rows.
    """
    elapsed_ms = (time.perf_counter() - started) * 1000
    if not found.rows and not allow_empty:
        raise Unknown(f"the query found no rows in {place}", hint="is the data there? or set allow_empty: true")
    return Answer(
        rows=found.rows,
        columns=found.columns,
        row_count=len(found.rows),
        value=found.rows[0][found.columns[0]] if len(found.rows) == len(found.columns) == 1 else None,
        truncated=found.more,
        elapsed_ms=elapsed_ms,
        source=source,
    )


class Changed(Result, frozen=True, kw_only=True):
    """What a statement changed."""

    rows_affected: int
    elapsed_ms: float


def plain(value: Any) -> Any:
    """A value as JSON has it: decimals become numbers, times ISO 8601; what is no number becomes None."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    match value:
        case float():
            plainly: Any = value if math.isfinite(value) else None
        case decimal.Decimal():
            # Sums of whole numbers come as decimals without places.
            plainly = int(value) if value.as_tuple().exponent == 0 else float(value)
        case dt.datetime() | dt.date() | dt.time():
            plainly = value.isoformat()
        case dt.timedelta():
            plainly = value.total_seconds()
        case bytes():
            plainly = value.hex()
        case None | bool() | int():
            plainly = value
        case _:
            plainly = str(value)
    return plainly
