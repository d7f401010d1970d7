"""What the pages share: the k2run home, who may do what, and the runs and incidents that are being watched."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

from k2run.faces.alerts.book import Book
from k2run.faces.web.feed import Feed, Story
from k2run.faces.web.pictures import draw
from k2run.faces.web.runs import Runs
from k2run.faces.web.shelf import Shelf
from k2run.faces.web.statics import VERSION
from k2run.faces.web.tokens import Role, Somebody, Tokens
from k2run.faces.web.watched import Watched

if TYPE_CHECKING:
    from typing import Any

    from starlette.requests import Request

    from k2run.engine.store import Store

COOKIE = "k2run"
KEPT = 24
"""Runs whose journals stay in memory after somebody has looked at them."""


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
        private: Looking needs a token too.
    """

    def __init__(self, store: Store, *, private: bool = False) -> None:
        self.store = store
        self.private = private
        self.tokens = Tokens(store.home)
        self.runs = Runs(store)
        self.shelf = Shelf(store)
        self.book = Book(store.home)
        self.watched = Watched(self.book)
        self._feeds: OrderedDict[str, Feed] = OrderedDict()
        self._writing = threading.Lock()

    def who(self, request: Request) -> Somebody:
        """Who asks: by a bearer token, else by the session of a browser."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind == "Bearer":
            return self.tokens.by_token(token.strip())
        return self.tokens.by_session(request.cookies.get(COOKIE, ""))

    def reader(self, request: Request) -> Somebody:
        """Who looks.

        Raises:
            Denied: Looking needs a token, and there is none.
        """
        who = self.who(request)
        if self.private and who.role < Role.VIEWER:
            raise Denied(401, "Looking needs a token here")
        return who

    def feed(self, run: str) -> Feed:
        """A run and those who watch it; read as far as its journal goes.

        Raises:
            UsageError: There is no such run.
        """
        feed = self._feeds.pop(run, None)
        if feed is None:
            feed = Feed(Story(self.store, self.runs.folder(run)))
        self._feeds[run] = feed
        for name in [name for name, each in self._feeds.items() if not each.watched and name != run][:-KEPT]:
            del self._feeds[name]
        feed.catch_up()
        return feed

    @property
    def watchers(self) -> int:
        """How many connections follow a run or an incident."""
        return sum(feed.watchers for feed in self._feeds.values()) + self.watched.watchers

    def page(self, name: str, who: Somebody, **values: Any) -> str:
        """A whole page."""
        return draw(name, who=who, version=VERSION, **{"here": "", **values})

    def audit(self, request: Request, who: Somebody, what: str, of: str) -> None:
        """Keep who asked for what, also where no run is there to keep it."""
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
        folder = self.store.home / "serve"
        folder.mkdir(parents=True, exist_ok=True)
        with self._writing, (folder / "audit.jsonl").open("a") as file:
            file.write(line + "\n")


def site_of(request: Request) -> Site:
    """The site that a request is for."""
    return cast("Site", request.app.state.site)
