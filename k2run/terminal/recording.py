"""A run as a terminal showed it, for playback: an SVG picture, or an asciicast, version 2."""

from __future__ import annotations

import io
import json
import re
from datetime import datetime
from typing import TYPE_CHECKING

from k2run.engine.events import FaultStruck, StepFinished, UndoFinished
from k2run.terminal.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from k2run.engine.events import AnyEvent
    from k2run.terminal.lines import Line

_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def picture(events: Iterable[AnyEvent], width: int = 100, *, title: str = "", unfolded: Collection[str] = ()) -> str:
    """Draw the run.

    Args:
        events: The run's journal.
        width: Columns of the terminal.
        title: In the window's title bar; the command that started the run, when empty.
        unfolded: Names of the sections whose steps are shown; of the others one line is. When empty, all are.

    Returns:
        A self-contained SVG document.
    """
    from rich.console import Console

    from k2run.terminal.live import dressed

    story = Transcript(width)
    lines = list(_told(story, events, unfolded))
    started = story.view.started
    shown = title or (f"invoke run {started.runbook}" if started is not None else "k2run")
    console = Console(
        file=io.StringIO(),
        record=True,
        width=story.width,
        force_terminal=True,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(dressed(lines), no_wrap=True, crop=True)
    drawn = console.export_svg(title=shown, unique_id="k2run")
    return _FONT_FACE.sub("", drawn).replace("Fira Code, monospace", _FONTS)


def _told(story: Transcript, events: Iterable[AnyEvent], unfolded: Collection[str]) -> Iterator[Line]:
    """The lines of the story, without the steps of folded sections."""
    for event in events:
        lines = story.tell(event)
        section = story.view.sections.get(story.section)
        folded = bool(unfolded) and section is not None and section.name not in unfolded
        if not (folded and isinstance(event, StepFinished | FaultStruck | UndoFinished)):
            yield from lines


WIDTH, HEIGHT = 100, 40
LONGEST_PAUSE = 3.0
"""Seconds; the longest pause in playback."""


def cast(events: Iterable[AnyEvent], width: int = WIDTH) -> str:
    """The run as an asciicast: a header line, then one line per piece of output with its time.

    Args:
        events: The run's journal.
        width: Columns of the terminal.
    """
    story = Transcript(width)
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

    from k2run.terminal.live import dressed

    console = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system="standard", legacy_windows=False
    )
    with console.capture() as captured:
        console.print(dressed(shown), no_wrap=True, crop=True)
    return captured.get().replace("\n", "\r\n")
