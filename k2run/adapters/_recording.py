"""Recording a page: the frames that Chromium casts, put together by ffmpeg."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2run.errors import NotApplicable, Refused, Unknown

if TYPE_CHECKING:
    from playwright.async_api import CDPSession, Page

_QUALITY = 80
_LAST_FRAME_S = 0.04


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
        (self._folder / "frames").write_text(content)
        process = await asyncio.create_subprocess_exec(
            *["ffmpeg", "-y", "-loglevel", "error", "-f", "concat", "-i", str(self._folder / "frames")],
            *["-vf", "fps=25,pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", "--", str(file)],
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, said = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            raise
        if process.returncode:
            raise Refused(f"{file} cannot be written: {said.decode(errors='replace').strip().splitlines()[-1:]}")
        return len(self._shown)


async def recorded(page: Page, seconds: float, file: Path) -> int:
    """Record a page into a file whose ending says the format; returns how many different frames it has.

    Raises:
        NotApplicable: ffmpeg is not installed.
    """
    if shutil.which("ffmpeg") is None:
        raise NotApplicable(
            "ffmpeg is not installed, and it puts the video together", hint="install the package ffmpeg"
        )
    with tempfile.TemporaryDirectory(prefix="k2run-video-") as folder:
        recorder = Recorder(Path(folder))
        await recorder.record(page, seconds)
        return await recorder.put_together(file)
