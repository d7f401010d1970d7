"""What SQL databases have in common: how one is reached, and its answers with values as JSON has them."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import time
from typing import Any, NamedTuple

from k2run.actions.action import Result
from k2run.actions.connection import Connection
from k2run.errors import Unknown


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
