"""A browser: open a page as a person would, read it, take a picture or a video of it."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from k2run.actions.action import Effect, Result, action, beginning
from k2run.actions.deadline import Deadline
from k2run.adapters.browser.client import HEIGHT, WIDTH, Visit, Window, filmed, read_scenes, recorded, visit
from k2run.adapters.http.endpoint import Target, target
from k2run.errors import AuthorError, Refused
from k2run.language.quantities import Duration
from k2run.stack.services import Services

if TYPE_CHECKING:
    from playwright.async_api import Page


FIVE_SECONDS = Duration(5)
NO_TIME = Duration(0)
_SHOWN = 2000
_SMALLEST = """
() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = { px: null, text: "", letters: 0 };
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const text = node.textContent.trim(), parent = node.parentElement;
    if (!text || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(parent.nodeName)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    if (box.width <= 2 || box.height <= 2) continue;
    if (box.bottom <= 0 || box.right <= 0 || box.top >= innerHeight || box.left >= innerWidth) continue;
    if (!parent.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (getComputedStyle(parent).clipPath !== "none") continue;
    const drawing = parent.closest("svg");
    const scale = drawing && parent.getScreenCTM ? parent.getScreenCTM().d : 1;
    const px = parseFloat(getComputedStyle(parent).fontSize) * scale;
    found.letters += text.length;
    if (found.px === null || px < found.px) { found.px = px; found.text = text.slice(0, 60); }
  }
  return found;
}
"""
_PNG_SIGNATURE = 8
"""Bytes before the first chunk of a PNG."""


class Opened(Result, frozen=True, kw_only=True):
    """A page that opened.

    Attributes:
        url: Where it led to.
        elapsed_ms: Until its load event.
        complaints: Errors in its console, and scripts that failed.
        text: The beginning of the text that it shows.
    """

    status: int
    title: str
    url: str
    elapsed_ms: float
    complaints: list[str]
    text: str

    def headline(self) -> str:
        """Such as `200, Orders, 310 ms`."""
        wrong = f", {len(self.complaints)} errors in its console" if self.complaints else ""
        return f"{self.status}, {self.title or 'no title'}, {self.elapsed_ms:.0f} ms{wrong}"


class Picture(Result, frozen=True, kw_only=True):
    """A picture of a page, as PNG.

    Attributes:
        smallest_px: Size of the smallest letters in view, in pixels of the picture; None when there is no text.
        letters: How many letters are in view.
        ink: Share of the picture that differs from what is beside it; 0 of a blank one.
    """

    path: str
    bytes: int
    width: int
    height: int
    smallest_px: float | None
    letters: int
    ink: float

    def headline(self) -> str:
        """Such as `1920 x 1080, letters from 28.8 px, 81,204 bytes`."""
        text = f"letters from {self.smallest_px:g} px" if self.smallest_px is not None else "no text"
        return f"{self.width} x {self.height}, {text}, {self.bytes:,} bytes"


class Video(Result, frozen=True, kw_only=True):
    """A video of a page.

    Attributes:
        frames: Different pictures that the page showed.
        seconds: How long was recorded.
    """

    path: str
    bytes: int
    frames: int
    seconds: float

    def headline(self) -> str:
        """Such as `12 s, 240 frames, 1,204 bytes`."""
        return f"{self.seconds:g} s, {self.frames} frames, {self.bytes:,} bytes"


@action("browser.open")
def open_(
    services: Services,
    deadline: Deadline,
    service: str = "",
    path: str = "",
    url: str = "",
    text: list[str] = [],
    within: Duration = FIVE_SECONDS,
) -> Opened:
    """Open a page and read it; fails when a text that it should show does not appear.

    Args:
        service: The service to look at; its URL and headers come from the stack.
        path: Path below the service's URL.
        url: A whole URL, instead of a service.
        text: Texts that must be seen, wherever on the page.
        within: How long to wait for each of them; scripts may bring them later.
    """
    where = target(services, service, path, url)

    async def look(page: Page, seen: Visit) -> Opened:
        for each in text:
            await _see(page, each, within, where.url)
        shown = await page.inner_text("body")
        return Opened(**seen._asdict(), text=beginning(shown, _SHOWN), source=where.url)

    return visit(where, Window(1920, 1080), deadline, look)


@action("browser.screenshot", effect=Effect.CHANGES)
def screenshot(
    services: Services,
    deadline: Deadline,
    file: str,
    service: str = "",
    path: str = "",
    url: str = "",
    text: list[str] = [],
    settle: Duration = NO_TIME,
    width: int = 1920,
    height: int = 1080,
    full_page: bool = False,
    letters_px: float = 0.0,
) -> Picture:
    """Take a picture of a page, after it shows what it should.

    Args:
        file: Where to save it, as PNG.
        service: The service to look at; its URL and headers come from the stack.
        path: Path below the service's URL.
        url: A whole URL, instead of a service.
        text: Texts that must be seen first.
        settle: How long to wait after that, for what is drawn late.
        width: Of the view, in pixels.
        height: Of the view, in pixels.
        full_page: Whether what lies below the view is in the picture too.
        letters_px: The least size of letters in view; it fails with where smaller ones are. 28 is read from afar.
    """
    where = target(services, service, path, url)
    place = _prepared(file)

    async def look(page: Page, _: Visit) -> Picture:
        for each in text:
            await _see(page, each, FIVE_SECONDS, where.url)
        await page.wait_for_timeout(settle * 1000)
        found = await letters(page, letters_px, where.url)
        content = await page.screenshot(path=place, full_page=full_page, type="png")
        size = [int.from_bytes(content[at : at + 4], "big") for at in (16, 20)]  # of PNG's first chunk
        return Picture(
            path=str(place),
            bytes=len(content),
            width=size[0],
            height=size[1],
            smallest_px=found.px,
            letters=found.letters,
            ink=ink(content),
            source=where.url,
        )

    return visit(where, Window(width, height), deadline, look)


@action("browser.record", effect=Effect.CHANGES)
def record(
    services: Services,
    deadline: Deadline,
    file: str,
    service: str = "",
    path: str = "",
    url: str = "",
    seconds: Duration = FIVE_SECONDS,
    width: int = 1920,
    height: int = 1080,
) -> Video:
    """Record a video of a page.

    Args:
        file: Where to save it; its ending says the format: `.webm`, `.mp4`.
        service: The service to look at; its URL and headers come from the stack.
        path: Path below the service's URL.
        url: A whole URL, instead of a service.
        seconds: How long to record.
        width: Of the view, in pixels.
        height: Of the view, in pixels.
    """
    where = target(services, service, path, url)
    place = _prepared(file)
    if seconds <= 0:
        raise AuthorError("browser.record needs `seconds` above 0")

    async def look(page: Page, _: Visit) -> Video:
        frames = await recorded(page, seconds, place)
        return Video(path=str(place), bytes=place.stat().st_size, frames=frames, seconds=seconds, source=where.url)

    return visit(where, Window(width, height), deadline, look)


class Film(Result, frozen=True, kw_only=True):
    """A video of several pages.

    Attributes:
        captions: Path of the captions as WebVTT, beside the video; they are in the picture, too.
        chapters: Its parts, in order.
        scenes: How many pictures it has.
        smallest_px: Size of the smallest letters of its pages, in pixels; None when there is no text.
    """

    path: str
    captions: str
    bytes: int
    scenes: int
    seconds: float
    chapters: list[str]
    smallest_px: float | None

    def headline(self) -> str:
        """Such as `11.5 min, 7 chapters, 96 scenes, 9,120,000 bytes`."""
        parts = f"{len(self.chapters)} chapters, {self.scenes} scenes"
        return f"{self.seconds / 60:.1f} min, {parts}, {self.bytes:,} bytes"


@action("browser.film", effect=Effect.CHANGES)
def film(deadline: Deadline, scenes: str, file: str, letters_px: float = 0.0) -> Film:
    """Make a video out of pages, each shown for its time, with captions in the picture.

    Args:
        scenes: A JSON file: a list of `chapter`, `url`, `seconds`, `caption` and `note`.
        file: Where to save it; its ending says the format, such as `.mp4`. The captions are beside it as `.vtt`.
        letters_px: The least size of letters on a page; it fails with where smaller ones are.
    """
    found = read_scenes(scenes)
    place = _prepared(file)

    sizes: list[float] = []

    async def measure(page: Page, url: str) -> None:
        sizes.extend(filter(None, [(await letters(page, letters_px, url)).px]))

    async def look(page: Page, _: Visit) -> Film:
        seconds = await filmed(page, found, place, measure)
        return Film(
            path=str(place),
            captions=str(place.with_suffix(".vtt")),
            bytes=place.stat().st_size,
            scenes=len(found),
            seconds=seconds,
            smallest_px=min(sizes, default=None),
            chapters=list(dict.fromkeys(scene.chapter for scene in found)),
            source=scenes,
        )

    return visit(Target(found[0].url, {}), Window(WIDTH, HEIGHT), deadline, look)


async def _see(page: Page, text: str, within: float, url: str) -> None:
    from playwright.async_api import TimeoutError as NotSeen

    try:
        await page.get_by_text(text).filter(visible=True).first.wait_for(state="visible", timeout=within * 1000)
    except NotSeen as error:
        shown = beginning(" ".join((await page.inner_text("body")).split()), 200)
        raise Refused(f"{url} does not show {text!r} within {within:g}s; it shows: {shown or 'nothing'}") from error


def _prepared(file: str) -> Path:
    """Where to write a file; its folder is made."""
    place = Path(file).expanduser().absolute()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"cannot create {place.parent}: {error.strerror}") from error
    return place


class Letters(NamedTuple):
    """The text in view.

    Attributes:
        px: Size of the smallest letters in pixels of the picture, as it is drawn; None without any text.
        letters: How many letters are in view.
    """

    px: float | None
    letters: int


async def letters(page: Page, least: float, url: str) -> Letters:
    """Measure the text that a page shows in its view; `least` is in pixels, 0 for any size.

    Raises:
        Refused: It has smaller letters.
    """
    found = await page.evaluate(_SMALLEST)
    px = None if found["px"] is None else round(float(found["px"]), 1)
    if px is not None and px < least:
        raise Refused(f"{url} has letters of {px:g} px, below {least:g}: {found['text']!r}")
    return Letters(px, int(found["letters"]))


def ink(png: bytes) -> float:
    """The share of a picture that differs from what is beside it; 0 of a blank one.

    Args:
        png: As a browser writes it: each line is stored as what it adds to its neighbours.
    """
    packed, at = bytearray(), _PNG_SIGNATURE
    while at + 8 <= len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] == b"IDAT":
            packed += png[at + 8 : at + 8 + size]
        at += 12 + size
    plain = zlib.decompress(packed)
    return round(1 - plain.count(0) / len(plain), 5) if plain else 0.0
