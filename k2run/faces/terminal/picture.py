"""A picture of a run: what a terminal showed of it, as SVG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from k2run.faces.terminal.story import Story

if TYPE_CHECKING:
    from collections.abc import Iterable

    from k2run.engine.events import AnyEvent


def picture(events: Iterable[AnyEvent], width: int = 100, *, title: str = "") -> str:
    """Draw the run.

    Args:
        events: The run's journal.
        width: Columns of the terminal.
        title: In the window's title bar; the command that started the run, when empty.

    Returns:
        A self-contained SVG document.
    """
    from rich.console import Console

    from k2run.faces.terminal.dress import dressed

    story = Story(width)
    lines = [line for event in events for line in story.tell(event)]
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
    return console.export_svg(title=shown, unique_id="k2run")
