"""What became of every due time: one record each, taken by exactly one scheduler, in files or in PostgreSQL."""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from msgspec import Struct

from k2run.errors import StackUnavailable, UsageError
from k2run.files import created, drafted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from k2run.engine.store import Store

LEASE = timedelta(minutes=2)
"""A record that its scheduler has not touched for this long has lost it."""
KEPT = 2000
"""Records of an entry that are kept."""
_NAME = "%Y%m%dT%H%M%S.%fZ"


class State(StrEnum):
    """How far a due time has come."""

    WAITING = "waiting"  # until the stack is free
    STARTED = "started"
    FINISHED = "finished"
    SKIPPED = "skipped"  # on purpose: quiet hours, the stack was held
    MISSED = "missed"  # no scheduler was running, or it was overtaken


OPEN = frozenset({State.WAITING, State.STARTED})


class Record(Struct, frozen=True, kw_only=True):
    """A due time and what became of it.

    Attributes:
        owner: The scheduler that has it.
        touched: When its owner last wrote it.
        first: The earliest of several missed due times that one record stands for; `due` is the latest of them.
        why: Why it was skipped or missed, or how the run ended.
        late_s: Seconds from the due time to the start of the run.
    """

    entry: str
    name: str
    stack: str
    due: datetime
    state: State
    owner: str
    touched: datetime
    first: datetime | None = None
    count: int = 1
    run: str = ""
    why: str = ""
    late_s: float | None = None
    exit_code: int | None = None


class Claim(Struct, frozen=True):
    """A due time that was taken; `release` lets its stack go again, and is None when another scheduler holds it."""

    record: Record
    release: Callable[[], None] | None


class Ledger(Protocol):
    """Where records are kept; several schedulers may share it."""

    def since(self, entry: str, now: datetime) -> datetime:
        """When an entry was first seen: due times before that do not count."""
        ...

    def take(self, record: Record) -> bool:
        """Keep the first record of a due time; False when there is one already."""
        ...

    def replace(self, old: Record, new: Record) -> bool:
        """Put a record in the place of another; False when that is no longer there."""
        ...

    def newest(self, entry: str) -> Record | None:
        """The record of the latest due time."""
        ...

    def open(self, entry: str) -> list[Record]:
        """The records that are not closed yet, by due time."""
        ...

    def records(self, entry: str) -> list[Record]:
        """The records of an entry that are kept, by due time."""
        ...

    def entries(self) -> list[str]:
        """Every entry that has been seen."""
        ...

    def claim(self, record: Record, otherwise: Record, old: Record | None = None) -> Claim | None:
        """Take a due time, and then hold its stack against other schedulers: both, or neither when this process dies.

        Args:
            record: What is kept when the stack is free.
            otherwise: What is kept when another scheduler holds it.
            old: The record that either takes the place of; None for the first one of the due time.

        Returns:
            What was kept; None when another scheduler has the due time.
        """
        ...


class FileLedger:
    """Records as files of one folder, which is made when missing, for any number of schedulers on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._closed: dict[str, dict[str, Record]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def since(self, entry: str, now: datetime) -> datetime:
        """When an entry was first seen."""
        path = self.folder / entry / "since"
        path.parent.mkdir(exist_ok=True)
        created(path, now.isoformat().encode())
        return datetime.fromisoformat(path.read_text(encoding="utf-8"))

    def take(self, record: Record) -> bool:
        """Keep the first record of a due time."""
        return created(self._path(record), msgspec.json.encode(record))

    def replace(self, old: Record, new: Record) -> bool:
        """Put a record in the place of another."""
        path = self._path(old)
        with self._alone():
            if _read(path) != old:
                return False
            with drafted(path) as draft:
                draft.write_bytes(msgspec.json.encode(new))
        return True

    def newest(self, entry: str) -> Record | None:
        """The record of the latest due time."""
        return next(filter(None, (self._read(entry, name) for name in reversed(self._names(entry)))), None)

    def open(self, entry: str) -> list[Record]:
        """The records that are not closed yet, by due time."""
        closed = self._closed.setdefault(entry, {})
        records = (self._read(entry, name) for name in self._names(entry) if name not in closed)
        return [record for record in records if record is not None and record.state in OPEN]

    def records(self, entry: str) -> list[Record]:
        """The records of an entry that are kept, by due time."""
        return [record for name in self._names(entry) if (record := self._read(entry, name)) is not None]

    def _names(self, entry: str) -> list[str]:
        """The files of an entry's records, by due time; older ones than are kept are removed."""
        folder = self.folder / entry
        try:
            names = sorted(name for name in os.listdir(folder) if name[0].isdigit() and name.endswith(".json"))  # noqa: PTH208 - a hundred times as fast
        except OSError:
            return []
        for name in names[:-KEPT]:
            (folder / name).unlink(missing_ok=True)
            self._closed.get(entry, {}).pop(name, None)
        return names[-KEPT:]

    def _read(self, entry: str, name: str) -> Record | None:
        """A record; one that is closed does not change any more and is read once."""
        closed = self._closed.setdefault(entry, {})
        found = closed.get(name) or _read(self.folder / entry / name)
        if found is not None and found.state not in OPEN:
            closed[name] = found
        return found

    def entries(self) -> list[str]:
        """Every entry that has been seen."""
        return sorted(path.parent.name for path in self.folder.glob("*/since"))

    def claim(self, record: Record, otherwise: Record, old: Record | None = None) -> Claim | None:  # noqa: ARG002 - on one machine the run's own lock is enough
        """Take a due time; nothing more than the lock of the run itself holds its stack."""
        kept = self.take(record) if old is None else self.replace(old, record)
        return Claim(record, lambda: None) if kept else None

    def _path(self, record: Record) -> Path:
        return self.folder / record.entry / f"{record.due.strftime(_NAME)}.json"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        file = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)


def _read(path: Path) -> Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None


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
