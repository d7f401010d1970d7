"""Files that must be there: how old, how large, what is in them. A file that is not there is unknown, not empty.

Long because every action on files is on this page, those on pictures and videos included.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from k2run.actions.action import Result, action
from k2run.actions.deadline import Deadline
from k2run.adapters._answers import MISREAD, Unreadable, conforming, read_json, reason
from k2run.adapters._command import run
from k2run.errors import NotApplicable, Refused, RunbookInvalid, TimedOut, Unknown
from k2run.language.document import read_document
from k2run.language.json_schema import JsonSchema

CHUNK = 2**20
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
LARGEST_DOCUMENT = 64 * 2**20
"""Bytes; a larger document is refused."""
_START_OF_FRAME = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""JPEG's markers that carry the size."""


class Existing(Result, frozen=True, kw_only=True):
    """What there is at a path.

    Attributes:
        kind: What it is.
        bytes: Size of a file, or None.
        age_s: Seconds since it was last changed.
    """

    kind: Literal["file", "directory", "other"]
    bytes: int | None
    age_s: float

    def headline(self) -> str:
        """Such as `file, 1,204 bytes`."""
        return self.kind + (f", {self.bytes:,} bytes" if self.bytes is not None else "")


class Age(Result, frozen=True, kw_only=True):
    """How long ago a file was last changed."""

    age_s: float
    age_h: float

    def headline(self) -> str:
        """Such as `3.2 h old`."""
        return f"{self.age_h:.1f} h old" if self.age_h >= 1 else f"{self.age_s:.0f} s old"


class FileSize(Result, frozen=True, kw_only=True):
    """The size of a file, or of all files below a directory."""

    bytes: int
    files: int

    def headline(self) -> str:
        """Such as `1,204 bytes`."""
        return f"{self.bytes:,} bytes" + (f" in {self.files:,} files" if self.files != 1 else "")


class Lines(Result, frozen=True, kw_only=True):
    """How many lines a text has."""

    lines: int


class Hash(Result, frozen=True, kw_only=True):
    """A digest of a file's content, in hexadecimal."""

    algorithm: str
    digest: str

    def headline(self) -> str:
        """The beginning of the digest."""
        return f"{self.algorithm} {self.digest[:16]}…"


class Document(Result, frozen=True, kw_only=True):
    """What a JSON or YAML file says."""

    content: Any
    bytes: int

    def headline(self) -> str:
        """The size of the document."""
        return f"{self.bytes:,} bytes"


class Image(Result, frozen=True, kw_only=True):
    """A picture that can be opened, as its own header says."""

    format: str
    width: int
    height: int
    bytes: int

    def headline(self) -> str:
        """Such as `png, 1920 x 1080`."""
        return f"{self.format}, {self.width} x {self.height}"


class Video(Result, frozen=True, kw_only=True):
    """A video, as ffprobe sees it.

    Attributes:
        width: In pixels; None for sound alone.
        height: Likewise.
        audio: Whether it has sound.
        chapters: The titles of its parts, in order.
    """

    format: str
    seconds: float
    width: int | None
    height: int | None
    audio: bool
    bytes: int
    chapters: list[str] = []

    def headline(self) -> str:
        """Such as `11.2 min, 1920 x 1080, with sound`."""
        length = f"{self.seconds / 60:.1f} min" if self.seconds >= 60 else f"{self.seconds:.1f} s"  # noqa: PLR2004
        return f"{length}, {self.width} x {self.height}, {'with' if self.audio else 'no'} sound"


@action("file.exists")
def exists(path: str, kind: Literal["file", "directory", "any"] = "any", optional: bool = False) -> Existing:
    """Something is there, and of the right kind.

    Args:
        path: The path; `~` is the home directory.
        kind: What it has to be.
        optional: What is missing is not applicable, and with it the steps that use this result; else it is unknown.
    """
    try:
        place, seen = _look(path)
    except Unknown as error:
        if not optional:
            raise
        raise NotApplicable(error.message, hint=error.hint) from error
    found: Literal["file", "directory", "other"] = (
        "file" if stat.S_ISREG(seen.st_mode) else "directory" if stat.S_ISDIR(seen.st_mode) else "other"
    )
    if kind not in {"any", found}:
        raise Refused(f"{place} is not a {kind} (it is: {found})")
    size = seen.st_size if found == "file" else None
    return Existing(source=place, kind=found, bytes=size, age_s=_age(seen))


@action("file.age")
def age(path: str) -> Age:
    """How long ago a file was last changed.

    Args:
        path: The path; `~` is the home directory.
    """
    place, seen = _look(path)
    seconds = _age(seen)
    return Age(source=place, age_s=seconds, age_h=round(seconds / 3600, 4))


@action("file.size")
def size(deadline: Deadline, path: str) -> FileSize:
    """The size of a file, or of all files below a directory.

    Args:
        path: The path; `~` is the home directory.
    """
    place, seen = _look(path)
    if not stat.S_ISDIR(seen.st_mode):
        if stat.S_ISREG(seen.st_mode) and not seen.st_size and next(_chunks(place, deadline), b""):
            raise Unknown(f"the system does not say how large {place} is", hint="count it: file.lines")
        return FileSize(source=place, bytes=seen.st_size, files=1)
    total = files = 0
    for folder, _, names in os.walk(place, onerror=_unreadable):
        deadline.remaining()
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # it may go while one looks
                total += os.lstat(f"{folder}/{name}").st_size
                files += 1
    return FileSize(source=place, bytes=total, files=files)


@action("file.lines")
def lines(deadline: Deadline, path: str) -> Lines:
    """How many lines a file has; a last line without a line break counts.

    Args:
        path: The path; `~` is the home directory.
    """
    place, _ = _look(path, to_read=True)
    count, last = 0, b"\n"
    for chunk in _chunks(place, deadline):
        count += chunk.count(b"\n")
        last = chunk[-1:]
    return Lines(source=place, lines=count + (last != b"\n"))


@action("file.hash")
def hash(  # noqa: A001 - the action's name
    deadline: Deadline, path: str, algorithm: Literal["sha256", "sha512", "sha1", "md5"] = "sha256"
) -> Hash:
    """A digest of a file's content.

    Args:
        path: The path; `~` is the home directory.
        algorithm: Which digest.
    """
    place, _ = _look(path, to_read=True)
    digest = hashlib.new(algorithm, usedforsecurity=False)
    for chunk in _chunks(place, deadline):
        digest.update(chunk)
    return Hash(source=place, algorithm=algorithm, digest=digest.hexdigest())


@action("file.json")
def json(deadline: Deadline, path: str, conforms_to: JsonSchema | None = None) -> Document:
    """What a JSON file says, as `result.content`.

    Args:
        path: The path; `~` is the home directory.
        conforms_to: JSON Schema that the document must conform to, or the path of a file with one, from the runbook's.
    """
    place, text = _text(deadline, path)
    try:
        found = Document(source=place, content=read_json(text), bytes=len(text))
    except Unreadable as error:
        raise Refused(f"{place} is not JSON: {error}") from error
    conforming(conforms_to, found.content, place, found)
    return found


@action("file.yaml")
def yaml(deadline: Deadline, path: str, conforms_to: JsonSchema | None = None) -> Document:
    """What a YAML file with one document says, as `result.content`; dates stay texts.

    Args:
        path: The path; `~` is the home directory.
        conforms_to: JSON Schema that the document must conform to, or the path of a file with one, from the runbook's.
    """
    place, text = _text(deadline, path)
    try:
        content = read_document(text.decode(), place).data
    except UnicodeDecodeError as error:
        raise Refused(f"{place} is not YAML: {reason(text, error)}") from error
    except RunbookInvalid as error:
        raise Refused(f"not YAML: {error.problems[0]}", hint=error.problems[0].hint) from error
    found = Document(source=place, content=content, bytes=len(text))
    conforming(conforms_to, content, place, found)
    return found


@action("file.image")
def image(deadline: Deadline, path: str) -> Image:
    """Format and size of a picture: PNG, JPEG, GIF or WebP.

    Args:
        path: The path; `~` is the home directory.
    """
    place, seen = _look(path, to_read=True)
    head = next(_chunks(place, deadline), b"")
    try:
        named, width, height = dimensions(head)
    except ValueError as error:
        raise Refused(f"{place} is not a picture: {error}") from error
    return Image(source=place, format=named, width=width, height=height, bytes=seen.st_size)


@action("file.video")
def video(deadline: Deadline, path: str) -> Video:
    """Length, size and sound of a video, as the program ffprobe sees them.

    Args:
        path: The path; `~` is the home directory.
    """
    place, seen = _look(path, to_read=True)
    found = probed(place, deadline)
    picture = next((stream for stream in found.streams if stream.codec_type == "video"), None)
    return Video(
        source=place,
        format=found.format.format_name,
        seconds=float(found.format.duration),
        width=picture.width if picture else None,
        height=picture.height if picture else None,
        audio=any(stream.codec_type == "audio" for stream in found.streams),
        bytes=seen.st_size,
        chapters=[chapter.tags.get("title", "") for chapter in found.chapters],
    )


def _look(path: str, *, to_read: bool = False) -> tuple[str, os.stat_result]:
    try:
        place = Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise Refused(f"{path} cannot be read: there is no such user", hint="write the whole path") from error
    try:
        seen = place.stat()
    except FileNotFoundError:
        raise Unknown(f"{place} does not exist") from None
    except OSError as error:
        raise Refused(f"{place} cannot be read: {error.strerror}") from error
    if to_read and not stat.S_ISREG(seen.st_mode):
        kind = next((name for fits, name in _KINDS if fits(seen.st_mode)), "something else")
        raise Refused(f"{place} cannot be read: it is {kind}", hint="give the path of a file")
    return str(place), seen


def _text(deadline: Deadline, path: str) -> tuple[str, bytes]:
    """The path and content of a document."""
    place, seen = _look(path, to_read=True)
    if seen.st_size > LARGEST_DOCUMENT:
        raise Refused(f"{place} is larger than {LARGEST_DOCUMENT >> 20} MiB")
    return place, b"".join(_chunks(place, deadline))


def _unreadable(error: OSError) -> None:
    """A folder that cannot be read is not an empty one."""
    if not isinstance(error, FileNotFoundError):  # it may go while one looks
        raise Refused(f"{error.filename} cannot be read: {error.strerror}") from error


def _age(seen: os.stat_result) -> float:
    return round(time.time() - seen.st_mtime, 3)


def _chunks(place: str, deadline: Deadline) -> Iterator[bytes]:
    try:
        with Path(place).open("rb") as content:
            while chunk := content.read(CHUNK):
                deadline.remaining()
                yield chunk
    except OSError as error:
        raise Refused(f"{place} cannot be read: {error.strerror}") from error


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
