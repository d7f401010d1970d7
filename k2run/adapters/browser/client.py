"""A page in a browser of its own: opened, checked, recorded; and a film of several, with captions and chapters."""

from __future__ import annotations

import asyncio
import contextlib
import html
import os
import shutil
import tempfile
import time
from base64 import b64decode, b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

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
WIDTH, HEIGHT, BAR = 1920, 1080, 180
"""Of the video, and of the caption below what is shown, in pixels."""
FRAMES_PER_S = 4
SETTLE_MS = 250
LETTERS_PX = 34
_BAR = f"""<!doctype html><meta charset=utf-8><style>
* {{ box-sizing: border-box; margin: 0 }}
body {{ width: {WIDTH}px; height: {HEIGHT}px; overflow: hidden }}
body {{ font: {LETTERS_PX}px/1.25 system-ui, "Liberation Sans", Arial, sans-serif }}
img {{ display: block; width: {WIDTH}px; height: {HEIGHT - BAR}px }}
div {{ height: {BAR}px; background: #101319; color: #fff; padding: 14px 40px }}
div {{ display: flex; flex-direction: column; justify-content: space-between }}
small {{ font-size: 28px; color: #b8c0cc; display: flex; justify-content: space-between }}
</style>"""


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
    """Open a page in a new browser, look at it, and close the browser, which is gone by the deadline.

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

    `frames` says in ffmpeg's ffconcat format what is shown for how long; the ending of `file` says the format.

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


class Scene(Struct, frozen=True, kw_only=True):
    """One page of a film.

    Attributes:
        chapter: The part that it belongs to.
        url: The page.
        seconds: How long it is shown.
        caption: What is said meanwhile; written below it.
        note: What it is and when it was, in small letters.
    """

    chapter: str
    url: str
    seconds: float
    caption: str = ""
    note: str = ""


def read_scenes(path: str) -> list[Scene]:
    """The scenes in a JSON file.

    Raises:
        Refused: There are none.
    """
    place = Path(path).expanduser().absolute()
    try:
        scenes = msgspec.json.decode(place.read_bytes(), type=list[Scene])
    except (OSError, msgspec.DecodeError) as error:
        raise Refused(f"{place} holds no scenes: {error}", hint="`k2run backup` writes it") from error
    if not scenes:
        raise Refused(f"{place} holds no scenes")
    return scenes


async def filmed(
    page: Page, scenes: Sequence[Scene], file: Path, look: Callable[[Page, str], Awaitable[None]]
) -> float:
    """Film pages one after the other, with captions in the picture and beside it as WebVTT; returns its seconds.

    `look` is called with each page and its address.

    Raises:
        NotApplicable: ffmpeg is not installed.
        Refused: ffmpeg cannot write it, or a page answers with an error.
    """
    if shutil.which("ffmpeg") is None:
        raise NotApplicable(
            "ffmpeg is not installed, and it puts the video together", hint="install the package ffmpeg"
        )
    browser = page.context.browser
    assert browser is not None  # noqa: S101 - it is one of our own
    bar = await browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    await page.set_viewport_size({"width": WIDTH, "height": HEIGHT - BAR})
    whole = sum(scene.seconds for scene in scenes)
    with tempfile.TemporaryDirectory(prefix="k2run-film-") as name:
        folder = Path(name)
        shown, seen, at = "", b"", 0.0
        for number, scene in enumerate(scenes):
            if scene.url != shown:
                seen, shown = await _picture(page, scene.url), scene.url
                await look(page, scene.url)
            await bar.set_content(_composed(scene, seen, at, whole))
            await bar.screenshot(path=folder / f"{number:05}.jpg", type="jpeg", quality=88)
            at += scene.seconds
        (folder / "frames").write_text(_frames(scenes), encoding="utf-8")
        (folder / "chapters").write_text(_chapters(scenes), encoding="utf-8")
        await _put_together(folder, file)
    file.with_suffix(".vtt").write_text(captions(scenes), encoding="utf-8")
    return round(whole, 1)


async def _picture(page: Page, url: str) -> bytes:
    answer = await page.goto(url)
    if answer is not None and answer.status >= 400:  # noqa: PLR2004 - the errors of HTTP
        raise Refused(f"{url} answered {answer.status}")
    await page.wait_for_timeout(SETTLE_MS)
    return await page.screenshot(type="jpeg", quality=92)


def _composed(scene: Scene, seen: bytes, at: float, whole: float) -> str:
    clock = f"{_clock(at)[3:8]} of {_clock(whole)[3:8]}"
    said = html.escape(scene.caption)
    small = f"<span>{html.escape(scene.chapter)} · {html.escape(scene.note)}</span><span>{clock}</span>"
    picture = f'<img src="data:image/jpeg;base64,{b64encode(seen).decode()}">'
    return f"{_BAR}{picture}<div><p>{said}</p><small>{small}</small></div>"


def _frames(scenes: Sequence[Scene]) -> str:
    lines = [f"file {number:05}.jpg\nduration {scene.seconds:.3f}" for number, scene in enumerate(scenes)]
    # ffmpeg forgets the duration of the last entry unless it is named once more.
    return "\n".join(["ffconcat version 1.0", *lines, f"file {len(scenes) - 1:05}.jpg"])


def _chapters(scenes: Sequence[Scene]) -> str:
    """The parts with their times, as ffmpeg's metadata."""
    lines, at, begun, title = [";FFMETADATA1"], 0.0, 0.0, scenes[0].chapter
    for scene in [*scenes, Scene(chapter="", url="", seconds=0)]:
        if scene.chapter != title:
            lines += ["[CHAPTER]", "TIMEBASE=1/1000", f"START={begun * 1000:.0f}", f"END={at * 1000:.0f}"]
            lines.append("title=" + "".join(f"\\{sign}" if sign in "=;#\\" else sign for sign in title))
            begun, title = at, scene.chapter
        at += scene.seconds
    return "\n".join(lines) + "\n"


def captions(scenes: Sequence[Scene]) -> str:
    """What is said, as WebVTT: scenes with the same words are one caption."""
    lines, at, begun, said = ["WEBVTT", ""], 0.0, 0.0, scenes[0].caption
    for scene in [*scenes, Scene(chapter="", url="", seconds=0, caption="\0")]:
        if scene.caption != said:
            if said:
                lines += [f"{_clock(begun)} --> {_clock(at)}", said.replace("-->", "→"), ""]
            begun, said = at, scene.caption
        at += scene.seconds
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    whole = round(seconds * 1000)
    return f"{whole // 3_600_000:02}:{whole // 60_000 % 60:02}:{whole // 1000 % 60:02}.{whole % 1000:03}"


async def _put_together(folder: Path, file: Path) -> None:
    options = ["-i", str(folder / "chapters"), "-map_metadata", "1", "-map_chapters", "1"]
    options += ["-vf", f"fps={FRAMES_PER_S}", "-c:v", "libx264", "-preset", "veryfast", "-tune", "stillimage"]
    options += ["-crf", "27", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    await encode(folder / "frames", options, file)
