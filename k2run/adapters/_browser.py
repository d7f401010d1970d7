"""A browser without a window, under the deadline of a step; Chromium as the system has it."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from k2run.adapters._extras import require
from k2run.adapters._punctual import punctually
from k2run.errors import NotApplicable, Refused, TimedOut, Unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from playwright.async_api import Page

    from k2run.actions.deadline import Deadline
    from k2run.adapters._target import Target

T = TypeVar("T")

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_GONE = ("ERR_CONNECTION", "ERR_NAME_NOT_RESOLVED", "ERR_ADDRESS", "ERR_EMPTY_RESPONSE", "ERR_INVALID_HTTP_RESPONSE")


class Window(NamedTuple):
    """The size of a page's view, in pixels."""

    width: int
    height: int


class Visit(NamedTuple):
    """A page that was opened.

    Attributes:
        complaints: Errors that it wrote to its console, and scripts that failed.
        elapsed_ms: Until its load event.
    """

    status: int
    title: str
    url: str
    complaints: list[str]
    elapsed_ms: float


def visit(target: Target, window: Window, deadline: Deadline, look: Callable[[Page, Visit], Awaitable[T]]) -> T:
    """Open a page in a new browser, look at it, and close the browser.

    Args:
        target: URL and headers.
        window: Size of the view.
        deadline: Of the step; the browser is gone by then.
        look: What to do with the page.

    Raises:
        Unreachable: Nobody answers.
        Refused: The page answers with an error status.
        TimedOut: The deadline passed first.
        NotApplicable: Playwright or a browser is not installed.
    """
    require("browser", "playwright")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise NotApplicable("there is no Chromium on this machine", hint="install the package chromium")
    from playwright.async_api import Error

    try:
        return punctually(_visit(program, target, window, deadline, look), deadline)
    except TimedOut as error:
        raise TimedOut(
            f"{target.url} was not done within {deadline.seconds:g}s",
            hint="is it up and well? or raise the step's timeout",
        ) from error
    except Error as error:
        said = error.message.splitlines()[0]
        if any(sign in said for sign in _GONE):
            raise Unreachable(f"{target.url} does not answer: {said}", hint="is the service up?") from error
        raise Refused(f"{target.url} cannot be looked at: {said}") from error


async def _visit(
    program: str, target: Target, window: Window, deadline: Deadline, look: Callable[[Page, Visit], Awaitable[T]]
) -> T:
    import time

    async with _page(program, target, window, deadline) as page:
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        started = time.perf_counter()
        answer = await page.goto(target.url)
        elapsed_ms = (time.perf_counter() - started) * 1000
        status = answer.status if answer is not None else 0
        if status >= 400:  # noqa: PLR2004 - the errors of HTTP
            raise Refused(f"{target.url} answered {status}")
        return await look(page, Visit(status, await page.title(), page.url, complaints, elapsed_ms))


@contextlib.asynccontextmanager
async def _page(program: str, target: Target, window: Window, deadline: Deadline) -> AsyncIterator[Page]:
    from playwright.async_api import async_playwright

    # Chromium's own sandbox does not work for root.
    options: dict[str, Any] = {"args": ["--no-sandbox", "--disable-dev-shm-usage"]} if os.geteuid() == 0 else {}
    async with async_playwright() as player:
        browser = await player.chromium.launch(executable_path=program, timeout=deadline.remaining() * 1000, **options)
        page = await browser.new_page(
            viewport={"width": window.width, "height": window.height}, extra_http_headers=target.headers or None
        )
        page.set_default_timeout(deadline.remaining() * 1000)
        yield page
        await browser.close()
