"""What the pages share: the k2run home, users, what is watched, diagnoses; answers that last while a client watches."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from starlette.responses import Response, StreamingResponse

from k2run.actions.catalogue import Catalogue
from k2run.app.diagnose import checked, headline, lines_of, recovery_runbooks
from k2run.app.launch import open_stack
from k2run.daemon.alerts.incident_store import IncidentStore
from k2run.errors import K2runError
from k2run.files import open_own, own_folder
from k2run.recovery.looks import watching
from k2run.web.feed import BEAT_S, DrawnPage, Feed, FollowedRun, IncidentFeed, message_of
from k2run.web.fragments import VERSION, draw
from k2run.web.guard import Role, Tokens, User
from k2run.web.listings import Runs, SiteCatalogue

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from typing import Any

    from starlette.requests import Request

    from k2run.engine.store import Store
    from k2run.recovery.diagnosis import Diagnosis

WINDOW_S = 20.0
"""Seconds for which a stack is checked again and again: a fault that comes and goes shows itself in that time."""
FRESH_S = 10.0
"""Seconds for which a finished diagnosis is cached."""
_LOOK_S = 0.5
COOKIE = "k2run"
AT_ITS_END = os.O_WRONLY | os.O_CREAT | os.O_APPEND
DRAWERS = 2
"""Threads that draw runs: each takes a share of the time in which others are answered."""
KEPT = 24
"""Runs whose journals stay in memory after a visit."""
MOST_WATCHERS = 500
ALLOWED_S = 1.0
"""Seconds between two looks at whether a watcher may still look: a session that ends also ends its streams."""
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class Window:
    """The diagnosis of one stack while it is made, in a thread of its own.

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
    """The last diagnosis of each stack, and how many connections follow one."""

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

    async def follow(self, stack: str) -> AsyncGenerator[bytes]:
        """What changes in the last diagnosis of a stack, as server-sent events; ends with the watcher."""
        self.watchers += 1
        sent: tuple[object, ...] = ()
        beat = time.monotonic()
        try:
            while True:
                window = self._windows.get(stack)
                if window is not None and window.found is not None and sent != window.stands:
                    sent, beat = window.stands, time.monotonic()
                    yield message_of(window.drawn())
                if time.monotonic() - beat > BEAT_S:
                    beat = time.monotonic()
                    yield b": \n\n"
                await asyncio.sleep(_LOOK_S)
        finally:
            self.watchers -= 1


class Denied(Exception):
    """A request that is refused, with an HTTP status and why, for people."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint


class Site:
    """One k2run home, as the web page serves it; where it is private, reading needs a token too."""

    def __init__(self, store: Store, *, private: bool = False) -> None:
        self.store = store
        self.private = private
        self.tokens = Tokens(store.home)
        self.runs = Runs(store)
        self.catalogue = SiteCatalogue(store)
        self.incidents = IncidentStore(store.home)
        self.watched = IncidentFeed(self.incidents)
        self.diagnoses = Diagnoses(store)
        self._feeds: OrderedDict[str, Feed] = OrderedDict()
        self._drawers = ThreadPoolExecutor(DRAWERS, "drawer")
        self._writing = threading.Lock()

    def who(self, request: Request) -> User:
        """The user of a request: by bearer token, else by the session of the browser.

        Raises:
            Denied: The bearer token is wrong.
        """
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            return self.tokens.by_session(request.cookies.get(COOKIE, ""), time.time())
        found = self.tokens.by_token(token.strip())
        if found.role < Role.VIEWER:
            raise Denied(401, "Unknown token")  # the guard counts it as it counts a sign-in
        return found

    def reader(self, request: Request, *, known: bool = False) -> User:
        """The user who reads a page.

        Args:
            request: What they send.
            known: The page is costly, so it needs a token everywhere.

        Raises:
            Denied: The page needs a token, and there is none.
        """
        who = self.who(request)
        if (self.private or known) and who.role < Role.VIEWER:
            raise Denied(401, "Sign in to see this page")
        return who

    def user_or_anonymous(self, request: Request) -> User:
        """Who made a refused request; anonymous when that cannot be known."""
        try:
            return self.who(request)
        except Denied:
            return User()

    def feed(self, run: str) -> Feed:
        """A run and those who watch it.

        Raises:
            NotFound: There is no such run.
        """
        feed = self._feeds.pop(run, None)
        if feed is None:
            feed = Feed(FollowedRun(self.store, self.runs.folder(run)), self._drawers)
        self._feeds[run] = feed
        for name in [name for name, each in self._feeds.items() if not each.watched and name != run][:-KEPT]:
            del self._feeds[name]
        return feed

    @property
    def watchers(self) -> int:
        """How many connections follow a run, an incident or a diagnosis."""
        return sum(feed.watchers for feed in self._feeds.values()) + self.watched.watchers + self.diagnoses.watchers

    def page(self, name: str, who: User, **values: Any) -> str:
        """A whole page."""
        return draw(name, who=who, version=VERSION, **{"here": "", **values})

    def audit(self, request: Request, who: User, what: str, of: str) -> None:
        """Record who changed what, also where no run records it."""
        line = json.dumps(
            {
                "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "who": who.name,
                "role": who.role.word,
                "from": request.client.host if request.client else "",
                "what": what,
                "of": of,
            }
        )
        folder = own_folder(self.store.home / "serve", self.store.home)
        with self._writing, os.fdopen(open_own(folder / "audit.jsonl", AT_ITS_END), "a", encoding="utf-8") as file:
            file.write(line + "\n")


def site_of(request: Request) -> Site:
    """The site that a request is for."""
    return cast("Site", request.app.state.site)


def stream(request: Request, events: AsyncGenerator[bytes], *, known: bool = False) -> Response:
    """Send events until the watcher goes, signs out, or may not look any more.

    Args:
        request: What the watcher sent.
        events: What is sent.
        known: Looking there needs a token everywhere.

    Raises:
        Denied: The watcher may not look, or too many do.
    """
    site = site_of(request)
    site.reader(request, known=known)
    if site.watchers >= MOST_WATCHERS:
        raise Denied(503, "Too many open pages", "close some and try again")
    sent = while_allowed(events, lambda: _may_look(request, known=known), ALLOWED_S)
    return StreamingResponse(sent, media_type="text/event-stream", headers=HEADERS)


def _may_look(request: Request, *, known: bool) -> bool:
    try:
        site_of(request).reader(request, known=known)
    except (Denied, K2runError):
        return False
    return True


async def while_allowed(
    events: AsyncGenerator[bytes], allowed: Callable[[], bool], every: float
) -> AsyncGenerator[bytes]:
    """The same events, ended when they are no longer allowed, also while none comes.

    Args:
        events: What is sent.
        allowed: Whether more may be sent.
        every: Seconds between two questions.
    """
    async with aclosing(events):
        asked = time.monotonic()
        while True:
            coming = asyncio.ensure_future(anext(events, None))
            try:
                while not coming.done():
                    await asyncio.wait({coming}, timeout=max(0.0, asked + every - time.monotonic()))
                    if time.monotonic() - asked >= every:
                        if not allowed():
                            return
                        asked = time.monotonic()
                event = coming.result()
            finally:
                if coming.cancel():
                    await asyncio.wait({coming})
            if event is None:
                return
            yield event
