"""A page in a browser of its own: opened, looked at, recorded."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from k2run.actions.deadline import Deadline
from k2run.adapters._clients import punctually, require
from k2run.adapters.http.endpoint import Target
from k2run.errors import NotApplicable, Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from playwright.async_api import CDPSession, Page


T = TypeVar("T")
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_GONE = ("ERR_CONNECTION", "ERR_NAME_NOT_RESOLVED", "ERR_ADDRESS", "ERR_EMPTY_RESPONSE", "ERR_INVALID_HTTP_RESPONSE")
_QUALITY = 80
_LAST_FRAME_S = 0.04


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
        Unreachable: Nothing answers.
        Refused: The page answers with an error status.
        TimedOut: The deadline passed first.
        NotApplicable: Playwright or a browser is not installed.
    """
    require("browser", "playwright")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise NotApplicable("Chromium is not installed", hint="install the package chromium")
    from playwright.async_api import Error

    try:
        return punctually(_visit(program, target, window, deadline, look), deadline)
    except TimedOut as error:
        raise TimedOut(
            f"{target.url} did not finish loading within {deadline.seconds:g}s",
            hint="is it up and healthy? or raise the step's timeout",
        ) from error
    except Error as error:
        said = error.message.splitlines()[0]
        if any(sign in said for sign in _GONE):
            raise Unreachable(f"{target.url} does not answer: {said}", hint="is the service up?") from error
        raise Refused(f"{target.url} cannot be read: {said}") from error


async def _visit(
    program: str, target: Target, window: Window, deadline: Deadline, look: Callable[[Page, Visit], Awaitable[T]]
) -> T:
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


class Recorder:
    """Keeps the frames of a page, each as long as it was shown.

    Args:
        folder: Where the frames are kept until they are put together.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shown: list[tuple[str, float]] = []
        self._ended = 0.0
        self._kept: set[asyncio.Task[Any]] = set()

    async def record(self, page: Page, seconds: float) -> None:
        """Keep what the page shows for so long."""
        session = await page.context.new_cdp_session(page)
        session.on("Page.screencastFrame", lambda frame: self._take(session, frame))
        await session.send("Page.startScreencast", {"format": "jpeg", "quality": _QUALITY, "everyNthFrame": 1})
        await asyncio.sleep(seconds)
        await session.send("Page.stopScreencast")
        self._ended = time.monotonic()

    def _take(self, session: CDPSession, frame: dict[str, Any]) -> None:
        name = f"{len(self._shown):06}.jpg"
        (self._folder / name).write_bytes(b64decode(frame["data"]))
        self._shown.append((name, time.monotonic()))
        heard = asyncio.ensure_future(session.send("Page.screencastFrameAck", {"sessionId": frame["sessionId"]}))
        self._kept.add(heard)
        heard.add_done_callback(self._kept.discard)

    async def put_together(self, file: Path) -> int:
        """Write the video; returns how many frames it has.

        Raises:
            Unknown: The page showed nothing.
            Refused: ffmpeg cannot write it.
        """
        if not self._shown:
            raise Unknown("the page sent no frames")
        until = [at for _, at in self._shown[1:]] + [self._ended]
        listed = [
            f"file {name}\nduration {max(end - at, _LAST_FRAME_S):.4f}"
            for (name, at), end in zip(self._shown, until, strict=True)
        ]
        # ffmpeg forgets the duration of the last entry unless it is named once more.
        content = "\n".join(["ffconcat version 1.0", *listed, f"file {self._shown[-1][0]}"])
        (self._folder / "frames").write_text(content, encoding="utf-8")
        options = ["-vf", "fps=25,pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]
        await encode(self._folder / "frames", options, file)
        return len(self._shown)


async def encode(frames: Path, options: Sequence[str], file: Path) -> None:
    """Have ffmpeg write a video.

    Args:
        frames: What is shown for how long, in its ffconcat format.
        options: How, in the words of ffmpeg.
        file: Its ending says the format.

    Raises:
        Refused: ffmpeg cannot write it.
    """
    process = await asyncio.create_subprocess_exec(
        *["ffmpeg", "-y", "-loglevel", "error", "-f", "concat", "-i", str(frames), *options, "--", str(file)],
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    if process.returncode:
        raise Refused(f"{file} cannot be written: {said.decode(errors='replace').strip().splitlines()[-1:]}")


async def recorded(page: Page, seconds: float, file: Path) -> int:
    """Record a page into a file whose ending says the format; returns how many different frames it has.

    Raises:
        NotApplicable: ffmpeg is not installed.
    """
    if shutil.which("ffmpeg") is None:
        raise NotApplicable("ffmpeg is not installed; it encodes the video", hint="install the package ffmpeg")
    with tempfile.TemporaryDirectory(prefix="k2run-video-") as folder:
        recorder = Recorder(Path(folder))
        await recorder.record(page, seconds)
        return await recorder.put_together(file)
