"""Where runs are kept, and how they are found again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.engine.journal import JOURNAL
from k2run.engine.store import Store

if TYPE_CHECKING:
    from pathlib import Path


def test_runs_of_one_second_are_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    runs = ["20261121-161318-talk-3e08e", "20261121-161319-talk-other-29214", "20261121-161319-talk-39857"]
    for run in reversed(runs):
        folder = tmp_path / "runs" / run
        folder.mkdir(parents=True)
        (folder / "journal.jsonl").touch()
    store = Store(tmp_path)
    assert [run.name for run in store.runs()] == runs
    assert store.find_run("last").name == runs[-1]


def test_a_run_that_never_began_leaves_no_folder_and_one_with_a_journal_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    refused, begun = store.new_run("a", "runbook: 1"), store.new_run("a", "runbook: 1")
    (begun / JOURNAL).touch()
    store.drop_unused(refused)
    store.drop_unused(begun)
    assert (refused.exists(), begun.exists()) == (False, True)
