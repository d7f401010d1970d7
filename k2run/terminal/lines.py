"""Lines of text with a tone for each part, and rows in columns; how a tone looks is left to whoever writes them."""

from __future__ import annotations

import shutil
import unicodedata
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from k2run.evidence.wording import Standing, clean

if TYPE_CHECKING:
    from collections.abc import Sequence


ELLIPSIS = "…"
FILLED, UNFILLED = "━", "─"
REPEATED = 1024
"""Texts whose place in a column is remembered: names, words and times come again and again."""
EMPTY: Line = ()
WIDEST = 56
"""Columns that a cell before the last one may take."""


class Tone(StrEnum):
    """What a part of a line is for. A tone only supports what the words and marks say already."""

    PLAIN = "plain"
    QUIET = "quiet"
    STRONG = "strong"
    GOOD = "good"
    BAD = "bad"
    WARN = "warn"
    BADGE_GOOD = "badge_good"
    BADGE_BAD = "badge_bad"
    BADGE_WARN = "badge_warn"


class Part(NamedTuple):
    """A piece of a line."""

    text: str
    tone: Tone = Tone.PLAIN


Line = tuple[Part, ...]

TONES: dict[Standing, Tone] = {
    Standing.WAITING: Tone.QUIET,
    Standing.RUNNING: Tone.PLAIN,
    Standing.PASSED: Tone.GOOD,
    Standing.FAILED: Tone.BAD,
    Standing.WARNING: Tone.WARN,
    Standing.IGNORED: Tone.WARN,
    Standing.UNKNOWN: Tone.WARN,
    Standing.SKIPPED: Tone.QUIET,
    Standing.NOT_APPLICABLE: Tone.QUIET,
    Standing.NOT_CONFIRMED: Tone.WARN,
    Standing.INTERRUPTED: Tone.BAD,
}


def text_of(line: Line) -> str:
    """The line without its tones, and without blanks at its end."""
    return "".join(part.text for part in line).rstrip()


def cells(text: str) -> int:
    """The width of a text on a terminal, in columns."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(char) for char in text)


def _cells_of(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int) -> str:
    """The text, shortened with an ellipsis when it is wider than `width` columns."""
    if cells(text) <= width:
        return text
    if width <= 0:
        return ""
    room = width - 1
    kept: list[str] = []
    for char in text:
        room -= _cells_of(char)
        if room < 0:
            break
        kept.append(char)
    return "".join(kept).rstrip() + ELLIPSIS


@lru_cache(REPEATED)
def left(text: str, width: int) -> str:
    """The text cut or padded to exactly `width` columns, flush left."""
    shown = cut(text, width)
    return shown + " " * (width - cells(shown))


@lru_cache(REPEATED)
def right(text: str, width: int) -> str:
    """The text cut or padded to exactly `width` columns, flush right."""
    shown = cut(text, width)
    return " " * (width - cells(shown)) + shown


def wrap(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` columns, broken between words where that is possible."""
    lines: list[str] = []
    current = ""
    for word in text.split():
        rest = word
        if current and cells(current) + 1 + cells(rest) <= width:
            current = f"{current} {rest}"
            continue
        if current:
            lines.append(current)
        while cells(rest) > width:
            head = cut(rest, width + 1).removesuffix(ELLIPSIS)[:width] or rest[:1]
            lines.append(head)
            rest = rest[len(head) :]
        current = rest
    return [*lines, current] if current else lines


def width() -> int:
    """Columns of the terminal; wide when it is none, so that nothing is cut for a program that reads it."""
    return shutil.get_terminal_size((200, 40)).columns


def columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table; its last column takes the remaining width and is cut there."""
    texts = [[*(cut(clean(cell), WIDEST) for cell in row[:-1]), clean(row[-1])] for row in rows]
    widths = [max([cells(head), *(cells(row[n]) for row in texts)]) for n, head in enumerate(heads)]
    lines = ["  ".join(left(cell, widths[n]) for n, cell in enumerate(row)).rstrip() for row in [list(heads), *texts]]
    return [cut(line, width()) for line in lines]
