"""The timetable: every `schedule` that a scheduler looks after, when it is due, and how the list of it is shown."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger
from msgspec import Struct

from k2run.actions.catalogue import Catalogue
from k2run.app.launch import DEFAULT_STACK, find_runbook, runbooks_below
from k2run.daemon.schedule.ledger import open_ledger
from k2run.engine.store import Store
from k2run.errors import K2runError, RunbookInvalid, UsageError
from k2run.language.document import read_file
from k2run.language.loader import load_runbook
from k2run.language.model import Schedule  # noqa: TC001 - msgspec reads the types of fields
from k2run.language.problems import did_you_mean, render
from k2run.language.quantities import Duration, encode_quantity
from k2run.language.triggers import DAYS, Cron, parse_at, parse_cron, parse_quiet, parse_zone
from k2run.terminal.safe_stream import say, say_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import tzinfo

    from apscheduler.triggers.base import BaseTrigger

    from k2run.daemon.schedule.ledger import Ledger, Record


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
        return [found for reference in named for found in runbooks_below(Path(reference)) or [find_runbook(reference)]]
    return runbooks_below(Path("runbooks"))


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


CALENDAR = Path("calendar.yaml")


class Calendar(Struct, frozen=True, kw_only=True):
    """When each event takes place, with its time zone, oldest first."""

    events: dict[str, tuple[datetime, ...]] = {}


def read_calendar(path: Path | None) -> Calendar:
    """Read a calendar file.

    Args:
        path: The file; `calendar.yaml` in the working directory, if there is one, when None.

    Raises:
        UsageError: There is no such file, or it is not a calendar.
    """
    if path is None:
        if not CALENDAR.is_file():
            return Calendar()
        path = CALENDAR
    data = read_file(path).data
    if not isinstance(data, dict) or not isinstance(data.get("events", {}), dict) or set(data) - {"timezone", "events"}:
        raise UsageError(
            f"{path} is not a calendar", hint="timezone: Europe/Berlin, events: {demo: [2026-12-01 10:00]}"
        )
    try:
        zone = parse_zone(data.get("timezone", "UTC"))
        events = {str(name): _times(times, zone) for name, times in data.get("events", {}).items()}
    except ValueError as error:
        raise UsageError(f"{path}: {error}", hint="times are written like 2026-12-01 10:00") from error
    return Calendar(events=events)


def _times(value: Any, zone: tzinfo) -> tuple[datetime, ...]:
    """One time or a list of them; those without an offset are in the calendar's zone."""
    found = (datetime.fromisoformat(str(item)) for item in (value if isinstance(value, list) else [value]))
    aware = (time if time.tzinfo else time.replace(tzinfo=zone) for time in found)
    return tuple(sorted(aware, key=lambda time: time.astimezone(UTC)))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INSTANT = timedelta(microseconds=1)
_UNITS = {"h": timedelta(hours=1), "m": timedelta(minutes=1)}
_DAYS = {"d": 1, "w": 7}


def due_times(schedule: Schedule, calendar: Calendar, after: datetime) -> Iterator[datetime]:
    """When a schedule is due, in order, later than `after`."""
    if schedule.cron:
        return _cron_times(parse_cron(schedule.cron), parse_zone(schedule.timezone), after)
    if schedule.every is not None:
        return _fire_times(IntervalTrigger(seconds=float(schedule.every), start_date=_EPOCH, timezone=UTC), after)
    return _event_times(schedule.at, calendar, after)


def start_time(entry: str, schedule: Schedule, due: datetime) -> datetime:
    """When the run of a due time starts; its jitter is drawn from the due time itself, so all schedulers agree."""
    if not schedule.jitter:
        return due
    drawn = sha256(f"{entry} {due.isoformat()}".encode()).digest()
    return due + timedelta(seconds=int.from_bytes(drawn[:4], "big") / 2**32 * float(schedule.jitter))


def is_quiet(schedule: Schedule, moment: datetime) -> bool:
    """Whether a moment is in the quiet hours."""
    if not schedule.quiet:
        return False
    first, last = parse_quiet(schedule.quiet)
    now = moment.astimezone(parse_zone(schedule.timezone)).time()
    return first <= now < last if first < last else (now >= first or now < last)


def _event_times(text: str, calendar: Calendar, after: datetime) -> Iterator[datetime]:
    """Whole days and weeks keep the time of day in the event's own zone; hours and minutes are counted."""
    event, amount, unit = parse_at(text)
    found = []
    for time in calendar.events.get(event, ()):
        if unit in _DAYS:
            found.append((time + timedelta(days=amount * _DAYS[unit])).astimezone(UTC))
        else:
            found.append(time.astimezone(UTC) + amount * _UNITS[unit])
    yield from (time for time in sorted(found) if time > after)


def _cron_times(cron: Cron, zone: tzinfo, after: datetime) -> Iterator[datetime]:
    """The times of a cron line.

    A time that the clock skips comes as much later as the clock was put forward. A time that it shows twice comes once,
    the first time, unless the hours are `*`.
    """
    fired = _fire_times(_cron_trigger(cron, zone), after)
    return (time.astimezone(UTC) for time in fired if cron.every_hour or not time.fold)


def _cron_trigger(cron: Cron, zone: tzinfo) -> BaseTrigger:
    """APScheduler's trigger for a cron line. It counts weekdays from Monday, so they are given by name."""
    clock = {"minute": _listed(cron.minutes), "hour": _listed(cron.hours), "month": _listed(sorted(cron.months))}
    days, weekdays = _listed(sorted(cron.days)), _listed(DAYS[day] for day in sorted(cron.weekdays))
    if not cron.either_day:
        return CronTrigger(day=days, day_of_week=weekdays, timezone=zone, **clock)
    by_month = CronTrigger(day=days, timezone=zone, **clock)
    return OrTrigger([by_month, CronTrigger(day_of_week=weekdays, timezone=zone, **clock)])


def _listed(values: Iterable[object]) -> str:
    return ",".join(map(str, values))


def _fire_times(trigger: BaseTrigger, after: datetime) -> Iterator[datetime]:
    """Each time of a trigger once, in its own zone, in order, later than `after`."""
    while (time := trigger.get_next_fire_time(None, after + _INSTANT)) is not None:
        after = time.astimezone(UTC)
        yield time


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
