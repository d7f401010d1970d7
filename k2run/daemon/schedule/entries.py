"""What is scheduled: every `schedule` of the runbooks that a scheduler looks after."""

from __future__ import annotations

import sys
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from k2run.actions.catalogue import Catalogue
from k2run.app.launch import DEFAULT_STACK, find_runbook
from k2run.daemon.schedule.due import due_times, start_time
from k2run.errors import K2runError, RunbookInvalid
from k2run.language.loader import load_runbook
from k2run.language.model import Schedule  # noqa: TC001 - msgspec reads the types of fields
from k2run.language.problems import did_you_mean, render
from k2run.language.quantities import encode_quantity
from k2run.language.triggers import parse_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from k2run.daemon.schedule.calendar import Calendar


class Entry(Struct, frozen=True, kw_only=True):
    """One schedule of one runbook.

    Attributes:
        id: The runbook's name and a digest of the schedule: a changed schedule is another entry, with no past.
    """

    id: str
    runbook: Path
    name: str
    stack: str
    schedule: Schedule

    def starts(self, calendar: Calendar, after: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Due times and the times at which their runs start, for those that start later than `after`."""
        earliest = after - timedelta(seconds=float(self.schedule.jitter))
        for due in due_times(self.schedule, calendar, earliest):
            start = start_time(self.id, self.schedule, due)
            if start > after:
                yield due, start

    @property
    def clock(self) -> str:
        """When, as written."""
        schedule = self.schedule
        if schedule.every is not None:
            return f"every {schedule.every}"
        return f"{schedule.cron} {schedule.timezone}" if schedule.cron else schedule.at


def runbook_files(references: Iterable[str]) -> list[Path]:
    """The runbooks that are named, or all of `runbooks/` here: what ships with k2run is not started unasked.

    Raises:
        UsageError: There is no such runbook.
    """
    named = list(references)
    if named:
        return [found for reference in named for found in _files(Path(reference)) or [find_runbook(reference)]]
    return _files(Path("runbooks"))


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.rglob("*.yaml")) if "stacks" not in path.parts]


def read_entries(files: Iterable[Path], calendar: Calendar) -> list[Entry]:
    """The schedules of runbooks; what cannot be read is told on stderr and left out, the others run nevertheless."""
    catalogue = Catalogue()
    entries: list[Entry] = []
    for file in files:
        if b"schedule:" not in file.read_bytes():
            continue
        try:
            runbook = load_runbook(file, catalogue)
        except RunbookInvalid as invalid:
            print(f"{file} is left out\n{render(invalid.problems)}", file=sys.stderr)
            continue
        except K2runError as error:
            print(f"{file} is left out: {error}", file=sys.stderr)
            continue
        for schedule in runbook.schedule:
            entry = _entry(file, runbook.name, schedule.stack or runbook.stack or DEFAULT_STACK, schedule)
            _check_event(entry, calendar)
            entries.append(entry)
    return entries


def _entry(file: Path, name: str, stack: str, schedule: Schedule) -> Entry:
    written = msgspec.json.encode((stack, schedule), enc_hook=encode_quantity, order="deterministic")
    return Entry(
        id=f"{name}-{sha256(written).hexdigest()[:8]}", runbook=file, name=name, stack=stack, schedule=schedule
    )


def _check_event(entry: Entry, calendar: Calendar) -> None:
    """An event that the calendar does not have yet is no error: it may be entered later."""
    if not entry.schedule.at:
        return
    event = parse_at(entry.schedule.at)[0]
    if event not in calendar.events:
        hint = did_you_mean(event, calendar.events)
        print(f"{entry.runbook}: the calendar has no event {event!r}{f'; {hint}' if hint else ''}", file=sys.stderr)
