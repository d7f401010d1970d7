from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from wheel_programs import PostgresServer

from k2run.daemon.schedule.ledger import FileLedger, Record, State
from k2run.daemon.schedule.scheduler import Ending, Scheduler
from k2run.daemon.schedule.timetable import Calendar, Entry
from k2run.errors import StackBusy
from k2run.language.model import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class SimulatedRun:
    """A run on a simulated executor: it takes a while of simulated time, and it may find that it comes too late."""

    executor: SimulatedFloor
    entry: str
    due: datetime
    stack: str
    until: datetime
    busy: bool = False

    def ending(self) -> Ending | None:
        if self.busy:
            return Ending(exit_code=StackBusy.exit_code)
        return Ending(run=f"{self.entry} {self.due}", exit_code=0) if self.executor.now >= self.until else None

    def stop(self) -> None:
        self.until = self.executor.now


@dataclass
class SimulatedFloor:
    """Stacks and runs in simulated time; runs outlive the scheduler that started them."""

    now: datetime
    minutes: float = 20.0
    runs: list[SimulatedRun] = field(default_factory=list)
    held_until: dict[str, datetime] = field(default_factory=dict)
    snatch: Callable[[], bool] = lambda: False

    def holder(self, stack: str) -> str:
        if self.held_until.get(stack, self.now) > self.now:
            return "another run"
        going = (run for run in self.runs if run.stack == stack and not run.busy and run.until > self.now)
        return next((run.entry for run in going), "")

    def start(self, entry: Entry, due: datetime, release: Callable[[], None]) -> SimulatedRun:  # noqa: ARG002 - files hold no stack
        busy = bool(self.holder(entry.stack)) or self.snatch()
        until = self.now + timedelta(minutes=self.minutes)
        run = SimulatedRun(self, entry.id, due, entry.stack, until, busy=busy)
        self.runs.append(run)
        return run

    def trace(self, record: Record) -> Ending | None:
        for run in self.runs:
            if (run.entry, run.due) == (record.entry, record.due) and not run.busy:
                return run.ending()
        return Ending(why="it never began")

    def begun(self) -> list[tuple[str, datetime]]:
        """The due times of all runs that have begun."""
        return [(run.entry, run.due) for run in self.runs if not run.busy]


def entry_of(name: str, stack: str = "sandbox", **schedule: Any) -> Entry:
    return Entry(id=name, runbook=Path(f"{name}.yaml"), name=name, stack=stack, schedule=Schedule(**schedule))


@pytest.fixture
def entry() -> Callable[..., Entry]:
    return entry_of


@dataclass
class Office:
    """Schedulers on one ledger and one executor, in simulated time."""

    folder: Path
    executor: SimulatedFloor
    calendar: Calendar = field(default_factory=Calendar)
    told: list[Record] = field(default_factory=list)

    @property
    def ledger(self) -> FileLedger:
        return FileLedger(self.folder)

    def scheduler(self, name: str = "one") -> Scheduler:
        return Scheduler(name, self.ledger, self.executor, self.calendar, self.told.append)

    def at(self, moment: datetime) -> datetime:
        self.executor.now = moment
        return moment

    def states(self, entry: Entry) -> dict[datetime, State]:
        return {record.due: record.state for record in self.ledger.records(entry.id)}


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path / "schedule", SimulatedFloor(datetime(2026, 11, 2, tzinfo=UTC)))


@pytest.fixture
def dice() -> random.Random:
    return random.Random(7)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A PostgreSQL server of our own."""
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    # Not below pytest's own folders: those are closed to the user that the server runs as.
    with tempfile.TemporaryDirectory(prefix="k2run-postgres-") as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder))
        try:
            yield server.uri("postgres")
        finally:
            server.stop()
