"""The pages that look further: how figures went from run to run, and what is wrong with a stack."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from k2run.evidence.history import OF_STEPS, History
from k2run.evidence.html.charts import from_run_to_run
from k2run.evidence.trend import Trend, trends
from k2run.web.fragments import drawn
from k2run.web.runs import NotFound
from k2run.web.site import site_of
from k2run.web.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from markupsafe import Markup
    from starlette.requests import Request

    from k2run.web.site import Site

SHOWN = 40
"""Figures on a page of trends."""
FRESH_S = 10.0
"""Seconds for which figures are shown to everyone who asks."""


async def _stack(request: Request) -> str:
    """The name of the stack that a reader asks for.

    A diagnosis asks real services, and reads what they need a secret for, so it needs a token everywhere.

    Raises:
        NotFound: There is no such stack.
    """
    site = site_of(request)
    site.reader(request, known=True)
    name: str = request.path_params["stack"]
    if name not in await run_in_threadpool(site.catalogue.stack_names):
        raise NotFound("stack not found", hint="the home page lists all stacks")
    return name


async def diagnosis(request: Request) -> Response:
    """What is wrong with a stack, as far as it was seen by now."""
    name = await _stack(request)
    site = site_of(request)
    window = site.diagnoses.of(name)
    await window.first()
    shown = window.drawn()
    parts = {part: drawn(html) for part, html in shown.parts.items()}
    who = site.reader(request, known=True)
    return HTMLResponse(site.page("diagnosis.html", who, stack=name, shown=shown, parts=parts))


async def diagnosis_events(request: Request) -> Response:
    """What further looks of a diagnosis find, as server-sent events; only the page begins one."""
    name = await _stack(request)
    return stream(request, site_of(request).diagnoses.follow(name), known=True)


def routes() -> list[Route]:
    """The routes of these pages, with what they have found out and share."""
    figures: AnswerCache[list[tuple[Trend, Markup]]] = AnswerCache(FRESH_S)

    async def trends(request: Request) -> Response:
        """How the figures of a runbook went from run to run."""
        site = site_of(request)
        who = site.reader(request)
        names = sorted(await run_in_threadpool(site.runs.last_of))
        asked = request.query_params.get("runbook", "")
        chosen = asked if asked in names else next(iter(names), "")
        found = await figures.of(chosen, lambda: _trends(site, chosen)) if chosen else []
        return HTMLResponse(site.page("trends.html", who, names=names, chosen=chosen, trends=found))

    return [
        Route("/trends", trends),
        Route("/diagnosis/{stack}", diagnosis),
        Route("/diagnosis/{stack}/events", diagnosis_events),
    ]


def _trends(site: Site, runbook: str) -> list[tuple[Trend, Markup]]:
    history = History(site.store.home)
    metrics = [each.metric for each in history.metrics(name=runbook) if each.kind not in OF_STEPS][:SHOWN]
    measured = ((metric, history.points(metric, name=runbook)) for metric in metrics)
    found = [each for metric, points in measured if points for each in trends(metric, points)]
    return [(each, drawn(from_run_to_run(each.title, [point.value for point in each.points]))) for each in found]


T = TypeVar("T")
KEPT = 16
"""Answers that are kept at most."""


class AnswerCache(Generic[T]):
    """A cache of answers by what was asked.

    Args:
        seconds: How long an answer is kept.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: OrderedDict[object, tuple[float, T]] = OrderedDict()
        self._making: dict[object, asyncio.Task[T]] = {}

    async def of(self, key: object, make: Callable[[], T]) -> T:
        """The answer to `key`; requests that wait for one in the making take no thread."""
        at, found = self._known.get(key, (0.0, None))
        if found is not None and time.monotonic() - at < self._seconds:
            return found
        if key not in self._making:
            self._making[key] = asyncio.create_task(self._make(key, make))
        return await asyncio.shield(self._making[key])

    async def _make(self, key: object, make: Callable[[], T]) -> T:
        try:
            made = await run_in_threadpool(make)
            self._known[key] = (time.monotonic(), made)
            self._known.move_to_end(key)
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
            return made
        finally:
            del self._making[key]
