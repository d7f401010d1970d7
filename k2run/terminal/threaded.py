"""What faces share that draw in a thread of their own."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from k2run.terminal.face import Face

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k2run.engine.events import AnyEvent


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
        """The events that are not drawn yet, each once."""
        while self._waiting:
            yield self._waiting.popleft()

    def show(self, event: AnyEvent) -> None:
        """Put the event into the queue of what is to be drawn."""
        self._waiting.append(event)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Draw what there is to draw, then nothing until the others are done."""
        with self._drawing:
            self._draw()
            yield

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        """Draw the last of it.

        Raises:
            Exception: The first reason why something could not be drawn.
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
        """Draw; a display that has failed once is left alone."""
        if self._failure is not None:
            self._waiting.clear()
            return
        try:
            self.draw()
        except Exception as error:  # noqa: BLE001 - neither the run nor a question depends on what is drawn
            self._failure = error
