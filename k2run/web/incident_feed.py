"""Follow the records of incidents for every page that shows some of them."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from starlette.concurrency import run_in_threadpool

from k2run.web.feed import BEAT_S

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from k2run.daemon.alerts.incident import Incident
    from k2run.daemon.alerts.store import IncidentStore

LOOK_S = 0.25
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
_encode = msgspec.json.Encoder().encode


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
    """The records of incidents, and how many connections follow them.

    Args:
        incidents: The incidents.
    """

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
                        yield message(msgspec.structs.replace(drawn, parts=fresh))
                if now - beat > BEAT_S:
                    beat = now
                    yield b": \n\n"
                await asyncio.sleep(LOOK_S)
        finally:
            self.watchers -= 1

    async def _look(self) -> frozenset[tuple[str, int]]:
        """What differs when a record has changed; the folder is read once for all simultaneous readers."""
        if time.monotonic() - self._looked >= LOOK_S:
            self._looked = time.monotonic()
            self._mark = await run_in_threadpool(self._incidents.mark)
        return self._mark


def tone_of(incident: Incident) -> str:
    """The tone of an incident's state."""
    return TONES.get(incident.state, "bad" if incident.failed else "warn")


def open_incidents(incidents: IncidentStore) -> list[tuple[Incident, str]]:
    """The open incidents, newest first, each with the tone of its state."""
    return [(one, tone_of(one)) for one in reversed(incidents.all()) if one.closed is None]


def age_of(incident: Incident) -> float:
    """Seconds since an incident was opened, or for which it was open."""
    began = datetime.fromisoformat(incident.opened.at).timestamp()
    ended = datetime.fromisoformat(incident.closed.at).timestamp() if incident.closed is not None else time.time()
    return max(0.0, ended - began)


def message(drawn: DrawnPage) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % _encode(drawn)
