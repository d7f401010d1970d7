"""Due times: what a schedule asks for, as instants of UTC, whatever clocks are put forward or back."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from k2run.language.cron import Cron, parse_cron
from k2run.language.triggers import parse_at, parse_quiet, parse_zone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date, tzinfo

    from k2run.faces.schedule.calendar import Calendar
    from k2run.language.model import Schedule

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)
_HORIZON_DAYS = 366 * 9
"""29 February may be eight years away."""
_UNITS = {"h": timedelta(hours=1), "m": timedelta(minutes=1)}
_DAYS = {"d": 1, "w": 7}


def due_times(schedule: Schedule, calendar: Calendar, after: datetime) -> Iterator[datetime]:
    """When a schedule is due, in order, later than `after`."""
    if schedule.cron:
        return _cron_times(parse_cron(schedule.cron), parse_zone(schedule.timezone), after)
    if schedule.every is not None:
        return _interval_times(float(schedule.every), after)
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


def _interval_times(step: float, after: datetime) -> Iterator[datetime]:
    turn = math.floor((after - _EPOCH).total_seconds() / step)
    while True:
        time = _EPOCH + timedelta(seconds=turn * step)
        if time > after:
            yield time
        turn += 1


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
    day = after.astimezone(zone).date() - _DAY
    for _ in range(_HORIZON_DAYS):
        if cron.fits(day):
            for time in _times_of_day(cron, zone, day):
                if time > after:
                    after = time
                    yield time
        day += _DAY


@lru_cache(maxsize=256)
def _times_of_day(cron: Cron, zone: tzinfo, day: date) -> tuple[datetime, ...]:
    """The instants of one date.

    A time that the clock leaves out comes as much later as the clock was put forward; one that it shows twice comes
    once, the first time, unless the hours are `*`.
    """
    found = set()
    for hour in cron.hours:
        for minute in cron.minutes:
            wall = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
            first, second = wall.astimezone(UTC), wall.replace(fold=1).astimezone(UTC)
            found.add(first)
            if cron.every_hour and second > first:
                found.add(second)
    return tuple(sorted(found))
