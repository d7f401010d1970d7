"""The ledger of schedulers on several machines, in PostgreSQL."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.daemon.schedule.ledger import KEPT, OPEN, Claim, FileLedger, Record
from k2run.errors import StackUnavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from k2run.daemon.schedule.ledger import Ledger
    from k2run.engine.store import Store

DATABASE = "K2RUN_SCHEDULE_DATABASE"
_TABLES = """
create table if not exists k2run_schedule_entries (entry text primary key, since timestamptz not null);
create table if not exists k2run_schedule (
  entry text not null, due timestamptz not null, open boolean not null, record text not null, primary key (entry, due));
"""
_TAKE = "insert into k2run_schedule values (%s, %s, %s, %s) on conflict do nothing"
_REPLACE = "update k2run_schedule set open = %s, record = %s where entry = %s and due = %s and record = %s"
_HOLD = "select pg_try_advisory_lock(hashtextextended(%s, 0))"
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
        return self._run(_TAKE, *_taken(record)) == 1

    def replace(self, old: Record, new: Record) -> bool:
        """Put a record in the place of another."""
        return self._run(_REPLACE, *_replaced(old, new)) == 1

    def entries(self) -> list[str]:
        """Every entry that has been seen."""
        return [entry for (entry,) in self._rows("select entry from k2run_schedule_entries order by entry")]

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

    def claim(self, record: Record, otherwise: Record, old: Record | None = None) -> Claim | None:
        """Take a due time, then hold its stack by an advisory lock, which the database drops when this process dies.

        Who does not get the due time does not touch the lock, so no stack is held by a scheduler that starts nothing
        on it.
        """
        connection = self._connect()
        try:
            with connection.transaction():
                words = (_TAKE, _taken(record)) if old is None else (_REPLACE, _replaced(old, record))
                if connection.execute(*words).rowcount != 1:
                    connection.close()
                    return None
                [(held,)] = connection.execute(_HOLD, (_key(record.stack),)).fetchall()
                if not held:
                    connection.execute(_REPLACE, _replaced(record, otherwise))
        except self._lost:
            connection.close()
            raise
        if held:
            return Claim(record, lambda: self._release(connection, record.stack))
        connection.close()
        return Claim(otherwise, None)

    def _release(self, connection: Any, stack: str) -> None:
        """Let a stack go; asked for, as of a closed connection the server hears only a moment later."""
        with suppress(self._lost):
            connection.execute("select pg_advisory_unlock(hashtextextended(%s, 0))", (_key(stack),))
        connection.close()

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


def _taken(record: Record) -> tuple[Any, ...]:
    return record.entry, record.due, record.state in OPEN, _text(record)


def _replaced(old: Record, new: Record) -> tuple[Any, ...]:
    return new.state in OPEN, _text(new), old.entry, old.due, _text(old)


def _key(stack: str) -> str:
    return f"k2run stack {stack}"


def _text(record: Record) -> str:
    return msgspec.json.encode(record).decode()


def open_ledger(store: Store) -> Ledger:
    """The ledger: in the database that the environment names, else in the k2run home."""
    address = os.environ.get(DATABASE, "")
    return PostgresLedger(address) if address else FileLedger(store.home / "schedule")
