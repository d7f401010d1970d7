"""What shows a run: an observer of its journal, which may draw in a thread of its own."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
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
        """Show an event, now or soon."""

    def recall(self, events: Iterable[AnyEvent]) -> None:
        """Take note of what an earlier part of a resumed run did, without showing it again."""
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
        """Show what is left and restore the terminal."""


class ThreadedFace(Face):
    """A face for which the run does not wait: `see` puts an event into a queue, a thread draws what is in it.

    Args:
        period: Seconds between two drawings.
    """

    def __init__(self, period: float) -> None:
        super().__init__()
        self._period = period
        self._waiting: deque[AnyEvent] = deque()
        self._drawing = threading.RLock()
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._draw_until_ended, name="face", daemon=True)

    @abstractmethod
    def draw(self) -> None:
        """Draw what has happened since the last time; one thread at a time does."""

    def take(self) -> Iterator[AnyEvent]:
        """The events that have not been drawn yet, each once."""
        while self._waiting:
            yield self._waiting.popleft()

    def show(self, event: AnyEvent) -> None:
        """Put the event into the queue of what is to be drawn."""
        self._waiting.append(event)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Draw what is queued, then wait until the others are done."""
        with self._drawing:
            self._draw()
            yield

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        """Draw the last of it.

        Raises:
            Exception: The first error while drawing.
        """
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        with self.paused():
            pass
        if self._failure is not None:
            raise self._failure

    def _draw_until_ended(self) -> None:
        while not self._ended.wait(self._period):
            with self._drawing:
                self._draw()

    def _draw(self) -> None:
        """Draw, unless the display has failed before."""
        if self._failure is not None:
            self._waiting.clear()
            return
        try:
            self.draw()
        except Exception as error:  # noqa: BLE001 - neither the run nor a question depends on what is drawn
            self._failure = error
