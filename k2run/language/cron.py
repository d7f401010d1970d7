"""Times of the day by the five fields of cron: minute, hour, day of month, month, day of week."""

from __future__ import annotations

import re
from functools import lru_cache

from msgspec import Struct

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
