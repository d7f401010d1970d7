"""A scheduler as a process, on a shared ledger: its runs are `sleep`, and every start and end is written to a file.

Started as `python racing_scheduler.py ADDRESS FOLDER NAME`; it works until it is killed; at SIGTERM its runs end first.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.daemon.schedule.ledger import PostgresLedger
from k2run.daemon.schedule.scheduler import Ending, Scheduler
from k2run.daemon.schedule.timetable import Calendar, Entry
from k2run.language.model import Schedule, WhenLocked
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from k2run.daemon.schedule.ledger import Record

ENTRIES = 6
STACKS = 2
EVERY_S = 1.0
RUN_S = 0.15


def entries() -> list[Entry]:
    """Six schedules on two stacks: each second, three runs want each of the stacks; every other one queues."""
    return [
        Entry(
            id=f"e{number}",
            runbook=Path("none.yaml"),
            name=f"e{number}",
            stack=f"stack {number % STACKS}",
            schedule=Schedule(every=Duration(EVERY_S), when_locked=WhenLocked.QUEUE if number % 3 else WhenLocked.SKIP),
        )
        for number in range(ENTRIES)
    ]


class Sleep:
    """A run."""

    def __init__(self, process: subprocess.Popen[bytes], name: str) -> None:
        self._process, self._name = process, name

    def ending(self) -> Ending | None:
        code = self._process.poll()
        return None if code is None else Ending(run=self._name, exit_code=code)

    def stop(self) -> None:
        self._process.terminate()


class Sleepers:
    """Starts runs; only the ledger says who holds a stack."""

    def __init__(self, log: Path) -> None:
        self._log = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        self._waiting: list[threading.Thread] = []

    def holder(self, stack: str) -> str:  # noqa: ARG002 - the form of every executor
        return ""

    def start(self, entry: Entry, due: datetime, release: Callable[[], None]) -> Sleep:
        process = subprocess.Popen(["sleep", str(RUN_S)])
        self._write("start", entry, due)

        def wait() -> None:
            process.wait()
            self._write("end", entry, due)
            release()

        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        self._waiting.append(waiting)
        return Sleep(process, f"{entry.id} {due}")

    def join(self) -> None:
        """Wait until every run has ended and its stack is free."""
        for waiting in self._waiting:
            waiting.join()

    def trace(self, record: Record) -> Ending | None:  # noqa: ARG002 - likewise
        return None

    def _write(self, what: str, entry: Entry, due: datetime) -> None:
        os.write(self._log, f"{what},{entry.id},{entry.stack},{due.isoformat()},{time.time()}\n".encode())


def main(address: str, folder: str, name: str) -> None:
    """Work until killed or told to end."""
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    (Path(folder) / f"{name}.ready").touch()
    sleepers = Sleepers(Path(folder) / "runs.csv")
    scheduler = Scheduler(name, PostgresLedger(address), sleepers, Calendar(), lambda _: None)
    while not ending.is_set():
        scheduler.watch(entries(), datetime.now(UTC))
        time.sleep(0.05)
    sleepers.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
