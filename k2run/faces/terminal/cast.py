"""A run as a terminal showed it, to be played again: an asciicast, version 2."""

from __future__ import annotations

import io
import json
from datetime import datetime
from typing import TYPE_CHECKING

from k2run.faces.terminal.story import Story

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from k2run.engine.events import AnyEvent
    from k2run.faces.terminal.lines import Line

WIDTH, HEIGHT = 100, 40
LONGEST_PAUSE = 3.0
"""Seconds; whoever plays it waits no longer for the next line."""


def cast(events: Iterable[AnyEvent], width: int = WIDTH) -> str:
    """The run as an asciicast: a line with its measures, then one for each piece of output and its time.

    Args:
        events: The run's journal.
        width: Columns of the terminal.
    """
    story = Story(width)
    pieces = [(event, _output(story.tell(event), width)) for event in events]
    first = pieces[0][0] if pieces else None
    title = story.view.started.title if story.view.started is not None else "k2run"
    begun = int(datetime.fromisoformat(first.at).timestamp()) if first is not None and first.at else 0
    head = {
        "version": 2,
        "width": width,
        "height": HEIGHT,
        "timestamp": begun,
        "title": title,
        "idle_time_limit": LONGEST_PAUSE,
    }
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in (head, *_timed(pieces)))


def _timed(pieces: Iterable[tuple[AnyEvent, str]]) -> Iterator[tuple[float, str, str]]:
    for event, output in pieces:
        if output:
            yield round(event.t, 3), "o", output


def _output(lines: Iterable[Line], width: int) -> str:
    """What the terminal gets: text with the codes of its colours."""
    shown = list(lines)
    if not shown:
        return ""
    from rich.console import Console

    from k2run.faces.terminal.dress import dressed

    console = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system="standard", legacy_windows=False
    )
    with console.capture() as captured:
        console.print(dressed(shown), no_wrap=True, crop=True)
    return captured.get().replace("\n", "\r\n")
