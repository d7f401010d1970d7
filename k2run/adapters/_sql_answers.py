"""What SQL databases answer: rows to a query, and how many a statement changed."""

from __future__ import annotations

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
