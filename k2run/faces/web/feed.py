"""Follows the journal of one run for everybody who watches it: read once, drawn once, sent to all."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from k2run.engine.events import AnyEvent, RunFinished, RunResumed, RunStarted
from k2run.engine.journal import JOURNAL
from k2run.evidence.view import RunView
from k2run.faces.abort import process_of
from k2run.faces.web.course import Course
from k2run.faces.web.parts import Drawing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from k2run.engine.store import Store

LOOK_S = 0.015
"""Seconds between two looks at the journal while somebody watches."""
ALIVE_S = 1.0
"""Seconds between two looks at the run's process."""
BEAT_S = 15.0
"""Seconds after which a connection that had nothing to tell shows that it lives."""
KEPT = 200
"""Updates kept for a slow watcher; one who is further behind gets the whole page again."""
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
_encode = msgspec.json.Encoder().encode


class Story:
    """One run as far as its journal has been read.

    Args:
        store: The k2run home.
        folder: The run's folder.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.folder = folder
        self.view = RunView()
        self.course = Course()
        self.alive = False
        self.seq = 0
        self._store = store
        self._begun: list[AnyEvent] = []
        self._offset = 0
        self._looked = 0.0

    def read_on(self) -> list[AnyEvent]:
        """Take in what the journal has got since; a line that is still being written waits for the next time."""
        path = self.folder / JOURNAL
        if path.stat().st_size <= self._offset:
            return []
        with path.open("rb") as file:
            file.seek(self._offset)
            raw = file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        self._offset += len(whole)
        events = [_decoder.decode(line) for line in whole.splitlines()]
        for event in events:
            self.view.fold(event)
            self.course.fold(event)
            self.seq = event.seq
            if isinstance(event, RunStarted | RunResumed):
                self._begun.append(event)
        return events

    def look_alive(self) -> bool:
        """Look, at most once a second, whether the run's process lives; whether that has changed."""
        now = time.monotonic()
        if now - self._looked < ALIVE_S and not isinstance(self.view.last, RunFinished):
            return False
        self._looked = now
        before, self.alive = self.alive, self.view.finished is None and self._has_process()
        return before != self.alive

    @property
    def state(self) -> str:
        """`running`, `died` or `ended`."""
        return "ended" if self.view.finished is not None else "running" if self.alive else "died"

    @property
    def now(self) -> float:
        """Seconds since the run started: by the clock while it runs, else as far as the journal goes."""
        last = self.view.last
        if last is None or self.state != "running":
            return self.view.seconds
        return last.t + max(0.0, time.time() - datetime.fromisoformat(last.at).timestamp())

    def _has_process(self) -> bool:
        return bool(self._begun) and process_of(self._store, self.folder.name, self._begun) is not None


class Channel:
    """The updates of one layout of a run's page.

    Args:
        drawing: Draws the parts of the page.
    """

    def __init__(self, drawing: Drawing) -> None:
        self.drawing = drawing
        self.watchers = 0
        self.number = 0
        self._updates: deque[tuple[int, bytes]] = deque(maxlen=KEPT)

    def update(self, story: Story) -> None:
        """Draw anew what has changed, and keep it for the watchers."""
        changed = self.drawing.changes(story)
        if changed:
            self.number += 1
            self._updates.append((self.number, message(story, changed)))

    def since(self, number: int) -> list[bytes] | None:
        """The updates after a number; None when some of them are gone."""
        if number < self.number - len(self._updates):
            return None
        return [data for own, data in self._updates if own > number]


class Feed:
    """One run and everybody who watches it.

    Args:
        story: The run.
    """

    def __init__(self, story: Story) -> None:
        self.story = story
        self._channels: dict[str, Channel] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def watch(self, layout: str) -> AsyncIterator[bytes]:
        """Everything on the page at first, then what changes, as server-sent events; ends with the watcher."""
        channel = self._channels.get(layout)
        if channel is None:
            channel = self._channels[layout] = Channel(Drawing(layout))
        self._read()
        channel.watchers += 1
        try:
            yield message(self.story, channel.drawing.whole())
            number = channel.number
            while True:
                updates = channel.since(number)
                number = channel.number
                if updates is None:
                    yield message(self.story, channel.drawing.whole())
                elif updates:
                    yield b"".join(updates)
                else:
                    yield await self._wait()
        finally:
            channel.watchers -= 1
            if not channel.watchers and self._channels.get(layout) is channel:
                del self._channels[layout]

    def catch_up(self) -> None:
        """Read what the journal has got since, for somebody who looks once."""
        if self._read():
            self._tell()

    @property
    def watchers(self) -> int:
        """How many follow it."""
        return sum(channel.watchers for channel in self._channels.values())

    @property
    def watched(self) -> bool:
        """Whether anybody is there."""
        return bool(self._channels)

    async def _wait(self) -> bytes:
        """Wait for news; a beat when there are none."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())
        news = self._news
        try:
            async with asyncio.timeout(BEAT_S):
                await news.wait()
        except TimeoutError:
            return b": \n\n"
        return b""

    async def _follow(self) -> None:
        """Read the journal while somebody watches."""
        while self.watched:
            self.catch_up()
            await asyncio.sleep(LOOK_S)

    def _tell(self) -> None:
        """Wake everybody who waits for news."""
        self._news.set()
        self._news = asyncio.Event()

    def _read(self) -> bool:
        with suppress(FileNotFoundError):
            events = self.story.read_on()
            turned = self.story.look_alive()
            fresh = [channel for channel in self._channels.values() if not channel.drawing.drawn]
            for channel in self._channels.values() if events or turned else fresh:
                channel.update(self.story)
            return bool(events or turned)
        return False


def message(story: Story, parts: dict[str, str]) -> bytes:
    """One server-sent event: the parts that have changed, up to which line of the journal, and the run's clock."""
    data = _encode({"now": round(story.now, 3), "state": story.state, "parts": parts})
    return b"id: %d\ndata: %b\n\n" % (story.seq, data)
