"""What a terminal is to a run: an observer of its journal, and the person who answers its manual steps."""

from __future__ import annotations

import os
import select
import sys
import textwrap
import threading
from abc import ABC, abstractmethod
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TextIO

from k2run.actions.action import Answer, Person
from k2run.engine.events import RunStarted
from k2run.engine.safeguards import aside
from k2run.errors import TimedOut
from k2run.evidence.wording import clean, span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

    from k2run.actions.deadline import Deadline
    from k2run.engine.events import AnyEvent

POLL = 0.2
"""Seconds between two looks at the clock (and at a request to stop) while no key is pressed."""
_SAVE, _RESTORE, _UP, _CLEAR = "\x1b7", "\x1b8", "\x1b[1A", "\x1b[2K"


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


class _Gone(Exception):
    """The person closed the input."""


class TerminalPerson(Person):
    """Asks on the terminal, one question at a time, while the face is paused.

    Args:
        face: Steps aside while a question is asked.
        reads: Where the answer comes from.
        writes: Where the question goes; not where a program reads JSON.
    """

    def __init__(self, face: Face, reads: TextIO | None = None, writes: TextIO | None = None) -> None:
        self._face = face
        self._reads = reads or sys.stdin
        self._writes = writes or sys.stderr
        self._one_at_a_time = threading.Lock()

    def ask(self, question: str, *, choices: Sequence[str], default: str | None, deadline: Deadline) -> Answer | None:
        """Ask; on timeout or closed input the default is taken, without an operator's name."""
        with self._one_at_a_time, self._face.paused():
            forget_what_was_typed(self._reads)
            try:
                text = self._converse(question, choices, default, deadline)
            except (TimedOut, _Gone):
                self._say(f"\n  no answer; {f'taking {default!r}' if default is not None else 'left unconfirmed'}\n")
                return None if default is None else Answer(text=default)
        from k2run.files import account_name

        return Answer(text=text, by=account_name())

    def _converse(self, question: str, choices: Sequence[str], default: str | None, deadline: Deadline) -> str:
        bell = "\a" if self._writes.isatty() else ""
        self._say(f"{bell}\n{self._broken(f'  ? {clean(question)}')}\n")
        while True:
            self._say(f"{self._offer(choices, default, deadline)}\n  > ")
            typed = self._read_line(choices, default, deadline).strip()
            if not typed and default is not None:
                return default
            answer = match_choice(typed, choices)
            if answer is not None:
                return answer
            self._say(f"  please answer {' or '.join(choices)}\n" if choices else "  please type an answer\n")

    def _broken(self, text: str) -> str:
        """A long question in lines that end between words, where the terminal has a width."""
        if not self._writes.isatty():
            return text
        width = os.get_terminal_size(self._writes.fileno()).columns or len(text)
        return "\n".join(textwrap.wrap(text, max(width, 40), subsequent_indent="    "))

    def _read_line(self, choices: Sequence[str], default: str | None, deadline: Deadline) -> str:
        """A line of input; the countdown above it continues meanwhile."""
        shown = self._offer(choices, default, deadline)
        while not select.select([self._reads], [], [], POLL)[0]:
            offer = self._offer(choices, default, deadline)
            if offer != shown and self._writes.isatty():
                shown = offer
                self._say(f"{_SAVE}{_UP}\r{_CLEAR}{offer}{_RESTORE}")
        line = self._reads.readline()
        if not line:
            raise _Gone
        return line

    def _offer(self, choices: Sequence[str], default: str | None, deadline: Deadline) -> str:
        """The choices, what Enter means, and the time left: for the objective, and in all."""
        parts = [" / ".join(clean(choice) for choice in choices)] if choices else []
        if default is not None:
            parts.append(f"Enter for {clean(default)}")
        due = deadline.to_objective()
        if due is not None:
            parts.append(f"objective in {span(round(due))}" if due > 0 else f"objective missed by {span(round(-due))}")
        parts.append(f"{span(round(deadline.remaining()))} left")
        return "    " + " · ".join(parts)

    def _say(self, text: str) -> None:
        try:
            self._writes.write(text)
            self._writes.flush()
        except OSError as error:
            raise _Gone from error


def forget_what_was_typed(reads: TextIO) -> None:
    """Discard keys pressed before the question was shown."""
    if reads.isatty():
        import termios

        termios.tcflush(reads.fileno(), termios.TCIFLUSH)


def match_choice(typed: str, choices: Sequence[str]) -> str | None:
    """The choice that was meant: written out, by an unambiguous beginning, or by its number from 1."""
    if not choices:
        return typed or None
    folded = typed.casefold()
    for choice in choices:
        if choice.casefold() == folded:
            return choice
    if typed.isdigit() and 1 <= int(typed) <= len(choices):
        return choices[int(typed) - 1]
    meant = [choice for choice in choices if folded and choice.casefold().startswith(folded)]
    return meant[0] if len(meant) == 1 else None
