"""A picture of a run: what a terminal showed of it, as SVG."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from k2run.engine.events import FaultStruck, StepFinished, UndoFinished
from k2run.faces.terminal.story import Story

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from k2run.engine.events import AnyEvent
    from k2run.faces.terminal.lines import Line

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

    from k2run.faces.terminal.dress import dressed

    story = Story(width)
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


def _told(story: Story, events: Iterable[AnyEvent], unfolded: Collection[str]) -> Iterator[Line]:
    """The lines of the story, without the steps of folded sections."""
    for event in events:
        lines = story.tell(event)
        section = story.view.sections.get(story.section)
        folded = bool(unfolded) and section is not None and section.name not in unfolded
        if not (folded and isinstance(event, StepFinished | FaultStruck | UndoFinished)):
            yield from lines
