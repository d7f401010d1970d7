"""What pictures and videos say of themselves."""

from __future__ import annotations

import shutil
import struct
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from k2run.adapters._command import run
from k2run.adapters._documents import MISREAD
from k2run.errors import NotApplicable, Refused, TimedOut

if TYPE_CHECKING:
    from k2run.actions.deadline import Deadline

_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""JPEG's markers that carry the size."""


class Stream(Struct):
    """A picture or sound track."""

    codec_type: str = ""
    width: int | None = None
    height: int | None = None


class Chapter(Struct):
    """A part of a video."""

    tags: dict[str, str] = {}


class Container(Struct):
    """The file as a whole; `duration` is in seconds."""

    format_name: str
    duration: str


class Probed(Struct):
    """What ffprobe says."""

    format: Container
    streams: list[Stream]
    chapters: list[Chapter] = []


def dimensions(head: bytes) -> tuple[str, int, int]:
    """Format, width and height of a picture, from its beginning.

    Raises:
        ValueError: It is none of the formats known here, or it breaks off.
    """
    try:
        if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR":
            return ("png", *struct.unpack_from(">II", head, 16))
        if head.startswith((b"GIF87a", b"GIF89a")):
            return ("gif", *struct.unpack_from("<HH", head, 6))
        if head.startswith(b"\xff\xd8"):
            return ("jpeg", *_jpeg(head))
        if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            return ("webp", *_webp(head))
    except (struct.error, IndexError) as error:
        raise ValueError("its header is truncated") from error
    raise ValueError("neither PNG nor JPEG, GIF or WebP")


def _jpeg(head: bytes) -> tuple[int, int]:
    at = 2
    while True:
        _, marker, length = struct.unpack_from(">BBH", head, at)
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", head, at + 5)
            return width, height
        at += 2 + length


def _webp(head: bytes) -> tuple[int, int]:
    match head[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
        case b"VP8L":
            bits = int.from_bytes(head[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case _:
            width, height = struct.unpack_from("<HH", head, 26)
            return width & 0x3FFF, height & 0x3FFF


def probed(path: str, deadline: Deadline) -> Probed:
    """What ffprobe says of a video.

    Raises:
        NotApplicable: It is not installed.
        Refused: It does not know the file as a video.
    """
    if shutil.which("ffprobe") is None:
        raise NotApplicable("ffprobe is not installed", hint="install the package ffmpeg")
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", "-show_chapters", "-i", path]
    try:
        done = run(command, deadline)
    except TimedOut as error:
        raise TimedOut(f"ffprobe did not finish {path} within {deadline.seconds:g}s") from error
    try:
        return msgspec.json.decode(done.stdout, type=Probed)
    except MISREAD as error:
        said = done.stderr.strip().rpartition("\n")[2]
        raise Refused(f"{path} is not a video with a known length: {said or error}") from error
