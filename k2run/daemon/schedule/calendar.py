"""The calendar: named events, such as demos, that schedules are relative to."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from k2run.errors import UsageError
from k2run.language.document import read_file
from k2run.language.triggers import parse_zone

if TYPE_CHECKING:
    from datetime import tzinfo

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
