"""What shows a run: an observer of its journal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from k2run.engine.events import RunStarted
from k2run.engine.wall import aside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from k2run.engine.events import AnyEvent


class Face(ABC):
    """Shows the events of one run. It is an observer of the journal: `see` is quick.

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
        """Leave the terminal to a prompt; what happens meanwhile is shown afterwards."""
        yield

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        aside("the display", self.close, None)  # the run has ended; its result does not depend on it

    def close(self) -> None:  # noqa: B027 - most faces keep nothing back
        """Show what is left to show, and give the terminal back as it was."""
