from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from k2run.daemon.schedule.timetable import Calendar, due_times, is_quiet, read_calendar, start_time
from k2run.errors import UsageError
from k2run.language.model import Schedule
from k2run.language.quantities import Duration
from k2run.language.triggers import parse_cron

if TYPE_CHECKING:
    from pathlib import Path

BERLIN = ZoneInfo("Europe/Berlin")


def local(cron: str, after: str, count: int, zone: str = "Europe/Berlin") -> list[str]:
    """Due times in local time, after a local time."""
    tz = ZoneInfo(zone)
    times = due_times(Schedule(cron=cron, timezone=zone), Calendar(), datetime.fromisoformat(after).replace(tzinfo=tz))
    return [f"{time.astimezone(tz):%m-%d %H:%M %Z}" for time in islice(times, count)]


def test_cron_counts_weekdays_from_sunday() -> None:
    assert local("0 9 * * 0", "2026-11-21", 1) == ["11-22 09:00 CET"]
    assert local("0 9 * * 7", "2026-11-21", 1) == ["11-22 09:00 CET"]
    assert local("0 9 * * mon-fri", "2026-11-21", 2) == ["11-23 09:00 CET", "11-24 09:00 CET"]


def test_day_of_month_and_weekday_together_mean_either() -> None:
    assert local("0 9 13 * fri", "2026-11-01", 4) == [f"11-{day} 09:00 CET" for day in ("06", "13", "20", "27")]
    assert local("0 9 1 * wed", "2026-11-25T10:00", 2) == ["12-01 09:00 CET", "12-02 09:00 CET"]


def test_a_time_that_the_clock_leaves_out_comes_an_hour_later() -> None:
    assert local("30 2 * * *", "2026-03-28T03:00", 2) == ["03-29 03:30 CEST", "03-30 02:30 CEST"]


def test_two_times_that_become_one_are_one() -> None:
    assert local("30 2,3 * * *", "2026-03-29", 2) == ["03-29 03:30 CEST", "03-30 02:30 CEST"]


def test_a_time_that_the_clock_shows_twice_comes_once() -> None:
    assert local("30 2 * * *", "2026-10-24T03:00", 2) == ["10-25 02:30 CEST", "10-26 02:30 CET"]


def test_an_hourly_schedule_follows_the_hours_that_pass() -> None:
    assert local("30 * * * *", "2026-10-25T01:00", 4) == [
        "10-25 01:30 CEST",
        "10-25 02:30 CEST",
        "10-25 02:30 CET",
        "10-25 03:30 CET",
    ]
    assert local("30 * * * *", "2026-03-29T01:00", 2) == ["03-29 01:30 CET", "03-29 03:30 CEST"]


def test_the_29th_of_february_is_found_years_ahead() -> None:
    assert local("0 12 29 2 *", "2026-11-21", 1) == ["02-29 12:00 CET"]


@pytest.mark.parametrize(
    "text", ["* * * *", "60 * * * *", "* 24 * * *", "*/0 * * * *", "5-1 * * * *", "a * * * *", "* * * * fun"]
)
def test_what_is_no_cron_line_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"five fields|between|empty|neither"):
        parse_cron(text)


@pytest.mark.parametrize("text", ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 30,31 feb */2"])
def test_a_cron_line_that_is_never_due_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="never due: no month that it names has a day 3"):
        parse_cron(text)


@pytest.mark.parametrize("text", ["0 0 29 2 *", "0 0 31 * *", "0 0 30 2 mon", "0 0 30 2,3 *"])
def test_a_rare_one_is_taken(text: str) -> None:
    assert parse_cron(text).days


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("0 9 * * mon-fri", {1, 2, 3, 4, 5}),
        ("0 9 * * SAT-SUN", {6, 0}),
        ("0 9 * * fri-mon", {5, 6, 0, 1}),
        ("0 9 * * 5-7", {5, 6, 0}),
        ("0 9 * * sun", {0}),
        ("@daily", set(range(7))),
        ("@midnight", set(range(7))),
        ("@weekly", {0}),
        ("@yearly", set(range(7))),
    ],
)
def test_names_ranges_and_short_words_are_taken(text: str, days: set[int]) -> None:
    assert parse_cron(text).weekdays == days


@pytest.mark.parametrize(
    ("text", "way_out"),
    [
        ("@reboot", "there are @hourly, @daily"),
        ("0 22-6 * * *", "write 22-23,0-6"),
        ("0 0 * * monday", "one of sun, mon"),
        ("0 0 0 * * *", "five fields"),
        ("0 0 ? * *", "neither a value"),
    ],
)
def test_what_is_refused_says_the_way_out(text: str, way_out: str) -> None:
    with pytest.raises(ValueError, match=re.escape(way_out)):
        parse_cron(text)


def test_intervals_do_not_depend_on_who_counts_them() -> None:
    schedule = Schedule(every=Duration.parse("6h"))
    morning = datetime(2026, 11, 21, 7, 13, tzinfo=UTC)
    first = next(iter(due_times(schedule, Calendar(), morning)))
    assert (
        first
        == next(iter(due_times(schedule, Calendar(), morning + timedelta(hours=3))))
        == datetime(2026, 11, 21, 12, tzinfo=UTC)
    )


def test_whole_days_before_an_event_keep_the_time_of_day() -> None:
    calendar = Calendar(events={"demo": (datetime(2026, 10, 25, 10, tzinfo=BERLIN),)})
    long_ago = datetime(2026, 1, 1, tzinfo=UTC)

    def when(at: str) -> str:
        [time] = due_times(Schedule(at=at), calendar, long_ago)
        return f"{time.astimezone(BERLIN):%m-%d %H:%M}"

    assert when("1 day before demo") == "10-24 10:00"
    assert when("24 h before demo") == "10-24 11:00"
    assert when("2 h before demo") == "10-25 08:00"
    assert when("demo") == "10-25 10:00"
    assert when("30m after demo") == "10-25 10:30"


def test_jitter_is_the_same_for_all_schedulers_and_spread_over_its_whole_length() -> None:
    schedule = Schedule(every=Duration(60), jitter=Duration(30))
    due = [datetime(2026, 11, 21, 0, minute, tzinfo=UTC) for minute in range(60)]
    late = [(start_time("x", schedule, time) - time).total_seconds() for time in due]
    assert late == [(start_time("x", schedule, time) - time).total_seconds() for time in due]
    assert 0 <= min(late) < 5
    assert 25 < max(late) < 30


def test_quiet_hours_reach_over_midnight_in_the_local_zone() -> None:
    schedule = Schedule(cron="* * * * *", timezone="Europe/Berlin", quiet="22:00-06:00")
    hours = [hour for hour in range(24) if is_quiet(schedule, datetime(2026, 11, 21, hour, tzinfo=BERLIN))]
    assert hours == [0, 1, 2, 3, 4, 5, 22, 23]


def test_a_calendar_is_read_in_its_zone(tmp_path: Path) -> None:
    file = tmp_path / "calendar.yaml"
    file.write_text("timezone: Europe/Berlin\nevents:\n  demo: [2026-12-08 14:00, 2026-12-01 10:00]\n")
    first, second = read_calendar(file).events["demo"]
    assert (first.isoformat(), second.isoformat()) == ("2026-12-01T10:00:00+01:00", "2026-12-08T14:00:00+01:00")


@pytest.mark.parametrize("text", ["- a\n", "events: [1]\n", "events: {demo: soon}\n", "timezone: Mars\nevents: {}\n"])
def test_what_is_no_calendar_is_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "calendar.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=str(file)):
        read_calendar(file)
