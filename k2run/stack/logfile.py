"""Reads the end of a log file, and the time that its lines tell."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from k2run.stack.backend import LogLine

if TYPE_CHECKING:
    from pathlib import Path

TAIL_BYTES = 32 * 2**20
"""At most this much of the end of a log is read."""
_BLOCK = 64 * 1024

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)?")
_HEAD = 200  # characters at the start of a line in which its time is looked for


def read_tail(path: Path, *, lines: int, since: datetime | None = None, start: int = 0) -> list[LogLine]:
    """The newest lines of a log, oldest first.

    Args:
        path: The file; one that is missing has no lines.
        lines: How many at most.
        since: Only lines from then on; a line without a time has that of the line before it.
        start: Offset in bytes before which nothing is read.
    """
    if lines <= 0:
        return []
    texts = _last_lines(path, TAIL_BYTES if since else None, lines, start)
    if since is None:
        return [LogLine(text, time_of(text)) for text in texts[-lines:]]
    found: list[LogLine] = []
    at: datetime | None = None
    for text in texts:
        at = time_of(text) or at
        if at is not None and at >= since:
            found.append(LogLine(text, at))
    return found[-lines:]


def has_times(path: Path) -> bool:
    """Whether the lines of a log say when they were written."""
    return any(time_of(text) for text in _last_lines(path, None, 50, 0))


def time_of(text: str) -> datetime | None:
    """When a line says it was written; a time without zone is taken as local."""
    match = _TIME.search(text, 0, _HEAD)
    if match is None:
        return None
    day, clock, fraction, zone = match.groups()
    try:
        at = datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0')[:6]:0<6}{zone or ''}")
    except ValueError:
        return None
    return at.astimezone(UTC)


def _last_lines(path: Path, most: int | None, lines: int, start: int) -> list[str]:
    """The end of a file as lines: `most` bytes of it, or blocks until there are enough lines."""
    try:
        with path.open("rb") as file:
            at = file.seek(0, os.SEEK_END)
            start = start if start <= at else 0  # a log that was cut short since begins with its newest part
            floor = max(start, at - TAIL_BYTES)
            if most is not None:
                file.seek(floor)
                raw = file.read(at - floor)
                at = floor
            else:
                raw = b""
                while at > floor and raw.count(b"\n") <= lines:
                    step = min(_BLOCK, at - floor)
                    at = file.seek(at - step)
                    raw = file.read(step) + raw
    except FileNotFoundError:
        return []
    if at > start and b"\n" in raw:
        raw = raw[raw.index(b"\n") + 1 :]  # what is before it is the rest of a line
    return [_ANSI.sub("", line) for line in raw.decode(errors="replace").splitlines()]
