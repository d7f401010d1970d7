"""When a schedule is due: its times as instants of UTC, and the named events that they may be relative to."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger
from msgspec import Struct

from k2run.errors import UsageError
from k2run.language.document import read_file
from k2run.language.triggers import DAYS, Cron, parse_at, parse_cron, parse_quiet, parse_zone

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import tzinfo

    from apscheduler.triggers.base import BaseTrigger

    from k2run.language.model import Schedule

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
    drawn = hashlib.sha256(f"{entry} {due.isoformat()}".encode()).digest()
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
