"""Diagnoses on a page: a stack is checked for a while, once for all readers, and each result is shown at once."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from k2run.actions.catalogue import Catalogue
from k2run.app.diagnose import checked, headline, lines_of, recovery_runbooks
from k2run.app.launch import open_stack
from k2run.errors import K2runError
from k2run.recovery.window import watching
from k2run.web.feed import BEAT_S
from k2run.web.incident_feed import DrawnPage, message
from k2run.web.templating import draw

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from k2run.engine.store import Store
    from k2run.recovery.diagnosis import Diagnosis

WINDOW_S = 20.0
"""Seconds for which a stack is checked again and again: a fault that comes and goes shows itself in that time."""
FRESH_S = 10.0
"""Seconds for which a finished diagnosis is cached."""
_LOOK_S = 0.5


class Window:
    """The diagnosis of one stack while it is made, in a thread of its own.

    Args:
        store: The k2run home.
        stack: The name of the stack.

    Attributes:
        found: What was found so far; None before the first look has ended.
        ended_at: When the last look ended, in seconds of the monotonic clock; None before.
        failure: Why it could not be diagnosed.
    """

    def __init__(self, store: Store, stack: str) -> None:
        self.found: Diagnosis | None = None
        self.ended_at: float | None = None
        self.failure: K2runError | None = None
        self._store = store
        self._stack = stack
        self._began = time.monotonic()
        self._loop, self._first = asyncio.get_running_loop(), asyncio.Event()
        threading.Thread(target=self._look, name="diagnosis", daemon=True).start()

    def _look(self) -> None:
        catalogue = Catalogue()
        try:
            stack = open_stack(self._stack, store=self._store)
            runbooks = recovery_runbooks(catalogue)
            for found in watching(runbooks, stack, catalogue, threading.Event(), WINDOW_S):
                self.found = found
                self._tell()
        except K2runError as error:
            self.failure = error
        finally:
            self.ended_at = time.monotonic()
            self._tell()

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the server has ended meanwhile
            self._loop.call_soon_threadsafe(self._first.set)

    @property
    def fresh(self) -> bool:
        """Whether it is still running, or ended a moment ago."""
        return self.ended_at is None or time.monotonic() - self.ended_at < FRESH_S

    @property
    def stands(self) -> tuple[object, ...]:
        """Differs when there is more to show."""
        return id(self), self.found.looks if self.found else 0, self.ended_at

    async def first(self) -> Diagnosis:
        """What the first look found, or more.

        Raises:
            K2runError: The stack could not be diagnosed.
        """
        await self._first.wait()
        if self.found is None:
            raise self.failure or K2runError("the diagnosis broke off", hint="the log of `k2run serve` shows why")
        return self.found

    def drawn(self) -> DrawnPage:
        """The page as far as something was found."""
        over = self.ended_at is not None
        values = {
            "stack": self._stack,
            "found": self.found,
            "over": over,
            "seconds": WINDOW_S,
            "checked": checked(self.found) if self.found else "",
            "headline": headline(self.found) if self.found else "",
            "text": "\n".join(lines_of(self.found)) if self.found else "",
        }
        parts = {"p-diagnosis": draw("parts/diagnosis.html", **values)}
        now = (self.ended_at or time.monotonic()) - self._began
        return DrawnPage(now=round(now, 3), state="ended" if over else "running", parts=parts)


class Diagnoses:
    """The last diagnosis of each stack, and how many connections follow one.

    Args:
        store: The k2run home.
    """

    def __init__(self, store: Store) -> None:
        self.watchers = 0
        self._store = store
        self._windows: dict[str, Window] = {}

    def of(self, stack: str) -> Window:
        """The running or recent diagnosis of a stack; starts one when there is none."""
        window = self._windows.get(stack)
        if window is None or not window.fresh:
            window = self._windows[stack] = Window(self._store, stack)
        return window

    def last(self, stack: str) -> Window | None:
        """The last diagnosis of a stack; nothing begins."""
        return self._windows.get(stack)

    async def follow(self, stack: str) -> AsyncGenerator[bytes]:
        """What changes in the last diagnosis of a stack, as server-sent events; ends with the watcher."""
        self.watchers += 1
        sent: tuple[object, ...] = ()
        beat = time.monotonic()
        try:
            while True:
                window = self.last(stack)
                if window is not None and window.found is not None and sent != window.stands:
                    sent, beat = window.stands, time.monotonic()
                    yield message(window.drawn())
                if time.monotonic() - beat > BEAT_S:
                    beat = time.monotonic()
                    yield b": \n\n"
                await asyncio.sleep(_LOOK_S)
        finally:
            self.watchers -= 1
