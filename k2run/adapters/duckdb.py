"""DuckDB: SQL over the Iceberg tables of the stack."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from msgspec import structs

from k2run.actions.action import Result, action, beginning
from k2run.actions.deadline import Deadline
from k2run.adapters._answers import Answer, answer
from k2run.adapters.iceberg import duckdb_sql
from k2run.adapters.iceberg.catalog import Iceberg, judged, open_table
from k2run.errors import AuthorError, Refused
from k2run.language.quantities import Size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyiceberg.table import Table

GIBIBYTE = Size(2**30)
THREADS = 2


class Answered(Answer, frozen=True, kw_only=True):
    """The answer to a query.

    Attributes:
        rows: Each a mapping of column to value: `result.rows[0].n`.
        columns: Their names in order.
        row_count: How many rows are in `rows`.
        value: The value, when the answer is one row with one column; otherwise None.
        truncated: Whether there were more rows than `limit`.
        elapsed_ms: Of the query alone; finding the table's files comes on top.
        snapshots: The snapshot that was read of each table; a table without any data has none.
    """

    snapshots: dict[str, int]

    def headline(self) -> str:
        """The only row, or how many there are."""
        if self.row_count == 1:
            return ", ".join(f"{name} {_shown(value)}" for name, value in list(self.rows[0].items())[:4])
        return super().headline()


class Counted(Result, frozen=True, kw_only=True):
    """How many rows a query found."""

    rows: int


class Plan(Result, frozen=True, kw_only=True):
    """How a query was run, as DuckDB draws it."""

    plan: str
    lines: int

    def headline(self) -> str:
        """Such as `a plan of 41 lines`."""
        return f"a plan of {self.lines} lines"


@action("duckdb.query")
def query(
    iceberg: Iceberg,
    deadline: Deadline,
    sql: str,
    table: str = "",
    parameters: dict[str, Any] = {},
    snapshots: dict[str, int] = {},
    limit: int = 100,
    memory: Size = GIBIBYTE,
    threads: int = 2,
    allow_empty: bool = False,
) -> Answered:
    """Ask Iceberg tables with one SELECT; an answer without rows is unknown, not a fast query.

    The tables are read as their current snapshots are, or as `snapshots` says. The query can open their files
    and nothing else.

    Args:
        sql: The query; it names tables as the catalog does, with or without their namespace.
        table: A table that the query means by its name without the namespace, when that is not the default one.
        parameters: Values for the placeholders `$name` in the query.
        snapshots: Earlier snapshots to read: id by the table's name in the query.
        limit: Rows to fetch at most.
        memory: What DuckDB may use, such as `512MiB`; it spills to disk beyond that.
        threads: Processor cores it may use.
        allow_empty: Whether no rows are an answer, too.
    """
    tables = _opened(iceberg, deadline, sql, table, snapshots)
    with judged(iceberg, "query the tables"), duckdb_sql.opened(tables, deadline, memory, threads) as database:
        started = time.perf_counter()
        found = duckdb_sql.ask(database, sql, parameters, limit)
        plainly = answer(found, started, place=", ".join(tables), source=iceberg.source, allow_empty=allow_empty)
    current = {name: each.current_snapshot() for name, each in tables.items()}
    return Answered(
        **structs.asdict(plainly), snapshots={name: at.snapshot_id for name, at in current.items() if at is not None}
    )


@action("duckdb.assert_rows")
def assert_rows(
    iceberg: Iceberg,
    deadline: Deadline,
    sql: str,
    count: int | None = None,
    at_least: int = 0,
    at_most: int | None = None,
    table: str = "",
    parameters: dict[str, Any] = {},
    memory: Size = GIBIBYTE,
) -> Counted:
    """A query finds as many rows as it should; all are counted, none are fetched.

    Args:
        sql: The query; it names tables as the catalog does, with or without their namespace.
        count: Exactly so many.
        at_least: No fewer than these; 1 when nothing is said.
        at_most: No more than these.
        table: A table that the query means by its name without the namespace, when that is not the default one.
        parameters: Values for the placeholders `$name` in the query.
        memory: What DuckDB may use.
    """
    if count is None and at_most is None:
        at_least = at_least or 1
    tables = _opened(iceberg, deadline, sql, table, {})
    counted = f"SELECT count(*) AS n FROM ({sql.strip().rstrip(';')}) AS asked"  # noqa: S608 - a single SELECT, locked in
    with judged(iceberg, "query the tables"), duckdb_sql.opened(tables, deadline, memory, THREADS) as database:
        found = duckdb_sql.ask(database, counted, parameters, 1).rows[0]["n"]
    low, high = (at_least, at_most) if count is None else (count, count)
    if found < low or (high is not None and found > high):
        wanted = (
            f"{low:,}" if low == high else f"at least {low:,}" + (f", at most {high:,}" if high is not None else "")
        )
        raise Refused(f"the query finds {found:,} rows in {', '.join(tables)}, not {wanted}")
    return Counted(rows=found, source=iceberg.source)


@action("duckdb.explain")
def explain(
    iceberg: Iceberg,
    deadline: Deadline,
    sql: str,
    table: str = "",
    parameters: dict[str, Any] = {},
    memory: Size = GIBIBYTE,
) -> Plan:
    """How DuckDB goes about a query: it is run, and each operator's rows and times are told.

    Args:
        sql: The query; it names tables as the catalog does, with or without their namespace.
        table: A table that the query means by its name without the namespace, when that is not the default one.
        parameters: Values for the placeholders `$name` in the query.
        memory: What DuckDB may use.
    """
    tables = _opened(iceberg, deadline, sql, table, {})
    with judged(iceberg, "query the tables"), duckdb_sql.opened(tables, deadline, memory, THREADS) as database:
        plan = duckdb_sql.explain(database, sql, parameters)
    return Plan(plan=plan, lines=len(plan.splitlines()), source=iceberg.source)


def _opened(
    iceberg: Iceberg, deadline: Deadline, sql: str, table: str, snapshots: Mapping[str, int]
) -> dict[str, Table]:
    """The tables that a query names, as of the snapshots that are named."""
    given = {table.rpartition(".")[2]: table, table: table} if table else {}
    names = duckdb_sql.table_names(sql)
    if strange := sorted(set(snapshots) - set(names)):
        raise AuthorError(f"the query names no table {', '.join(strange)}, only {', '.join(names)}")
    return {name: open_table(iceberg, deadline, given.get(name, name), snapshots.get(name, 0)) for name in names}


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else beginning(str(value), 40)
