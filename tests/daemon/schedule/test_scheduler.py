"""The scheduler as a process, and two of them on one ledger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from k2run.daemon.schedule.ledger import FileLedger, Ledger, Record, State
from k2run.engine.journal import read_journal
from k2run.engine.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUNBOOK = """\
runbook: 1
kind: readiness
name: tick
stack: {folder}/stack.yaml
schedule: {schedule}
sections: [{{steps: [{{wait: {{for: {seconds}}}}}, {{assert: {{that: 1 == 1}}}}]}}]
"""


class Place:
    """A folder with one scheduled runbook."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "home")
        (folder / "stack.yaml").write_text("stack: 1\nname: nothing\n")
        self.processes: list[subprocess.Popen[str]] = []

    def write(self, schedule: str, seconds: str = "100ms") -> None:
        path = self.folder / "runbooks" / "tick.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(RUNBOOK.format(folder=self.folder, schedule=schedule, seconds=seconds))

    def scheduler(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "k2run", "schedule", *words],
            cwd=self.folder,
            env={**os.environ, "K2RUN_HOME": str(self.store.home), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def records(self) -> list[Record]:
        ledger = FileLedger(self.store.home / "schedule")
        return [record for entry in ledger.entries() for record in ledger.records(entry)]

    def until(self, true: Callable[[], Any], seconds: float = 40.0) -> Any:
        end = time.monotonic() + seconds
        while not (found := true()):
            assert time.monotonic() < end, self.records()
            time.sleep(0.1)
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for process in place.processes:
        process.kill()
        process.wait(5)


@pytest.mark.slow
def test_two_schedulers_start_each_run_once_and_end_with_sigterm(place: Place) -> None:
    place.write("{every: 2s, when_locked: queue}")
    schedulers = [place.scheduler(), place.scheduler()]
    place.until(lambda: sum(record.state is State.FINISHED for record in place.records()) >= 3)
    for scheduler in schedulers:
        scheduler.send_signal(signal.SIGTERM)
    ends = [scheduler.communicate(timeout=40)[0].splitlines()[-1] for scheduler in schedulers]
    assert ends == ["ended", "ended"]
    assert {scheduler.returncode for scheduler in schedulers} == {0}
    began = Counter(read_journal(folder)[0].by for folder in place.store.runs())  # type: ignore[union-attr]
    assert set(began.values()) == {1}
    finished = [record for record in place.records() if record.state is State.FINISHED]
    assert len(finished) == len(began)
    assert [record for record in finished if record.exit_code or not record.run] == []


@pytest.mark.slow
def test_the_end_of_patience_asks_runs_to_undo_and_end(place: Place) -> None:
    place.write("{every: 1s}", seconds="120s")
    scheduler = place.scheduler("--patience", "1s")
    place.until(place.store.runs)
    time.sleep(0.5)
    scheduler.send_signal(signal.SIGTERM)
    output, _ = scheduler.communicate(timeout=40)
    assert "asked to end" in output
    [folder] = place.store.runs()
    assert read_journal(folder)[-1].outcome == "interrupted"  # type: ignore[union-attr]


def test_the_list_leaves_out_what_the_quiet_hours_drop(place: Place) -> None:
    place.write("[{cron: '0 5,12 * * *', quiet: '04:00-06:00'}, {cron: '0 23 * * *', quiet: '22:00-06:00'}]")
    output, _ = place.scheduler("--list").communicate(timeout=30)
    *starts, nothing = output.splitlines()
    assert len(starts) == 10
    assert all(" 12:00:00 UTC " in line for line in starts), output
    assert nothing.endswith("(0 23 * * * UTC): nothing, its quiet hours 22:00-06:00")


FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)


@pytest.mark.slow
@pytest.mark.skipif(FAKETIME is None, reason="faketime is not installed (Debian: faketime)")
def test_a_clock_that_jumps_is_told_and_the_next_due_time_is_kept(place: Place) -> None:
    """An hour forwards, then two back; the runs go on at the times that the clock shows."""
    place.write("{every: 2s, when_locked: queue}")
    clock = place.folder / "clock"
    clock.write_text("+0")
    environment = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    scheduler = place.scheduler(**environment)
    place.until(lambda: len(done(place)) >= 2)
    clock.write_text("+1h")
    place.until(lambda: any(record.due > datetime.now(UTC) + timedelta(minutes=50) for record in done(place)))
    [missed] = [record for record in place.records() if record.state is State.MISSED and record.count > 1000]
    assert missed.why.startswith("the clock went 1h ahead of the time that passed")
    clock.write_text("-1h")
    time.sleep(4)
    scheduler.send_signal(signal.SIGTERM)
    output, _ = scheduler.communicate(timeout=40)
    assert "the clock went 1h ahead of the time that passed (put forward, or the machine slept)" in output
    assert "the clock was put back by 2h" in output
    began = Counter(read_journal(folder)[0].by for folder in place.store.runs())  # type: ignore[union-attr]
    assert set(began.values()) == {1}, "no due time is started twice"


def done(place: Place) -> list[Record]:
    return [record for record in place.records() if record.state is State.FINISHED]


def test_the_list_shows_what_is_due(place: Place) -> None:
    place.write("[{cron: '0 5 * * *', timezone: Europe/Berlin}, {at: 1 day before demo}]")
    day = f"{datetime.now(UTC) + timedelta(days=3):%Y-%m-%d}"
    (place.folder / "calendar.yaml").write_text(f"events: {{demo: '{day} 10:00'}}\n")
    output, _ = place.scheduler("--list").communicate(timeout=30)
    lines = output.splitlines()
    assert len(lines) == 10
    assert any("1 day before demo" in line and "10:00:00 UTC" in line for line in lines)
    assert any("0 5 * * * Europe/Berlin" in line and "05:00:00 CE" in line for line in lines)


@pytest.fixture(params=["files", "postgres"])
def ledgers(request: pytest.FixtureRequest, tmp_path: Path) -> list[Ledger]:
    """Two schedulers' views of one ledger."""
    if request.param == "files":
        return [FileLedger(tmp_path / "schedule") for _ in range(2)]
    from k2run.daemon.schedule.ledger import PostgresLedger

    address = request.getfixturevalue("database")
    return [PostgresLedger(address) for _ in range(2)]


def record(number: int, owner: str = "one") -> Record:
    due = datetime(2026, 11, 21, tzinfo=UTC) + timedelta(minutes=number)
    return Record(entry="e", name="e", stack="s", due=due, state=State.STARTED, owner=owner, touched=due)


def test_each_due_time_is_taken_by_one_of_two_schedulers(ledgers: list[Ledger]) -> None:
    taken: list[tuple[int, str]] = []
    since = {ledger.since("e", datetime(2026, 11, 20 + number, tzinfo=UTC)) for number, ledger in enumerate(ledgers)}
    assert since == {datetime(2026, 11, 20, tzinfo=UTC)}

    def take(ledger: Ledger, owner: str) -> None:
        taken.extend((number, owner) for number in range(40) if ledger.take(record(number, owner)))

    threads = [threading.Thread(target=take, args=pair) for pair in zip(ledgers, ("one", "two"), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _ in taken) == list(range(40))
    one, two = ledgers
    newest = one.newest("e")
    assert newest is not None
    assert newest.due == record(39).due
    assert len(two.open("e")) == 40
    changed = Record(**{**{name: getattr(newest, name) for name in newest.__struct_fields__}, "state": State.FINISHED})
    assert two.replace(newest, changed)
    assert not one.replace(newest, changed), "it is another one by now"
    assert len(one.open("e")) == 39
    assert one.records("e")[-1] == changed


def test_a_stack_is_held_by_the_scheduler_that_has_the_due_time(ledgers: list[Ledger]) -> None:
    def due(number: int, owner: str = "one", state: State = State.STARTED) -> Record:
        return replace(record(number, owner), entry="held", state=state)

    one, two = ledgers
    one.since("held", datetime(2026, 11, 20, tzinfo=UTC))
    first = one.claim(due(1), due(1, state=State.SKIPPED))
    assert first is not None
    assert (first.record, first.release is None) == (due(1), False)
    assert two.claim(due(1, "two"), due(1, "two", State.SKIPPED)) is None, "it has an owner: its stack is not asked for"
    other = two.claim(due(2, "two"), due(2, "two", State.SKIPPED))
    assert other is not None
    if isinstance(one, FileLedger):
        return  # on one machine the run's own lock holds the stack
    assert (other.release, other.record.state) == (None, State.SKIPPED)
    assert two.newest("held") == other.record
    assert first.release is not None
    first.release()
    again = two.claim(due(3, "two"), due(3, "two", State.SKIPPED))
    assert again is not None
    assert again.release is not None
    again.release()
