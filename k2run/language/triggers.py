"""Reads what starts a runbook by itself: `schedule`, with times in the five fields of cron, and `alerts`."""

from __future__ import annotations

import re
from datetime import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from msgspec import Struct

from k2run.language.model import AlertRule, Schedule, Start, WhenLocked
from k2run.language.problems import did_you_mean, of_value
from k2run.language.quantities import Duration
from k2run.language.vocabulary import Scope

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

    from k2run.language.document import Trail
    from k2run.language.reading import Reading

SCHEDULE_KEYS = (
    *("cron", "every", "at", "timezone", "stack", "inputs", "tags", "jitter", "quiet", "when_locked", "catch_up"),
)
ALERT_KEYS = ("labels", "start", "stack", "inputs")
ALERT_NAMES = ("labels", "annotations")
"""What the inputs of an alert rule may be made of."""
CLOCKS = ("cron", "every", "at")
_AT = re.compile(r"(?:(\d+)\s*([a-z]+)\s+(before|after)\s+)?([A-Za-z][\w-]*)")
_UNITS = {
    **dict.fromkeys(("d", "day", "days"), "d"),
    **dict.fromkeys(("w", "week", "weeks"), "w"),
    **dict.fromkeys(("h", "hour", "hours"), "h"),
    **dict.fromkeys(("m", "min", "minute", "minutes"), "m"),
}
_QUIET = re.compile(r"(\d\d):(\d\d)\s*-\s*(\d\d):(\d\d)")


def parse_at(text: str) -> tuple[str, int, str]:
    """Read a time relative to an event, such as `1 day before demo`.

    Returns:
        The event's name, the signed amount, and its unit: w, d, h or m.

    Raises:
        ValueError: It is none.
    """
    match = _AT.fullmatch(text.strip())
    if match is None or (match[2] and match[2] not in _UNITS):
        raise ValueError("expected a time such as `1 day before demo`, `2 h before demo` or `demo`")
    amount, unit, side, event = match.groups()
    return event, int(amount or 0) * (-1 if side == "before" else 1), _UNITS[unit] if unit else "m"


def parse_quiet(text: str) -> tuple[time, time]:
    """Read quiet hours, such as `22:00-06:00`.

    Raises:
        ValueError: They are none.
    """
    match = _QUIET.fullmatch(text.strip())
    if match is None:
        raise ValueError("expected hours such as 22:00-06:00")
    first, last = time(int(match[1]), int(match[2])), time(int(match[3]), int(match[4]))
    if first == last:
        raise ValueError("the hours begin and end at the same time")
    return first, last


def parse_zone(name: str) -> tzinfo:
    """The time zone of that name.

    Raises:
        ValueError: There is none.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"there is no time zone {name!r}; time zones have names such as Europe/Berlin or UTC"
        ) from error


DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_SHORT = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
"""Days of each month, where there are most."""
_ITEM = re.compile(r"(\*|\w+)(?:-(\w+))?(?:/(\d+))?")


class _Field(Struct, frozen=True):
    """One field: its values and their names.

    Attributes:
        what: What it is called.
        least: Its least value.
        most: Its greatest value.
        names: Words for its values.
        first: The value of the first word.
        round: After how many values a range begins again: `fri-mon` is four days; 0 where none does.
    """

    what: str
    least: int
    most: int
    names: tuple[str, ...] = ()
    first: int = 0
    round: int = 0

    def read(self, text: str) -> frozenset[int]:
        """All values that the text of the field stands for."""
        return frozenset(value for item in text.split(",") for value in self._item(item))

    def _item(self, item: str) -> range:
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ValueError(f"{self.what}: {item!r} is neither a value, a range a-b, a step */n nor a list of them")
        begin, end, step = match.groups()
        low = self.least if begin == "*" else self._value(begin)
        high = self._value(end) if end else self.most if begin == "*" or step else low
        if high < low and self.round:
            high += self.round
        if high < low:
            way_out = f"{begin}-{self.most},{self.least}-{end}"
            raise ValueError(f"{self.what}: {item!r} is empty, since it ends before it begins; write {way_out}")
        if step == "0":
            raise ValueError(f"{self.what}: {item!r} is empty, since its step is 0")
        return range(low, high + 1, int(step or 1))

    def _value(self, word: str) -> int:
        if word.lower() in self.names:
            return self.names.index(word.lower()) + self.first
        if not word.isdecimal() or not self.least <= int(word) <= self.most:
            named = f" or one of {', '.join(self.names)}" if self.names else ""
            raise ValueError(f"{self.what}: {word!r} is not between {self.least} and {self.most}{named}")
        return int(word)


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS, 1),
    _Field("day of week", 0, 7, DAYS, round=7),
)


class Cron(Struct, frozen=True, kw_only=True):
    """What a cron line asks for; days of the week count from Sunday = 0, as in crontab(5).

    Attributes:
        every_hour: The hours are `*` or `*/n`: such times follow the elapsed hours, also where a clock is put back.
        either_day: Both the day of month and the day of week are given: a date that fits one of them fits.
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    every_hour: bool
    either_day: bool


@lru_cache(maxsize=256)
def parse_cron(text: str) -> Cron:
    """Read a cron line.

    Raises:
        ValueError: It is none; the message says which field is wrong.
    """
    words = _SHORT.get(text.strip().lower(), text).split()
    if text.strip().startswith("@") and len(words) == 1:
        raise ValueError(f"{text.strip()!r} is no time of the calendar; there are {', '.join(_SHORT)}")
    if len(words) != len(_FIELDS):
        raise ValueError(f"cron has five fields (minute hour day month weekday), found {len(words)}")
    minutes, hours, days, months, weekdays = (field.read(word) for word, field in zip(words, _FIELDS, strict=True))
    either_day = not words[2].startswith("*") and not words[4].startswith("*")
    if not either_day and min(days) > max(_LONGEST[month - 1] for month in months):
        raise ValueError(f"it is never due: no month that it names has a day {min(days)}")
    return Cron(
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=days,
        months=months,
        weekdays=frozenset(day % 7 for day in weekdays),
        every_hour=words[1].startswith("*"),
        either_day=either_day,
    )


def read_schedule(reading: Reading, value: Any, path: Trail) -> tuple[Schedule, ...]:
    """The `schedule` of a runbook: one entry or a list of them."""
    if isinstance(value, list):
        return tuple(_entry(reading, item, (*path, index)) for index, item in enumerate(value))
    return (_entry(reading, value, path),)


def _entry(reading: Reading, value: Any, path: Trail) -> Schedule:
    fields = reading.fields(value, path, "a schedule", SCHEDULE_KEYS)
    given = [key for key in CLOCKS if key in fields]
    if isinstance(value, dict) and len(given) != 1:
        found = " and ".join(f"`{key}`" for key in given) if given else ""
        reading.problem("K203", "a schedule needs one of `cron`, `every` and `at`", path, found=found)
    texts = {key: _checked(reading, fields, path, key, parse) for key, parse in _PARSERS.items()}
    spans = {
        key: reading.duration(fields[key], (*path, key), f"`{key}`") for key in ("every", "jitter") if key in fields
    }
    if 0 < spans.get("every", Duration(60)) < 1:
        reading.problem("K206", "`every` is at least 1s", (*path, "every"), found=of_value(fields["every"]))
    default = WhenLocked.QUEUE if "at" in fields else WhenLocked.SKIP  # what comes once is not lost
    locked = fields.get("when_locked", default.value)
    return Schedule(
        **texts,
        every=spans.get("every"),
        jitter=spans.get("jitter", Duration(0)),
        stack=reading.text(fields.get("stack", ""), (*path, "stack"), "`stack`"),
        inputs=reading.mapping(fields.get("inputs", {}), (*path, "inputs"), "`inputs`"),
        tags=reading.texts(fields.get("tags", []), (*path, "tags"), "`tags`"),
        when_locked=reading.choice(WhenLocked, locked, (*path, "when_locked"), "`when_locked`"),
        catch_up=reading.duration(fields.get("catch_up", "1h"), (*path, "catch_up"), "`catch_up`"),
    )


_PARSERS: dict[str, Callable[[str], Any]] = {
    "cron": parse_cron,
    "at": parse_at,
    "timezone": parse_zone,
    "quiet": parse_quiet,
}


def _checked(reading: Reading, fields: dict[str, Any], path: Trail, key: str, parse: Callable[[str], Any]) -> str:
    """A text that stands for a time; kept as written, so that it can be shown."""
    if key not in fields:
        return "UTC" if key == "timezone" else ""
    text = reading.text(fields[key], (*path, key), f"`{key}`")
    try:
        if text:
            parse(text)
    except ValueError as error:
        reading.problem("K218", f"`{key}`: {error}", (*path, key), found=of_value(text))
    return text


def read_alerts(reading: Reading, value: Any, path: Trail) -> tuple[AlertRule, ...]:
    """The `alerts` of a runbook: what must stand on an alert for the runbook to be its answer."""
    items = reading.listed(value, path, "`alerts`")
    return tuple(_rule(reading, item, (*path, index)) for index, item in enumerate(items))


def _rule(reading: Reading, value: Any, path: Trail) -> AlertRule:
    fields = reading.fields(value, path, "an alert", ALERT_KEYS)
    labels = reading.mapping(fields.get("labels", {}), (*path, "labels"), "`labels`")
    if isinstance(value, dict) and not labels:
        hint = "for example labels: {alertname: ConsumerLagHigh}"
        reading.problem("K203", "an alert needs `labels`", path, hint=hint)
    for name, pattern in labels.items():
        _pattern(reading, reading.text(pattern, (*path, "labels", name), "a label"), (*path, "labels", name))
    start = fields.get("start", Start.APPROVAL.value)
    inputs = reading.mapping(fields.get("inputs", {}), (*path, "inputs"), "`inputs`")
    return AlertRule(
        labels=labels,
        start=reading.choice(Start, start, (*path, "start"), "`start`"),
        stack=reading.text(fields.get("stack", ""), (*path, "stack"), "`stack`"),
        inputs=reading.rendered(inputs, (*path, "inputs"), Scope(dict.fromkeys(ALERT_NAMES, Any))),
    )


def _pattern(reading: Reading, text: str, path: Trail) -> None:
    try:
        re.compile(text)
    except re.error as error:
        reading.problem("K219", f"not a pattern: {error}", path, found=of_value(text))


TRIGGERS: dict[str, Callable[[Reading, Any, Trail], tuple[Any, ...]]] = {
    "schedule": read_schedule,
    "alerts": read_alerts,
}


def unknown_inputs(reading: Reading, key: str, triggers: tuple[Schedule | AlertRule, ...], names: list[str]) -> None:
    """Note values for inputs that the runbook does not have."""
    for index, trigger in enumerate(triggers):
        listed = isinstance(reading.document.data[key], list)
        for name in trigger.inputs:
            if name not in names:
                path = (key, index, "inputs", name) if listed else (key, "inputs", name)
                reading.problem(
                    "K202", f"the runbook has no input `{name}`", path, key=True, hint=did_you_mean(name, names)
                )
