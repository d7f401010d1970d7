"""Rows of text in columns, as wide as the terminal."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from k2run.evidence.wording import clean
from k2run.terminal.lines import cells, cut, left

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDEST = 56
"""Columns that a cell before the last one may take."""


def width() -> int:
    """Columns of the terminal; wide when it is none, so that nothing is cut for a program that reads it."""
    return shutil.get_terminal_size((200, 40)).columns


def columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table; its last column takes what is left, and is cut there."""
    texts = [[*(cut(clean(cell), WIDEST) for cell in row[:-1]), clean(row[-1])] for row in rows]
    widths = [max([cells(head), *(cells(row[n]) for row in texts)]) for n, head in enumerate(heads)]
    lines = ["  ".join(left(cell, widths[n]) for n, cell in enumerate(row)).rstrip() for row in [list(heads), *texts]]
    return [cut(line, width()) for line in lines]
