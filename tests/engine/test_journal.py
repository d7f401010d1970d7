"""The two ends of a journal are found however long its lines are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from k2run.engine.events import Noted, Outcome, RunFinished, RunStarted, Scored
from k2run.engine.journal import JOURNAL, Journal, ends_of, newest_first, read_journal
from k2run.engine.store import Store
from k2run.web.listings import Runs

if TYPE_CHECKING:
    from pathlib import Path

LONG = 300_000
"""Characters of a sentence that no first look at the end of a file holds."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run with a short note, a long one and a score."""
    folder = Store(tmp_path).new_run("talk", "talk.yaml")
    journal = Journal(folder)
    journal.record(
        RunStarted(
            run=folder.name, runbook="talk.yaml", name="talk", title="Talk", kind="readiness", digest="", stack="demo"
        )
    )
    for length in (1, LONG):
        journal.record(Noted(message="x" * length))
    journal.record(Scored(score=80.0, coverage=1.0, lines=[]))
    journal.close()
    return folder


def finish(folder: Path, verdict: str) -> None:
    journal = Journal(folder, after=read_journal(folder))
    journal.record(RunFinished(outcome=Outcome.PASSED, verdict=verdict, exit_code=0, seconds=7.0))
    journal.close()


@pytest.mark.parametrize("length", [1, 16 * 1024, 64 * 1024, LONG])
def test_a_run_that_has_ended_is_never_said_to_have_died(folder: Path, length: int, tmp_path: Path) -> None:
    finish(folder, "v" * length)
    begun, over = ends_of(folder)
    assert begun is not None
    assert over is not None
    assert (begun.name, len(over.verdict)) == ("talk", length)
    brief = Runs(Store(tmp_path)).brief(folder)
    assert brief is not None
    assert (brief.state, brief.score, brief.seconds) == ("passed", 80.0, 7.0)


def test_events_are_read_newest_first_and_a_torn_line_is_left_out(folder: Path) -> None:
    assert ends_of(folder)[1] is None
    with (folder / JOURNAL).open("ab") as file:
        file.write(b'{"kind":"run_fini')
    assert [event.seq for event in newest_first(folder)] == [4, 3, 2, 1]


def test_a_run_without_a_journal_has_no_ends(tmp_path: Path) -> None:
    assert ends_of(tmp_path) == (None, None)
