"""Shows what is due next, and what became of the last due times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.daemon.schedule.calendar import read_calendar
from k2run.daemon.schedule.due import is_quiet
from k2run.daemon.schedule.entries import read_entries, runbook_files
from k2run.daemon.schedule.shared_ledger import open_ledger
from k2run.engine.store import Store
from k2run.language.quantities import Duration
from k2run.language.triggers import parse_zone
from k2run.terminal.safe_stream import say, say_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k2run.daemon.schedule.calendar import Calendar
    from k2run.daemon.schedule.entries import Entry
    from k2run.daemon.schedule.ledger import Ledger, Record

NEXT, LAST = 10, 10
MANY = 100
"""Due times in the quiet hours, over two days or more, after which there will be no others."""


def list_schedule(references: Sequence[str], *, calendar: str, json: bool) -> None:
    """Show what is due next, and what became of the last due times."""
    events = read_calendar(Path(calendar) if calendar else None)
    entries = read_entries(runbook_files(references), events)
    show_schedule(entries, events, open_ledger(Store()), json=json)


def show_schedule(entries: Sequence[Entry], calendar: Calendar, ledger: Ledger, *, json: bool) -> None:
    """Show the next ten starts and the last ten records."""
    now = datetime.now(UTC)
    coming = sorted(
        ((start, due, entry) for entry in entries for due, start in islice(_loud(entry, calendar, now), NEXT)),
        key=lambda item: (item[0], item[2].id),
    )[:NEXT]
    past = sorted((record for entry in entries for record in ledger.records(entry.id)), key=lambda record: record.due)
    if json:
        rows = [
            {"start": start, "due": due, "runbook": entry.name, "stack": entry.stack} for start, due, entry in coming
        ]
        say_json({"next": rows, "last": past[-LAST:]})
        return
    if not entries:
        say("no runbook here has a `schedule`")
    for start, due, entry in coming:
        say(f"{_local(entry, start)}  {entry.name} on {entry.stack}  ({entry.clock}){_later(due, start)}")
    for entry in entries:
        if entry.schedule.quiet and next(_loud(entry, calendar, now), None) is None:
            say(f"{entry.name} on {entry.stack}  ({entry.clock}): nothing, its quiet hours {entry.schedule.quiet}")
    if past:
        say("\nlast")
    for record in past[-LAST:]:
        say(f"{record.due:%Y-%m-%d %H:%M:%S}Z  {line_of(record)}")


def _loud(entry: Entry, calendar: Calendar, now: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Due times and starts that are not in the quiet hours; none when all of them are."""
    quiet = 0
    for due, start in entry.starts(calendar, now):
        if not is_quiet(entry.schedule, due):
            quiet = 0
            yield due, start
            continue
        quiet += 1
        if quiet > MANY and due > now + timedelta(days=2):
            return


def line_of(record: Record) -> str:
    """What became of a due time, in a line."""
    if record.count > 1 and record.first is not None:
        what = f"{record.name}: {record.count} runs due from {_clock(record.first)} to {_clock(record.due)}"
    else:
        what = f"{record.name} due {_clock(record.due)}"
    late = f", {Duration(record.late_s)} late" if record.late_s and record.late_s >= 1 else ""
    run = f" as {record.run}" if record.run else ""
    return f"{what}: {record.state}{late}{run}{f': {record.why}' if record.why else ''}"


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}Z"


def _local(entry: Entry, moment: datetime) -> str:
    """A time in the zone of its schedule."""
    return f"{moment.astimezone(parse_zone(entry.schedule.timezone)):%a %Y-%m-%d %H:%M:%S %Z}"


def _later(due: datetime, start: datetime) -> str:
    return f", jitter {Duration((start - due).total_seconds())}" if start != due else ""
