"""The live display: the story scrolls, the foot of the terminal shows what is going on."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from k2run.faces.terminal.keys import QuietKeys
from k2run.faces.terminal.running import running
from k2run.faces.terminal.story import Story
from k2run.faces.terminal.threaded import ThreadedFace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.live import Live

    from k2run.engine.events import AnyEvent

PERIOD = 0.125
"""Seconds between two drawings."""


class LiveFace(ThreadedFace):
    """For people who watch.

    Args:
        stream: A terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(PERIOD)
        self._stream = stream
        self._earlier: list[AnyEvent] = []
        self._seen = (0.0, time.monotonic())
        self._story: Story | None = None
        self._live: Live | None = None
        self._frame = 0
        self._gone = False
        self._quiet = QuietKeys(stream)

    def remember(self, event: AnyEvent) -> None:
        """Keep the event for the story's view."""
        self._earlier.append(event)

    def show(self, event: AnyEvent) -> None:
        """Put the event into the queue of what is to be drawn."""
        self._seen = (event.t, time.monotonic())
        super().show(event)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the moving part off the terminal; what has happened so far is shown first."""
        with super().paused():
            if self._live is not None:
                self._live.stop()
                self._live = None
                self._quiet.end()
            yield

    def draw(self) -> None:
        """Tell what is new, then draw the moment; a terminal that has gone away is not written to any more."""
        if self._gone:
            return
        try:
            self._draw_on(self._live or self._open())
        except (OSError, ValueError):
            self._gone = True

    def _open(self) -> Live:
        from rich.live import Live

        from k2run.faces.terminal.dress import console_on

        console = console_on(self._stream)
        self._live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._live.start()
        self._quiet.begin()
        return self._live

    def _draw_on(self, live: Live) -> None:
        from k2run.faces.terminal.dress import dressed

        story = self._fit(live.console)
        told = [line for event in self.take() for line in story.tell(event)]
        if told:
            live.console.print(dressed(told), no_wrap=True, crop=True)
        self._frame += 1
        at, since = self._seen
        live.update(dressed(running(story, at + time.monotonic() - since, self._frame)), refresh=True)

    def _fit(self, console: Console) -> Story:
        """The story, for a terminal as wide as it is now."""
        if self._story is None:
            self._story = Story(console.width)
            self._story.recall(self._earlier)
        self._story.width = max(self._story.narrowest, console.width)
        return self._story
