"""What a face is, and which one suits a stream."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, Self, TextIO

from k2run.engine.events import RunStarted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from k2run.engine.events import AnyEvent

Mode = Literal["auto", "live", "plain", "json"]


class Face(ABC):
    """Shows the events of one run. It is an observer of the journal: `see` is quick and never raises.

    Attributes:
        run: The run's id; empty before it has started.
    """

    def __init__(self) -> None:
        self.run = ""

    def see(self, event: AnyEvent) -> None:
        """Take note of an event."""
        if isinstance(event, RunStarted):
            self.run = event.run
        self.show(event)

    @abstractmethod
    def show(self, event: AnyEvent) -> None:
        """Bring an event before people's eyes, now or soon."""

    def recall(self, events: Iterable[AnyEvent]) -> None:
        """Take note of what an earlier part of a resumed run did; that is not shown again."""
        for event in events:
            if isinstance(event, RunStarted):
                self.run = event.run
            self.remember(event)

    @abstractmethod
    def remember(self, event: AnyEvent) -> None:
        """Take note of an event without showing it."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to somebody else, such as a question; what happens meanwhile is shown afterwards."""
        yield

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 - most faces keep nothing back
        """Show what is left to show, and give the terminal back as it was."""


def open_face(mode: Mode, stream: TextIO) -> Face:
    """The face for a stream.

    Args:
        mode: `auto` is live on a terminal that can move its cursor, and plain everywhere else.
        stream: Where it writes.
    """
    if mode == "json":
        from k2run.faces.terminal.json_lines import JsonFace

        return JsonFace(stream)
    if mode == "live" or (mode == "auto" and _can_redraw(stream)):
        from k2run.faces.terminal.live import LiveFace

        return LiveFace(stream)
    from k2run.faces.terminal.plain import PlainFace

    return PlainFace(stream)


def _can_redraw(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}
