from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import pytest

from k2run.daemon.schedule.ledger import State
from k2run.language.model import WhenLocked
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from k2run.daemon.schedule.timetable import Entry

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def test_a_due_run_is_started_and_its_end_is_noted(office: Any, entry: Callable[..., Entry]) -> None:
    hourly, scheduler, start = entry("hourly", cron="0 * * * *"), office.scheduler(), office.executor.now + MINUTE
    scheduler.watch([hourly], office.at(start))
    scheduler.watch([hourly], office.at(start + HOUR))
    assert list(office.states(hourly).values()) == [State.STARTED]
    scheduler.watch([hourly], office.at(start + HOUR + 21 * MINUTE))
    [record] = office.ledger.records("hourly")
    assert (record.state, record.late_s, record.exit_code) == (State.FINISHED, 60.0, 0)


def test_nothing_is_due_before_the_schedule_was_first_seen(office: Any, entry: Callable[..., Entry]) -> None:
    office.scheduler().watch([entry("hourly", cron="0 * * * *")], office.at(office.executor.now + 5 * MINUTE))
    assert office.executor.begun() == []


def test_after_a_downtime_one_run_makes_up_for_all_and_the_others_are_listed(
    office: Any, entry: Callable[..., Entry]
) -> None:
    hourly, start = entry("hourly", cron="0 * * * *"), office.executor.now + MINUTE
    office.scheduler().watch([hourly], office.at(start))
    office.scheduler("two").watch([hourly], office.at(start + 5 * HOUR))
    missed, made_up = office.ledger.records("hourly")
    assert (missed.state, missed.count, missed.first, missed.due) == (
        State.MISSED,
        4,
        start - MINUTE + HOUR,
        start - MINUTE + 4 * HOUR,
    )
    assert (made_up.state, made_up.due) == (State.STARTED, start - MINUTE + 5 * HOUR)


def test_a_run_that_is_too_late_is_missed(office: Any, entry: Callable[..., Entry]) -> None:
    daily, start = entry("daily", cron="0 6 * * *", catch_up=Duration(600)), office.executor.now
    office.scheduler().watch([daily], office.at(start))
    office.scheduler("two").watch([daily], office.at(start + 7 * HOUR))
    assert list(office.states(daily).values()) == [State.MISSED]
    assert office.executor.begun() == []


def test_quiet_hours_are_kept(office: Any, entry: Callable[..., Entry]) -> None:
    hourly, scheduler, start = (
        entry("hourly", cron="0 * * * *", quiet="01:30-02:30"),
        office.scheduler(),
        office.executor.now,
    )
    for hours in range(4):
        scheduler.watch([hourly], office.at(start + hours * HOUR + MINUTE))
    assert list(office.states(hourly).values()) == [State.FINISHED, State.SKIPPED, State.STARTED]


def test_quiet_hours_during_a_downtime_are_skipped_and_not_missed(office: Any, entry: Callable[..., Entry]) -> None:
    hourly, start = entry("hourly", cron="0 * * * *", quiet="02:30-04:30"), office.executor.now + MINUTE
    office.scheduler().watch([hourly], office.at(start))
    office.scheduler("two").watch([hourly], office.at(start + 6 * HOUR))
    told = [(record.state, record.count, record.due.hour, record.why) for record in office.ledger.records("hourly")]
    assert told == [
        (State.MISSED, 2, 2, "no scheduler was running"),
        (State.SKIPPED, 2, 4, "quiet hours 02:30-04:30"),
        (State.MISSED, 1, 5, "no scheduler was running"),
        (State.STARTED, 1, 6, ""),
    ]


def test_what_a_clock_leaves_out_is_not_missed_for_want_of_a_scheduler(
    office: Any, entry: Callable[..., Entry]
) -> None:
    hourly, scheduler, start = entry("hourly", cron="0 * * * *"), office.scheduler(), office.executor.now + MINUTE
    scheduler.watch([hourly], office.at(start))
    scheduler.leap(start, start + 5 * HOUR)
    scheduler.watch([hourly], office.at(start + 5 * HOUR))
    missed, made_up = office.ledger.records("hourly")
    assert (missed.count, missed.why) == (
        4,
        "the clock went 5h ahead of the time that passed (put forward, or the machine slept)",
    )
    assert (made_up.state, made_up.due) == (State.STARTED, start - MINUTE + 5 * HOUR)


def test_a_held_stack_is_skipped_and_the_record_says_who_held_it(office: Any, entry: Callable[..., Entry]) -> None:
    hourly, scheduler, start = entry("hourly", cron="0 * * * *"), office.scheduler(), office.executor.now
    scheduler.watch([hourly], start)
    office.executor.held_until["sandbox"] = start + 2 * HOUR
    scheduler.watch([hourly], office.at(start + HOUR))
    [record] = office.ledger.records("hourly")
    assert (record.state, record.why) == (State.SKIPPED, "the stack 'sandbox' was held by another run")


def test_a_queued_run_starts_when_the_stack_is_free(office: Any, entry: Callable[..., Entry]) -> None:
    daily = entry("daily", cron="0 1 * * *", when_locked=WhenLocked.QUEUE)
    scheduler, start = office.scheduler(), office.executor.now
    scheduler.watch([daily], start)
    office.executor.held_until["sandbox"] = start + HOUR + 30 * MINUTE
    scheduler.watch([daily], office.at(start + HOUR))
    assert list(office.states(daily).values()) == [State.WAITING]
    scheduler.watch([daily], office.at(start + HOUR + 31 * MINUTE))
    [record] = office.ledger.records("daily")
    assert (record.state, record.late_s) == (State.STARTED, 31 * 60.0)


def test_a_queued_run_is_missed_when_it_waits_too_long(office: Any, entry: Callable[..., Entry]) -> None:
    daily = entry("daily", cron="0 1 * * *", when_locked=WhenLocked.QUEUE)
    scheduler, start = office.scheduler(), office.executor.now
    scheduler.watch([daily], start)
    office.executor.held_until["sandbox"] = start + 9 * HOUR
    for minutes in range(60, 200, 10):
        scheduler.watch([daily], office.at(start + minutes * MINUTE))
    [record] = office.ledger.records("daily")
    assert record.state is State.MISSED
    assert "held by another run for 1h" in record.why


def test_a_run_that_finds_the_stack_taken_waits_again(office: Any, entry: Callable[..., Entry]) -> None:
    daily = entry("daily", cron="0 1 * * *", when_locked=WhenLocked.QUEUE)
    scheduler, start = office.scheduler(), office.executor.now
    scheduler.watch([daily], start)
    office.executor.snatch = lambda: len(office.executor.runs) < 1
    for seconds in range(3):
        scheduler.watch([daily], office.at(start + HOUR + timedelta(seconds=seconds)))
    assert len(office.executor.runs) == 2
    assert len(office.executor.begun()) == 1
    assert list(office.states(daily).values()) == [State.STARTED]


def test_a_run_whose_scheduler_died_is_followed_by_the_next_one(office: Any, entry: Callable[..., Entry]) -> None:
    daily, start = entry("daily", cron="0 1 * * *"), office.executor.now
    dead = office.scheduler("dead")
    dead.watch([daily], start)
    dead.watch([daily], office.at(start + HOUR))
    del dead
    office.scheduler("next").watch([daily], office.at(start + HOUR + 30 * MINUTE))
    [record] = office.ledger.records("daily")
    assert (record.state, record.owner, len(office.executor.begun())) == (State.FINISHED, "next", 1)


def test_a_scheduler_that_died_before_its_run_began_leaves_a_missed_one(
    office: Any, entry: Callable[..., Entry]
) -> None:
    daily, start = entry("daily", cron="0 1 * * *"), office.executor.now
    office.scheduler("dead").watch([daily], start)
    office.scheduler("dead").watch([daily], office.at(start + HOUR))
    office.executor.runs.clear()
    office.scheduler("next").watch([daily], office.at(start + HOUR + 5 * MINUTE))
    assert list(office.states(daily).values()) == [State.MISSED]


def test_a_closed_desk_starts_nothing(office: Any, entry: Callable[..., Entry]) -> None:
    daily, scheduler, start = entry("daily", cron="0 1 * * *"), office.scheduler(), office.executor.now
    scheduler.watch([daily], start)
    scheduler.close()
    scheduler.watch([daily], office.at(start + HOUR))
    assert office.executor.begun() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "month", [datetime(2026, 3, 15, 0, 0, 30, tzinfo=UTC), datetime(2026, 10, 10, 0, 0, 30, tzinfo=UTC)]
)
def test_over_30_days_each_due_run_is_started_once_or_listed(
    office: Any, entry: Callable[..., Entry], dice: random.Random, month: datetime
) -> None:
    entries = [
        entry("hourly", cron="30 * * * *", timezone="Europe/Berlin", jitter=Duration(120)),
        entry("nightly", cron="30 2 * * *", timezone="Europe/Berlin", when_locked=WhenLocked.QUEUE),
        entry("often", "other", every=Duration(50 * 60), quiet="22:00-06:00"),
        entry("six", every=Duration(6 * 3600), when_locked=WhenLocked.QUEUE),
    ]
    end, starts = month + timedelta(days=30), Starts()
    desks = {"a": office.scheduler("a"), "b": office.scheduler("b")}
    now = office.at(month)
    for one in entries:
        office.ledger.since(one.id, month)
    while now < end:
        name = dice.choice("ab")
        if dice.random() < 0.03:  # killed, and restarted after a while; sometimes both are down for hours
            desks[name] = office.scheduler(f"{name}{starts.next()}")
            if dice.random() < 0.3:
                desks = {key: office.scheduler(f"{key}{starts.next()}") for key in desks}
                now = office.at(now + timedelta(minutes=dice.randint(10, 500)))
        if dice.random() < 0.05:
            office.executor.held_until[dice.choice(["sandbox", "other"])] = now + timedelta(
                minutes=dice.randint(5, 300)
            )
        office.executor.snatch = lambda: dice.random() < 0.05
        for scheduler in dice.sample(list(desks.values()), 2):
            scheduler.watch(entries, now)
        now = office.at(now + timedelta(minutes=dice.choice([2, 25, 45])))
    for one in entries:
        due = [time for time, _ in takewhile(lambda pair: pair[1] <= end, one.starts(office.calendar, month))]
        check(one, [time for time in due if month < time], office)


class Starts:
    """Counts the schedulers, so that each has its own name."""

    def __init__(self) -> None:
        self.count = 0

    def next(self) -> int:
        self.count += 1
        return self.count


def check(one: Entry, due: list[datetime], office: Any) -> None:
    """Every due time is in exactly one record; those that were started began once, the others never."""
    records = office.ledger.records(one.id)
    began = Counter(time for name, time in office.executor.begun() if name == one.id)
    listed: Counter[datetime] = Counter()
    for record in records:
        listed.update(time for time in due if (record.first or record.due) <= time <= record.due)
        times = began[record.due]
        assert times == (1 if record.state in {State.STARTED, State.FINISHED} else 0), record
    last = records[-1].due
    assert [time for time in due if time <= last and listed[time] != 1] == []
    assert [time for time in due if time > last][1:] == [], "at most the newest is not attended to yet"
    assert set(began) <= {record.due for record in records}
    states = Counter(record.state for record in records)
    assert states[State.FINISHED] > len(records) / 3
