"""What became of every due time: one record each, taken by exactly one scheduler."""

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

from k2run.atomic_write import created, drafted
from k2run.errors import StackUnavailable, UsageError

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

    def hold(self, stack: str) -> Callable[[], None] | None:
        """Hold a stack against schedulers of other machines.

        Returns:
            What lets it go again; None when another machine holds it.
        """
        ...


class FileLedger:
    """Records as files of one k2run home, for any number of schedulers on this machine.

    Args:
        folder: The folder; made when missing.
    """

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

    def hold(self, stack: str) -> Callable[[], None] | None:  # noqa: ARG002 - on one machine the run's own lock is enough
        """Nothing more than the lock of the run itself is needed."""
        return lambda: None

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

        def release() -> None:
            # Asked for: of a closed connection the server hears only a moment later, and holds the stack until then.
            with suppress(self._lost):
                connection.execute("select pg_advisory_unlock(hashtextextended(%s, 0))", (key,))
            connection.close()

        return release

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


def open_ledger(store: Store) -> Ledger:
    """The ledger: in the database that the environment names, else in the k2run home."""
    address = os.environ.get(DATABASE, "")
    return PostgresLedger(address) if address else FileLedger(store.home / "schedule")
