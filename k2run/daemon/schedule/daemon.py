"""The scheduler as a process: APScheduler keeps the time, the scheduler decides, each run is a process of its own."""

from __future__ import annotations

import os
import socket
import threading
import time
import traceback
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from k2run.app.launch import open_stack
from k2run.app.leftover_faults import warn_of_broken
from k2run.app.run_processes import Order, last_words, process_of, run_by, start_detached
from k2run.daemon.schedule.ledger import open_ledger
from k2run.daemon.schedule.scheduler import Ending, Scheduler
from k2run.daemon.schedule.timetable import Entry, line_of, read_calendar, read_entries, runbook_files
from k2run.engine.journal import read_journal
from k2run.engine.replay import ended
from k2run.engine.safeguards import StopRequest
from k2run.engine.store import Store, holder
from k2run.errors import K2runError
from k2run.language.quantities import Duration
from k2run.stack.secrets import as_written
from k2run.terminal.safe_stream import say

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence

    from k2run.daemon.schedule.ledger import Ledger, Record
    from k2run.daemon.schedule.timetable import Calendar

WATCH_S = 1
RELOAD_S = 15
JUMP_S = 5.0
"""Seconds by which the clock may differ from the time that passed: less is its being kept right."""


class DueTrigger(BaseTrigger):  # type: ignore[misc] # APScheduler has no types
    """Fires when the run of an entry is to start."""

    def __init__(self, entry: Entry, scheduler: Scheduler) -> None:
        self._entry = entry
        self._scheduler = scheduler

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The next start; the scheduler itself finds what is overdue."""
        after = max(filter(None, (previous_fire_time, now)))
        pairs = self._entry.starts(self._scheduler.calendar, after.astimezone(UTC))
        return next((start for _, start in pairs), None)


class ScheduleDaemon:
    """One scheduler.

    Args:
        references: The runbooks it looks after; all of `runbooks/` when empty.
        calendar: Reads the calendar, again whenever runbooks are read again.
        store: The k2run home.
        ledger: Where due times are taken.
    """

    def __init__(self, references: Sequence[str], calendar: Any, store: Store, ledger: Ledger) -> None:
        self._references = references
        self._read_calendar = calendar
        self._scheduler = Scheduler(f"{this_host()}:{os.getpid()}", ledger, ProcessExecutor(store), calendar(), _tell)
        self._entries: list[Entry] = []
        self._seen: dict[Path, tuple[int, int]] = {}
        self._reloaded = 0.0
        self._seen_at = (datetime.now(UTC), time.monotonic())
        self._clock = BackgroundScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )

    def run(self, patience: float) -> None:
        """Work until a signal comes; then let runs finish for a while, then have them undo, and end.

        Args:
            patience: Seconds that runs may still take after the first signal.
        """
        with StopRequest() as signals:
            self._reload()
            self._clock.start()
            count = len(self._entries)
            say(f"looking after {count} schedule{'s' if count != 1 else ''}; `--list` shows what is due")
            while not signals.run.is_set():
                self._turn()
                signals.run.wait(WATCH_S)
            self._scheduler.close()
            self._wind_up(signals, time.monotonic() + patience)
            self._clock.shutdown(wait=False)
        say("ended")

    def _wind_up(self, signals: StopRequest, until: float) -> None:
        """Wait for the runs that go on; a second signal, or the end of patience, asks them to end."""
        asked = False
        if self._scheduler.working:
            say(f"{signals.name}: nothing more is started, {self._scheduler.working} run(s) may finish")
        while self._scheduler.working and not signals.cleanup.is_set():
            if not asked and (signals.count > 1 or time.monotonic() > until):
                asked = True
                say("the runs that go on are asked to end; they undo their faults first")
                self._scheduler.stop_jobs()
            time.sleep(0.1)
            self._turn()

    def _turn(self) -> None:
        """Once a second of time that passes, whatever the clock says; what goes wrong is told and tried again."""
        try:
            self._check_clock()
            if time.monotonic() - self._reloaded > RELOAD_S:
                self._reload()
            self._watch()
        except Exception:  # noqa: BLE001 - a database that is away for a moment must not end the schedule
            traceback.print_exc()

    def _watch(self) -> None:
        self._scheduler.watch(self._entries, datetime.now(UTC))

    def _check_clock(self) -> None:
        """Tell when the clock went another way than the time that passed, and wake what waits for it."""
        now, passed = datetime.now(UTC), time.monotonic()
        expected = self._seen_at[0] + timedelta(seconds=passed - self._seen_at[1])
        self._seen_at = (now, passed)
        jump = (now - expected).total_seconds()
        if abs(jump) < JUMP_S:
            return
        if jump > 0:
            self._scheduler.leap(expected, now)
            what = f"went {Duration(round(jump))} ahead of the time that passed (put forward, or the machine slept)"
        else:
            what = f"was put back by {Duration(round(-jump))}; due times that were taken before are not taken again"
        say(f"{now:%Y-%m-%d %H:%M:%S}Z the clock {what}")
        self._clock.wakeup()

    def _reload(self) -> None:
        """Read the runbooks again when one of them has changed."""
        self._reloaded = time.monotonic()
        files = [*runbook_files(self._references)]
        seen = {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.exists()}
        calendar: Calendar = self._read_calendar()
        if seen == self._seen and calendar == self._scheduler.calendar:
            return
        self._seen, self._scheduler.calendar = seen, calendar
        self._entries = read_entries(files, calendar)
        for job in self._clock.get_jobs():
            if job.id.startswith("entry "):
                job.remove()
        for entry in self._entries:
            self._clock.add_job(
                self._attend,
                DueTrigger(entry, self._scheduler),
                args=[entry],
                id=f"entry {entry.id}",
                replace_existing=True,
            )

    def _attend(self, entry: Entry) -> None:
        self._scheduler.attend(entry, datetime.now(UTC))


def _tell(record: Record) -> None:
    say(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z {line_of(record)}")


def keep_schedule(references: Sequence[str], *, calendar: str, patience: str) -> None:
    """Run a scheduler until a signal ends it.

    Args:
        references: The runbooks it looks after; all of `runbooks/` when empty.
        calendar: The calendar file; "" for `calendar.yaml`, where there is one.
        patience: How long runs may still take after the first signal.
    """
    store = Store()
    warn_of_broken(store)
    reading = partial(read_calendar, Path(calendar) if calendar else None)
    ScheduleDaemon(references, reading, store, open_ledger(store)).run(float(Duration.parse(patience)))


def marker(entry: str, due: datetime) -> str:
    """Who asked for the run of a due time, as its journal says."""
    return f"schedule {entry} {due:%Y-%m-%dT%H:%M:%SZ}"


def this_host() -> str:
    """The name of this machine, as it begins the names of its schedulers."""
    return socket.gethostname()


class ProcessExecutor:
    """Starts runs as processes of their own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._names: dict[tuple[str, Path], str] = {}

    def holder(self, stack: str) -> str:
        """Who holds a stack; empty when it is free."""
        return holder(self._store.stack_folder(self._name(stack)))

    def start(self, entry: Entry, due: datetime, release: Callable[[], None]) -> Process:
        """Start the run of a due time; its stack is released at the moment in which its process ends."""
        schedule = entry.schedule
        order = Order(
            runbook=entry.runbook.absolute(),
            stack=schedule.stack,
            by=marker(entry.id, due),
            inputs={name: as_written(value) for name, value in schedule.inputs.items()},
            tags=schedule.tags,
        )
        log = self._store.home / "schedule" / entry.id / f"{due:%Y%m%dT%H%M%SZ}.log"
        process = start_detached(order, self._store.home, log)
        threading.Thread(target=_release_after, args=(process, release), daemon=True).start()
        return Process(process, self._store, marker(entry.id, due), log, due)

    def trace(self, record: Record) -> Ending | None:
        """How a run ended that another scheduler of this machine has started."""
        if record.owner.rpartition(":")[0] != this_host():
            return None
        folder = find_run(self._store, marker(record.entry, record.due), record.due)
        if folder is None:
            return Ending(why="the scheduler died before the run began")
        return _ending(self._store, folder)

    def _name(self, stack: str) -> str:
        """The name that a stack's file gives it; a stack that cannot be read counts as free."""
        try:
            return open_stack(stack, near=Path("runbooks"), store=self._store).name
        except K2runError:
            return stack


def _release_after(process: subprocess.Popen[bytes], release: Callable[[], None]) -> None:
    process.wait()
    release()


class Process:
    """The process of one run."""

    def __init__(self, process: subprocess.Popen[bytes], store: Store, by: str, log: Path, due: datetime) -> None:
        self._process = process
        self._store = store
        self._by = by
        self._log = log
        self._due = due

    def ending(self) -> Ending | None:
        """How it ended; None while it goes on."""
        code = self._process.poll()
        if code is None:
            return None
        folder = find_run(self._store, self._by, self._due)
        if folder is None:
            return Ending(why=last_words(self._log), exit_code=code)
        self._log.unlink(missing_ok=True)  # the journal has it all
        ending = _ending(self._store, folder)
        return Ending(run=folder.name, why=ending.why if ending else "", exit_code=code)

    def stop(self) -> None:
        """Ask it to end; it undoes its faults first."""
        if self._process.poll() is None:
            self._process.terminate()


def find_run(store: Store, by: str, since: datetime) -> Path | None:
    """The run that was asked for under that name, not earlier than `since`."""
    found = run_by(store, by, f"{since:%Y%m%d-%H%M%S}")
    return found[0] if found is not None else None


def _ending(store: Store, folder: Path) -> Ending | None:
    events = read_journal(folder)
    over = ended(events)
    if over is not None:
        return Ending(run=folder.name, why=over.verdict, exit_code=over.exit_code)
    if process_of(store, folder.name, events) is not None:
        return None
    return Ending(run=folder.name, why="the run was interrupted; `k2run resume` continues it")
