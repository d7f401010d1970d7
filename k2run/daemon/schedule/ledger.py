"""What became of every due time: one record each, taken by exactly one scheduler."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec import Struct

from k2run.atomic_write import created, drafted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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
