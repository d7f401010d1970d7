"""Follow journals and records of incidents for all their watchers: read once, drawn once, sent to all."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool

from k2run.app.launch import open_stack
from k2run.app.run_processes import process_of
from k2run.engine.events import AnyEvent, RunFinished, RunResumed, RunStarted, decode_event
from k2run.engine.journal import JOURNAL
from k2run.errors import K2runError
from k2run.evidence.compare import last_rehearsal
from k2run.evidence.view import RunView
from k2run.web.fragments import Drawing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from k2run.daemon.alerts.incident import Incident
    from k2run.daemon.alerts.incident_store import IncidentStore
    from k2run.engine.store import Store
    from k2run.stack.model import Chart
    from k2run.web.fragments import Rows

T = TypeVar("T")

LOOK_S = 0.015
"""Seconds between two reads of the journal while it is watched."""
ALIVE_S = 1.0
"""Seconds between two checks of the run's process."""
REST = 3.0
"""Seconds of rest for each second that was drawn."""
BEAT_S = 15.0
"""Seconds of silence after which a connection sends a heartbeat."""
KEPT = 200
"""Updates kept for a slow watcher; one who is further behind gets the whole page again."""
_encode = msgspec.json.Encoder().encode
LOOK_AT_RECORDS_S = 0.25
"""Seconds between two reads of the records, however many watchers there are."""
ANYWAY_S = 2.0
"""Seconds after which a page is drawn again although no record has changed: its run may have."""
TONES = {
    "open": "warn",
    "approval needed": "warn",
    "queued": "warn",
    "running": "live",
    "joined": "live",
    "declined": "quiet",
    "not needed": "quiet",
    "closed": "good",
}


class FollowedRun:
    """One run as far as its journal has been read."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.folder = folder
        self.view = RunView()
        self.alive = False
        self.seq = 0
        self._store = store
        self._begun: list[AnyEvent] = []
        self._offset = 0
        self._looked = 0.0
        self._charts: Sequence[Chart] | None = None

    def read_on(self) -> list[AnyEvent]:
        """Read the new lines of the journal; one that is still being written is left for the next time."""
        path = self.folder / JOURNAL
        if path.stat().st_size <= self._offset:
            return []
        with path.open("rb") as file:
            file.seek(self._offset)
            raw = file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        self._offset += len(whole)
        events = [decode_event(line) for line in whole.splitlines()]
        for event in events:
            self.view.fold(event)
            self.seq = event.seq
            if isinstance(event, RunStarted | RunResumed):
                self._begun.append(event)
        return events

    def look_alive(self) -> bool:
        """Check, at most once a second, whether the run's process is alive; returns whether that has changed."""
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

    @property
    def charts(self) -> Sequence[Chart]:
        """Those of its stack, which name what it measures; read once."""
        if self._charts is None:
            if self.view.started is None:
                return ()
            self._charts = charts_of(self.view, self._store)
        return self._charts

    def _has_process(self) -> bool:
        return bool(self._begun) and process_of(self._store, self.folder.name, self._begun) is not None


class Channel:
    """The updates of one layout of a run's page; drawn in one thread, taken by many watchers on the event loop."""

    def __init__(self, drawing: Drawing) -> None:
        self.drawing = drawing
        self.watchers = 0
        self.updates: tuple[int, tuple[bytes, ...]] = (0, ())

    def update(self, followed: FollowedRun) -> None:
        """Draw what has changed, and keep it for the watchers."""
        changed = self.drawing.changes(followed)
        if changed:
            number, kept = self.updates
            self.updates = (number + 1, (*kept[1 - KEPT :], message(followed, changed)))

    def since(self, number: int) -> tuple[int, tuple[bytes, ...] | None]:
        """The newest number, and the updates after a number; None when some of them are gone."""
        newest, kept = self.updates
        missed = newest - number
        return newest, None if missed > len(kept) else kept[len(kept) - missed :]


class Feed:
    """One run and its watchers. Its journal is read and its pages are drawn by one thread at a time.

    Args:
        followed: The run.
        drawers: Threads that draw: the event loop never does, for a long run takes seconds.
    """

    def __init__(self, followed: FollowedRun, drawers: Executor) -> None:
        self._followed = followed
        self._drawers = drawers
        self._busy = asyncio.Lock()
        self._rows: Rows = {}
        self._reports: dict[object, tuple[int, str]] = {}
        self._channels: dict[str, Channel] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def read(self, make: Callable[[FollowedRun], T]) -> T:
        """Read the rest of the journal and make something of the run, with no other reader in between.

        Args:
            make: Runs in a thread, to its end even when the client has gone.
        """
        return await asyncio.shield(asyncio.ensure_future(self._alone(make)))

    async def page(self, layout: str, csrf: str, make: Callable[[FollowedRun, dict[str, str]], T]) -> T:
        """Make something of the run and the parts of one layout, for one reader."""
        return await self.read(lambda followed: make(followed, Drawing(layout, csrf, self._rows).changes(followed)))

    async def report(self, render: Callable[[RunView, RunView | None], str]) -> str:
        """A report of the run, made once for each state of its journal."""

        def kept(followed: FollowedRun) -> str:
            at, text = self._reports.get(render, (-1, ""))
            if at != followed.seq:
                followed.view.alive = followed.state == "running"
                text = render(followed.view, last_rehearsal(followed.folder, followed.view))
                self._reports[render] = (followed.seq, text)
            return text

        return await self.read(kept)

    async def watch(self, layout: str) -> AsyncGenerator[bytes]:
        """Everything on the page at first, then what changes, as server-sent events; ends with the watcher."""
        channel = self._channels.get(layout)
        if channel is None:
            channel = self._channels[layout] = Channel(Drawing(layout, "", self._rows))
        channel.watchers += 1
        try:
            whole, number = await self._whole(channel)
            yield whole
            while True:
                number, updates = channel.since(number)
                if updates is None:
                    whole, number = await self._whole(channel)
                    yield whole
                elif updates:
                    yield b"".join(updates)
                else:
                    yield await self._wait()
        finally:
            channel.watchers -= 1
            if not channel.watchers and self._channels.get(layout) is channel:
                del self._channels[layout]

    @property
    def watchers(self) -> int:
        """How many watchers it has."""
        return sum(channel.watchers for channel in self._channels.values())

    @property
    def watched(self) -> bool:
        """Whether it has watchers."""
        return bool(self._channels)

    async def _alone(self, make: Callable[[FollowedRun], T]) -> T:
        def read_and_make(channels: list[Channel]) -> tuple[bool, T]:
            return self._read(channels), make(self._followed)

        async with self._busy:
            loop, channels = asyncio.get_running_loop(), list(self._channels.values())
            news, made = await loop.run_in_executor(self._drawers, read_and_make, channels)
        if news:
            self._news.set()
            self._news = asyncio.Event()
        return made

    def _read(self, channels: list[Channel]) -> bool:
        with suppress(FileNotFoundError):
            events = self._followed.read_on()
            turned = self._followed.look_alive()
            for channel in channels:
                if events or turned or not channel.drawing.drawn:
                    channel.update(self._followed)
            return bool(events or turned)
        return False

    async def _whole(self, channel: Channel) -> tuple[bytes, int]:
        """Everything on the page, and the number of the last update that is in it."""
        return await self.read(lambda followed: (message(followed, channel.drawing.whole()), channel.updates[0]))

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
        """Read the journal while it is watched; what takes long to draw is drawn less often."""
        while self.watched:
            began = time.monotonic()
            await self.read(lambda _: None)
            await asyncio.sleep(max(LOOK_S, REST * (time.monotonic() - began)))


def message(followed: FollowedRun, parts: dict[str, str]) -> bytes:
    """One server-sent event: the parts that have changed, up to which line of the journal, and the run's clock."""
    data = _encode({"now": round(followed.now, 3), "state": followed.state, "parts": parts})
    return b"id: %d\ndata: %b\n\n" % (followed.seq, data)


class DrawnPage(msgspec.Struct, frozen=True, kw_only=True):
    """What a page shows at a moment.

    Attributes:
        now: Seconds on its clock.
        state: `running` while its clocks run.
        parts: By the id of their element.
    """

    now: float
    state: str
    parts: dict[str, str]


class IncidentFeed:
    """The records of incidents, and how many connections follow them."""

    def __init__(self, incidents: IncidentStore) -> None:
        self.watchers = 0
        self._incidents = incidents
        self._looked = 0.0
        self._mark: frozenset[tuple[str, int]] = frozenset()

    async def watch(self, draw: Callable[[], DrawnPage]) -> AsyncGenerator[bytes]:
        """Everything on a page at first, then what changes, as server-sent events; ends with the watcher."""
        self.watchers += 1
        sent: dict[str, str] = {}
        mark, at = None, 0.0
        beat = time.monotonic()
        try:
            while True:
                now = time.monotonic()
                if mark != await self._look() or now - at > ANYWAY_S:
                    mark, at = self._mark, now
                    drawn = await run_in_threadpool(draw)
                    fresh = {name: html for name, html in drawn.parts.items() if sent.get(name) != html}
                    sent |= fresh
                    if fresh:
                        beat = now
                        yield message_of(msgspec.structs.replace(drawn, parts=fresh))
                if now - beat > BEAT_S:
                    beat = now
                    yield b": \n\n"
                await asyncio.sleep(LOOK_AT_RECORDS_S)
        finally:
            self.watchers -= 1

    async def _look(self) -> frozenset[tuple[str, int]]:
        """What differs when a record has changed; the folder is read once for all simultaneous readers."""
        if time.monotonic() - self._looked >= LOOK_AT_RECORDS_S:
            self._looked = time.monotonic()
            self._mark = await run_in_threadpool(self._incidents.mark)
        return self._mark


def tone_of(incident: Incident) -> str:
    """The tone of an incident's state."""
    return TONES.get(incident.state, "bad" if incident.failed else "warn")


def open_incidents(incidents: IncidentStore) -> list[tuple[Incident, str]]:
    """The open incidents, newest first, each with the tone of its state."""
    return [(one, tone_of(one)) for one in reversed(incidents.all()) if one.closed is None]


def message_of(drawn: DrawnPage) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % _encode(drawn)


def charts_of(view: RunView, store: Store) -> Sequence[Chart]:
    """The charts of a run's stack; none where its file cannot be read any more."""
    if view.started is None:
        return ()
    try:
        return open_stack(view.started.stack, store=store).charts
    except K2runError:
        return ()
