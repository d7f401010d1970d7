"""A writer whose store was away tries once more when its patience has ended, and ends only if that fails too."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from catalog_server import catalog_server

from k2run.k2.platform import rows, table, trade
from k2run.k2.platform.table_writer import DeadLetters, TableWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.k2.platform.rows import Taken


class Pauses(threading.Event):
    """The signal to stop: in the pause `back_in` a folder that was moved away is put back.

    Args:
        folder: The folder.
        back_in: The first pause is 1; 0 leaves the folder away.
    """

    def __init__(self, folder: Path, back_in: int) -> None:
        super().__init__()
        self._folder, self._back_in = folder, back_in
        self._aside = folder.with_name("aside")
        self.count = 0

    def take_away(self) -> None:
        """Move the folder, and put a file where it was."""
        self._folder.rename(self._aside)
        self._folder.write_text("")

    def wait(self, timeout: float | None = None) -> bool:
        """A pause without its length."""
        assert timeout, "a pause has a length"
        self.count += 1
        if self.count == self._back_in:
            self._folder.unlink()
            self._aside.rename(self._folder)
        return self.is_set()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[str]:
    with catalog_server(tmp_path) as address:
        yield address


def away(catalog: str, tmp_path: Path, back_in: int) -> tuple[TableWriter, Pauses]:
    """A writer without patience, whose table's files are away."""
    opened = table.open_table(table.open_catalog(catalog), table.TRADES)
    pauses = Pauses(Path(opened.location().removeprefix("file://")), back_in)
    spill, dead = rows.SpillFile(tmp_path / "shed"), DeadLetters(tmp_path / "dlq", "group")
    writer = TableWriter(rows.TRADES, opened, spill, dead, pauses, patience_s=0)
    pauses.take_away()
    return writer, pauses


def trades() -> list[Taken]:
    made = trade.Market(["BTCUSDT"], seed=1, first_trade=1).trades(10, 0, 10_000)
    return [rows.Taken(0, at, trade.encode(one)) for at, one in enumerate(made)]


def test_a_store_that_is_back_when_the_patience_has_ended_is_written_to(catalog: str, tmp_path: Path) -> None:
    writer, pauses = away(catalog, tmp_path, back_in=1)
    assert writer.write(trades(), [], {0: 10}, {}).rows == 10
    assert pauses.count == 1
    assert writer.table.scan().to_arrow().num_rows == 10


def test_a_store_that_is_still_away_then_is_given_up(catalog: str, tmp_path: Path) -> None:
    writer, pauses = away(catalog, tmp_path, back_in=0)
    with pytest.raises(OSError, match=r"\S"):
        writer.write(trades(), [], {0: 10}, {})
    assert pauses.count == 1
