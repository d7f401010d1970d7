"""Files that appear as a whole."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from k2run.files import created, drafted

if TYPE_CHECKING:
    from pathlib import Path


def test_a_reader_meets_the_old_file_until_the_new_one_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "report.md"
    file.write_text("old")
    with drafted(file) as draft:
        draft.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert [*tmp_path.iterdir()] == [file]


def test_a_file_that_could_not_be_completed_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "report.md"
    file.write_text("old")
    with pytest.raises(TypeError), drafted(file) as draft:
        draft.write_text(b"ne")  # type: ignore[arg-type]  # as any fault would
    assert file.read_text() == "old"
    assert [*tmp_path.iterdir()] == [file]


def test_of_several_writers_exactly_one_makes_a_file(tmp_path: Path) -> None:
    file, made = tmp_path / "answer.json", []
    writers = [threading.Thread(target=lambda n=n: made.append((created(file, b"%d" % n), n))) for n in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    (winner,) = [number for won, number in made if won]
    assert file.read_bytes() == b"%d" % winner
    assert [*tmp_path.iterdir()] == [file]
