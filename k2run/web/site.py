"""What the pages share: the k2run home, users, and the runs and incidents that are watched."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from k2run.daemon.alerts.store import IncidentStore
from k2run.files import open_own, own_folder
from k2run.web.catalogue import SiteCatalogue
from k2run.web.diagnoses import Diagnoses
from k2run.web.feed import Feed, FollowedRun
from k2run.web.incident_feed import IncidentFeed
from k2run.web.runs import Runs
from k2run.web.templating import VERSION, draw
from k2run.web.tokens import Role, Tokens, User

if TYPE_CHECKING:
    from typing import Any

    from starlette.requests import Request

    from k2run.engine.store import Store

COOKIE = "k2run"
AT_ITS_END = os.O_WRONLY | os.O_CREAT | os.O_APPEND
DRAWERS = 2
"""Threads that draw runs: each takes a share of the time in which others are answered."""
KEPT = 24
"""Runs whose journals stay in memory after a visit."""


class Denied(Exception):
    """A request that is refused.

    Args:
        status: The HTTP status.
        message: Why, for people.
    """

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint


class Site:
    """One k2run home, as the web page serves it.

    Args:
        store: The k2run home.
        private: Reading needs a token too.
    """

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
