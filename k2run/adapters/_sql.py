"""What SQL databases answer: rows to a query, their values as JSON has them, how many a statement changed."""

from __future__ import annotations

import datetime as dt
import decimal
import math
from typing import Any

from k2run.actions.action import Result


class Answer(Result, frozen=True, kw_only=True):
    """The answer to a query.

    Attributes:
        rows: Each a mapping of column to value: `result.rows[0].n`.
        columns: Their names in order.
        row_count: How many rows are in `rows`.
        value: The value, when the answer is one row with one column; otherwise None.
        truncated: Whether there were more rows than `limit`.
        elapsed_ms: With connecting.
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
