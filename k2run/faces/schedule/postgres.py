"""The ledger of schedulers on several machines: a table in PostgreSQL, and its advisory locks for the stacks."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.errors import StackUnavailable, UsageError
from k2run.faces.schedule.ledger import KEPT, OPEN, Record

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

_TABLES = """
create table if not exists k2run_schedule_entries (entry text primary key, since timestamptz not null);
create table if not exists k2run_schedule (
  entry text not null, due timestamptz not null, open boolean not null, record text not null, primary key (entry, due));
"""
_GUARD = 0x6B32_7275  # an advisory lock's number: two schedulers that make the tables at once trip over each other


class PostgresLedger:
    """Records as rows.

    Args:
        address: `postgresql://user:password@host/database`.

    Raises:
        UsageError: psycopg is not installed.
        StackUnavailable: The database does not answer.
    """

    def __init__(self, address: str) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise UsageError("the PostgreSQL client is not installed", hint="pip install 'k2run[postgres]'") from error
        self._connect: Callable[[], Any] = lambda: psycopg.connect(address, autocommit=True, connect_timeout=5)
        self._lost = psycopg.OperationalError
        self._lock = threading.RLock()
        try:
            self._connection = self._connect()
        except psycopg.Error as error:
            raise StackUnavailable(
                f"the schedule's database: {str(error).strip()}", hint="K2RUN_SCHEDULE_DATABASE names it"
            ) from error
        self._run("select pg_advisory_lock(%s)", _GUARD)
        self._run(_TABLES)
        self._run("select pg_advisory_unlock(%s)", _GUARD)

    def since(self, entry: str, now: datetime) -> datetime:
        """When an entry was first seen by any scheduler."""
        self._run("insert into k2run_schedule_entries values (%s, %s) on conflict do nothing", entry, now)
        [(since,)] = self._rows("select since from k2run_schedule_entries where entry = %s", entry)
        return since  # type: ignore[no-any-return]

    def take(self, record: Record) -> bool:
        """Keep the first record of a due time."""
        statement = "insert into k2run_schedule values (%s, %s, %s, %s) on conflict do nothing"
        return self._run(statement, record.entry, record.due, record.state in OPEN, _text(record)) == 1

    def replace(self, old: Record, new: Record) -> bool:
        """Put a record in the place of another."""
        statement = "update k2run_schedule set open = %s, record = %s where entry = %s and due = %s and record = %s"
        return self._run(statement, new.state in OPEN, _text(new), old.entry, old.due, _text(old)) == 1

    def newest(self, entry: str) -> Record | None:
        """The record of the latest due time."""
        return next(iter(self._records("entry = %s order by due desc limit 1", entry)), None)

    def open(self, entry: str) -> list[Record]:
        """The records that are not closed yet, by due time."""
        return self._records("entry = %s and open order by due", entry)

    def records(self, entry: str) -> list[Record]:
        """The newest records of an entry, by due time."""
        return self._records("entry = %s order by due desc limit %s", entry, KEPT)[::-1]

    def _records(self, condition: str, *values: Any) -> list[Record]:
        rows = self._rows(f"select record from k2run_schedule where {condition}", *values)  # noqa: S608 - conditions are this module's own
        return [msgspec.json.decode(text, type=Record) for (text,) in rows]

    def hold(self, stack: str) -> Callable[[], None] | None:
        """Hold a stack by an advisory lock, which the database drops when this process dies."""
        connection = self._connect()
        key = f"k2run stack {stack}"
        [(held,)] = connection.execute("select pg_try_advisory_lock(hashtextextended(%s, 0))", (key,)).fetchall()
        if not held:
            connection.close()
            return None
        close: Callable[[], None] = connection.close
        return close

    def _run(self, statement: str, *values: Any) -> int:
        return int(self._execute(statement, values).rowcount)

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return list(self._execute(statement, values).fetchall())

    def _execute(self, statement: str, values: tuple[Any, ...]) -> Any:
        """One statement; after a lost connection, once more on a new one: none of them does harm when done twice."""
        with self._lock:
            try:
                return self._connection.execute(statement, values)
            except self._lost:
                self._connection = self._connect()
                return self._connection.execute(statement, values)


def _text(record: Record) -> str:
    return msgspec.json.encode(record).decode()
