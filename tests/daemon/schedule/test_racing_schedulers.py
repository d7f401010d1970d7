"""Several schedulers on one PostgreSQL, killed and restarted: each due time is started once, or said why not, truly."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec import Struct

from k2run.daemon.schedule.ledger import Record, State

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path(__file__).with_name("racing_scheduler.py")
ENTRIES, EVERY_S, RUN_S = 6, 1.0, 0.15
PATIENCE_S = 60.0
SLACK_S = 0.5
"""Seconds between what a scheduler saw and when that was written to the file of starts and ends."""


class Schedulers:
    """Processes of schedulers."""

    def __init__(self, address: str, folder: Path) -> None:
        self._words = [sys.executable, str(PROGRAM), address, str(folder)]
        self._folder, self._count = folder, 0
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._count += 1
        self.processes.append(subprocess.Popen([*self._words, f"scheduler {self._count}"]))

    def _ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether it has begun: a process that is still starting does not know yet what to do when it is to end."""
        words = process.args
        assert isinstance(words, list)
        return (self._folder / f"{words[-1]}.ready").exists()

    def kill(self, number: int) -> None:
        process = self.processes.pop(number)
        process.kill()
        process.wait(10)

    def end(self) -> None:
        """Let every run end, then every scheduler."""
        patience = time.monotonic() + PATIENCE_S
        while not all(map(self._ready, self.processes)):
            assert time.monotonic() < patience, "a scheduler does not start"
            time.sleep(0.05)
        for process in self.processes:
            process.terminate()
        while self.processes:
            assert self.processes[0].wait(10) == 0
            self.processes.pop(0)


class Span(Struct, frozen=True):
    """When a run held its stack, as the file of starts and ends tells it; until it was killed when it has no end."""

    stack: str
    began: float
    ended: float


@pytest.fixture
def racers(database: str, tmp_path: Path) -> Iterator[Schedulers]:
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    made = Schedulers(database, tmp_path)
    yield made
    while made.processes:
        made.kill(0)


class Race(Struct, frozen=True):
    """How many schedulers, for how long, and how often one of them is killed and another started."""

    number: int
    seconds: int
    kills: int


@pytest.mark.alone  # the times of two processes are compared, to half a second
@pytest.mark.parametrize(
    "race",
    [
        Race(2, 5, 0),
        pytest.param(Race(2, 52, 6), marks=pytest.mark.slow),
        pytest.param(Race(3, 52, 6), marks=pytest.mark.slow),
    ],
    ids=["2, short", "2", "3"],
)
def test_each_due_time_is_started_once_or_skipped_for_a_true_reason(
    racers: Schedulers, database: str, tmp_path: Path, race: Race
) -> None:
    """Six schedules, each due every second: 300 due times and more in 52 s."""
    from k2run.daemon.schedule.ledger import PostgresLedger

    ledger = PostgresLedger(database)
    _empty(database)
    dice = random.Random(11)
    for _ in range(race.number):
        racers.start()
    end = time.time() + race.seconds
    pauses = [race.seconds / (race.kills + 1)] * race.kills
    for pause in pauses:
        time.sleep(pause)
        racers.kill(dice.randrange(race.number))  # the others take over at once
        racers.start()
    time.sleep(max(0.0, end - time.time()))
    stopped = datetime.now(UTC)
    racers.end()
    records = [record for entry in ledger.entries() for record in ledger.records(entry)]
    starts, spans = _runs(tmp_path / "runs.csv")
    due = {record.entry: ledger.since(record.entry, stopped) for record in records}
    states = Counter(record.state for record in records)
    total = sum(record.count for record in records)
    print(f"{race.number} schedulers, {race.kills} kills: {total} due times, {dict(states)}")
    assert len(due) == ENTRIES
    for entry, since in due.items():
        _check_all_are_there(records, entry, since, stopped)
    twice = [key for key, times in starts.items() if times != 1]
    assert twice == []
    lost = [record for record in records if _is_started(record) and (record.entry, record.due) not in starts]
    assert len(lost) <= race.kills, f"only one that is killed between its record and its run starts nothing: {lost}"
    assert {(record.entry, record.due) for record in records if _is_started(record)} >= set(starts)
    spans += [Span(record.stack, at := record.touched.timestamp(), at + RUN_S) for record in lost]
    skipped = [record for record in records if record.state is State.SKIPPED]
    assert [record for record in skipped if not _was_held(record, spans)] == [], "skipped, and nothing held its stack"


def _check_all_are_there(records: list[Record], entry: str, since: datetime, stopped: datetime) -> None:
    """Each due time is in exactly one record, but for the very last."""
    step = timedelta(seconds=EVERY_S)
    own = [record for record in records if record.entry == entry]
    time_ = datetime.fromtimestamp(int(since.timestamp()), UTC) + step
    while time_ < stopped - 2 * step:
        holding = [record for record in own if (record.first or record.due) <= time_ <= record.due]
        assert len(holding) == 1, (entry, time_, holding)
        time_ += step


def _is_started(record: Record) -> bool:
    return record.state in {State.STARTED, State.FINISHED}


def _was_held(record: Record, spans: list[Span]) -> bool:
    at = record.touched.timestamp()
    return any(span.stack == record.stack and span.began - SLACK_S <= at <= span.ended + SLACK_S for span in spans)


def _runs(path: Path) -> tuple[Counter[tuple[str, datetime]], list[Span]]:
    spans: dict[tuple[str, datetime], Span] = {}
    counted: Counter[tuple[str, datetime]] = Counter()
    for line in path.read_text().splitlines():
        what, entry, stack, due, at = line.split(",")
        key = (entry, datetime.fromisoformat(due))
        if what == "start":
            spans[key] = Span(stack, float(at), float(at) + RUN_S)
            counted[key] += 1
        else:
            spans[key] = Span(stack, spans[key].began, float(at))
    return counted, list(spans.values())


def _empty(address: str) -> None:
    import psycopg

    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("truncate k2run_schedule, k2run_schedule_entries")
