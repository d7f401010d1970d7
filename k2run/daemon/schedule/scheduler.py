"""The scheduler's decisions: takes what is due, starts it, lets it wait, or says why it was not started."""

from __future__ import annotations

import threading
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct
from msgspec.structs import replace

from k2run.daemon.schedule.ledger import LEASE, Record, State
from k2run.daemon.schedule.timetable import is_quiet
from k2run.errors import StackBusy
from k2run.language.model import WhenLocked
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from k2run.daemon.schedule.ledger import Ledger
    from k2run.daemon.schedule.timetable import Calendar, Entry


class Ending(Struct, frozen=True, kw_only=True):
    """How a run ended, as far as can be told.

    Attributes:
        run: Its id; empty when it never began.
        why: In a sentence.
    """

    run: str = ""
    why: str = ""
    exit_code: int | None = None


class Work(Protocol):
    """A run that this scheduler has started."""

    def ending(self) -> Ending | None:
        """How it ended; None while it goes on."""
        ...

    def stop(self) -> None:
        """Ask it to end; it undoes its faults first."""
        ...


class Executor(Protocol):
    """Where runs are done."""

    def holder(self, stack: str) -> str:
        """Who holds a stack; empty when it is free."""
        ...

    def start(self, entry: Entry, due: datetime, release: Callable[[], None]) -> Work:
        """Start the run of a due time.

        Args:
            entry: Its schedule.
            due: The due time.
            release: Called once, as soon as the run has ended: until then its stack is held.

        Raises:
            OSError: No process can be started.
        """
        ...

    def trace(self, record: Record) -> Ending | None:
        """How a run ended that another scheduler has started; None while it goes on, or when that cannot be seen here.

        An ending without a run's id: it never began.
        """
        ...


class _Job(Struct, frozen=True):
    entry: Entry
    record: Record
    work: Work


class _Span:
    """Due times one after the other that are all in the quiet hours, or none of them is."""

    def __init__(self, first: datetime, *, quiet: bool) -> None:
        self.first, self.last, self.quiet, self.count = first, first, quiet, 0
        self._before = first

    def add(self, due: datetime) -> None:
        """Add the next one."""
        self._before, self.last, self.count = self.last, due, self.count + 1

    def pop(self) -> datetime:
        """Take the last one out; only once."""
        due, self.last, self.count = self.last, self._before, self.count - 1
        return due


class Scheduler:
    """Looks after entries for one scheduler. Whatever happens, each due time gets one record in the ledger.

    Args:
        name: The scheduler's name, unique among all that share the ledger.
        ledger: Where due times are taken.
        executor: Where runs are done.
        calendar: The events.
        tell: Told of everything that is decided.
    """

    def __init__(
        self, name: str, ledger: Ledger, executor: Executor, calendar: Calendar, tell: Callable[[Record], None]
    ) -> None:
        self.calendar = calendar
        self._name = name
        self._ledger = ledger
        self._executor = executor
        self._tell = tell
        self._jobs: dict[tuple[str, datetime], _Job] = {}
        self._lock = threading.RLock()
        self._closed = False
        self._leaps: list[tuple[datetime, datetime]] = []

    @property
    def working(self) -> int:
        """How many runs of this scheduler go on."""
        return len(self._jobs)

    def watch(self, entries: Iterable[Entry], now: datetime) -> None:
        """See which runs have ended, and attend to every entry."""
        with self._lock:
            for job in list(self._jobs.values()):
                ending = job.work.ending()
                if ending is not None:
                    self._settle(job, ending, now)
            for entry in entries:
                self.attend(entry, now)

    def attend(self, entry: Entry, now: datetime) -> None:
        """Do what is to be done for an entry by now."""
        with self._lock:
            for record in self._ledger.open(entry.id):
                self._look_after(entry, record, now)
            if not self._closed:
                self._take_due(entry, now)

    def close(self) -> None:
        """Take nothing more; what goes on, goes on, and what waits is left to other schedulers."""
        with self._lock:
            self._closed = True

    def stop_jobs(self) -> None:
        """Ask the runs that go on to end."""
        with self._lock:
            for job in self._jobs.values():
                job.work.stop()

    def leap(self, expected: datetime, now: datetime) -> None:
        """Note that the clock was put forward: due times between the two are not missed for want of a scheduler.

        Args:
            expected: What the clock would say if only time had passed.
            now: What it says.
        """
        self._leaps = [*self._leaps[-9:], (expected, now)]

    # --- what is due ---

    def _take_due(self, entry: Entry, now: datetime) -> None:
        """Take the newest due time; earlier ones that were not taken are missed, or were in the quiet hours."""
        newest = self._ledger.newest(entry.id)
        last = newest.due if newest else self._ledger.since(entry.id, now)
        spans: list[_Span] = []
        for due in self._ripe(entry, last, now):
            quiet = is_quiet(entry.schedule, due)
            if not spans or spans[-1].quiet is not quiet:
                spans.append(_Span(due, quiet=quiet))
            spans[-1].add(due)
        if not spans:
            return
        due = spans[-1].pop()
        for span in filter(lambda span: span.count, spans):
            if not self._pass_over(entry, span, now):
                return  # another scheduler is at it
        self._take_newest(entry, due, now)

    def _pass_over(self, entry: Entry, span: _Span, now: datetime) -> bool:
        """Note the due times before the newest one; False when another scheduler has."""
        state = State.SKIPPED if span.quiet else State.MISSED
        why = f"quiet hours {entry.schedule.quiet}" if span.quiet else self._why_missed(span.last)
        record = self._record(entry, span.last, state, now, why=why)
        return self._note(replace(record, first=span.first, count=span.count))

    def _take_newest(self, entry: Entry, due: datetime, now: datetime) -> None:
        late = (now - due).total_seconds()
        record = self._record(entry, due, State.STARTED, now)
        if is_quiet(entry.schedule, due):
            self._note(replace(record, state=State.SKIPPED, why=f"quiet hours {entry.schedule.quiet}"))
        elif self._too_late(entry, late):
            why = f"{self._why_missed(due)}, and {Duration(late)} is too late to make up for it"
            self._note(replace(record, state=State.MISSED, why=why))
        else:
            self._start(entry, record)

    def _why_missed(self, due: datetime) -> str:
        """Why nothing was started at a due time."""
        for expected, said in self._leaps:
            if expected < due <= said:
                ahead = Duration(round((said - expected).total_seconds()))
                return f"the clock went {ahead} ahead of the time that passed (put forward, or the machine slept)"
        return "no scheduler was running"

    def _ripe(self, entry: Entry, last: datetime, now: datetime) -> Iterator[datetime]:
        """Due times after `last`, in order, as long as their runs are to start by now."""
        pairs = takewhile(lambda pair: pair[1] <= now, entry.starts(self.calendar, last))
        return (due for due, _ in pairs if due > last)

    def _too_late(self, entry: Entry, late: float) -> bool:
        return late > float(entry.schedule.catch_up) + float(entry.schedule.jitter)

    def _record(self, entry: Entry, due: datetime, state: State, now: datetime, why: str = "") -> Record:
        return Record(
            entry=entry.id,
            name=entry.name,
            stack=entry.stack,
            due=due,
            state=state,
            owner=self._name,
            touched=now,
            why=why,
        )

    def _note(self, record: Record) -> bool:
        """Keep the first record of a due time, unless another scheduler has."""
        return self._keep(record, self._ledger.take)

    def _keep(self, record: Record, put: Callable[[Record], bool]) -> bool:
        kept = put(record)
        if kept:
            self._tell(record)
        return kept

    # --- starting ---

    def _start(self, entry: Entry, record: Record, old: Record | None = None) -> None:
        """Start a run, if its stack is free. The record is in the ledger first: who got it there has the right to."""
        now = record.touched
        late = max(0.0, (now - record.due).total_seconds())
        started = replace(record, state=State.STARTED, late_s=late, why="")
        holder = self._executor.holder(entry.stack)
        if holder:
            self._put_off(entry, record, holder, old)
            return
        claim = self._ledger.claim(started, self._put_off_as(entry, record, "a run of another scheduler"), old)
        if claim is None:
            return
        self._tell(claim.record)
        if claim.release is None:
            return
        try:
            work = self._executor.start(entry, record.due, claim.release)
        except OSError as error:
            claim.release()
            self._change(started, replace(started, state=State.MISSED, why=f"it could not be started: {error}"), now)
            return
        self._jobs[record.entry, record.due] = _Job(entry, started, work)

    def _put_off(self, entry: Entry, record: Record, holder: str, old: Record | None) -> None:
        put_off = self._put_off_as(entry, record, holder)
        self._keep(put_off, self._ledger.take if old is None else partial(self._ledger.replace, old))

    @staticmethod
    def _put_off_as(entry: Entry, record: Record, holder: str) -> Record:
        queued = entry.schedule.when_locked is WhenLocked.QUEUE
        why = f"the stack {entry.stack!r} was held by {holder}"
        return replace(record, state=State.WAITING if queued else State.SKIPPED, why=why, late_s=None)

    def _settle(self, job: _Job, ending: Ending, now: datetime) -> None:
        del self._jobs[job.record.entry, job.record.due]
        if ending.exit_code == StackBusy.exit_code:  # another process took the stack first
            self._put_off(job.entry, replace(job.record, touched=now), "a run that was quicker", job.record)
        else:
            self._finish(job.record, ending, now)

    def _finish(self, record: Record, ending: Ending, now: datetime) -> None:
        state = State.FINISHED if ending.run or ending.exit_code is not None else State.MISSED
        self._change(
            record, replace(record, state=state, run=ending.run, why=ending.why, exit_code=ending.exit_code), now
        )

    # --- looking after what is open ---

    def _look_after(self, entry: Entry, record: Record, now: datetime) -> None:
        if (record.entry, record.due) in self._jobs:
            return
        abandoned = now - record.touched > LEASE
        if record.state is State.STARTED and abandoned:
            ending = self._executor.trace(record)
            if ending is not None:
                self._finish(record, ending, now)
        elif record.state is State.WAITING and not self._closed and (abandoned or record.owner == self._name):
            self._wait_on(entry, record, now)

    def _wait_on(self, entry: Entry, record: Record, now: datetime) -> None:
        """Start what waits as soon as the stack is free, unless it has waited too long."""
        waited = (now - record.due).total_seconds()
        if next(self._ripe(entry, record.due, now), None) is not None:
            self._change(
                record, replace(record, state=State.MISSED, why=f"{record.why} until the next run was due"), now
            )
        elif self._too_late(entry, waited):
            self._change(record, replace(record, state=State.MISSED, why=f"{record.why} for {Duration(waited)}"), now)
        elif not self._executor.holder(entry.stack):
            self._start(entry, replace(record, owner=self._name, touched=now), record)
        elif now - record.touched > LEASE / 4:
            self._ledger.replace(record, replace(record, owner=self._name, touched=now))

    def _change(self, old: Record, new: Record, now: datetime) -> None:
        self._keep(replace(new, owner=self._name, touched=now), partial(self._ledger.replace, old))
