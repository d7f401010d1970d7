"""A video of pages, each shown for a time, with a caption below and a chapter for each part."""

from __future__ import annotations

import html
import shutil
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from k2run.adapters.browser.client import encode
from k2run.errors import NotApplicable, Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playwright.async_api import Page

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


async def filmed(page: Page, scenes: Sequence[Scene], file: Path) -> float:
    """Film pages one after the other, with captions in the picture and beside it as WebVTT; returns its seconds.

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
