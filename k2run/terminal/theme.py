"""The style of each tone: the only place that knows colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.text import Text

from k2run.terminal.lines import Tone

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k2run.terminal.lines import Line

# The sixteen colours of the terminal's own theme: readable on light and dark grounds alike.
STYLES: dict[Tone, str] = {
    Tone.PLAIN: "",
    Tone.QUIET: "dim",
    Tone.STRONG: "bold",
    Tone.GOOD: "green",
    Tone.BAD: "bold red",
    Tone.WARN: "yellow",
    Tone.BADGE_GOOD: "bold reverse green",
    Tone.BADGE_BAD: "bold reverse red",
    Tone.BADGE_WARN: "bold reverse yellow",
}


def dressed(lines: Iterable[Line]) -> Text:
    """The lines as one text with styles; nothing in them is read as markup."""
    return Text("\n", no_wrap=True, overflow="crop", end="").join(
        Text.assemble(*((part.text, STYLES[part.tone]) for part in line)) for line in lines
    )


def console_on(stream: TextIO) -> Console:
    """A console that leaves text alone; it respects NO_COLOR."""
    return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=False)
