"""What can be seen of a service and done to it, whoever runs it; and the end of its log, with its times."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from pathlib import Path

    from k2run.actions.deadline import Deadline


TAIL_BYTES = 32 * 2**20
"""At most this much of the end of a log is read."""
_BLOCK = 64 * 1024
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)?")
_HEAD = 200  # characters at the start of a line in which its time is looked for


class State(StrEnum):
    """What a service is doing."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    ABSENT = "absent"  # cannot be started here: no such program, no such container
    UNHEALTHY = "unhealthy"  # running, but not ready
    UNKNOWN = "unknown"  # what runs it gives no answer, or the stack does not say how to see it


class ServiceStatus(Struct, frozen=True, kw_only=True):
    """A look at one service.

    Attributes:
        pid: The process (for a container: its first process on the host), when it runs.
        started_at: When it was started last.
        uptime_s: Seconds since then, when it runs.
        restarts: How often it was started again since the stack came up; None where it is not counted.
        detail: Why it is in this state, for people; may be empty.
        last_pid: The process that it was, when it does not run any more.
        ended_at: When it ended, as far as that is known.
        ended_by_us: When k2run ended it, and on whose command; empty when it did not.
    """

    service: str
    state: State
    pid: int | None = None
    started_at: datetime | None = None
    uptime_s: float | None = None
    restarts: int | None = None
    detail: str = ""
    last_pid: int | None = None
    ended_at: datetime | None = None
    ended_by_us: str = ""


class LogLine(Struct, frozen=True):
    """One line of a service's log; `at` is None when the line itself does not say."""

    text: str
    at: datetime | None = None


class Usage(Struct, frozen=True, kw_only=True):
    """What a service uses of its machine.

    Attributes:
        cpu_percent: Of one core: 100 is one core busy, 200 two.
        rss_bytes: Memory in use, caches of files left out.
        processes: How many processes or threads of control it has.
        waiting_percent: How long its threads were ready to run and had no core, in the same unit; None where the system
            does not say.
    """

    cpu_percent: float
    rss_bytes: int
    processes: int
    waiting_percent: float | None = None


class Backend(Protocol):
    """Runs one service. Every method raises `Unreachable`, `Refused` or `NotApplicable` when it fails."""

    def status(self) -> ServiceStatus:
        """What the service is doing now."""
        ...

    def start(self, deadline: Deadline) -> bool:
        """Make it run; False when it ran already. Does not wait for it to be ready."""
        ...

    def stop(self, deadline: Deadline) -> bool:
        """Ask it to end, and end it at the deadline; False when it did not run."""
        ...

    def kill(self, deadline: Deadline) -> None:
        """End it at once, with everything it started; returns when it is gone."""
        ...

    def pause(self, deadline: Deadline) -> None:
        """Hold it where it stands; returns when it stands."""
        ...

    def resume(self, deadline: Deadline) -> bool:
        """Let a paused one go on; False when it was not paused."""
        ...

    def log(self, *, lines: int, since: datetime | None, deadline: Deadline) -> list[LogLine]:
        """The newest lines of its log, oldest first; with `since`, only those that say they are newer."""
        ...

    def last_words(self, lines: int = 12) -> str:
        """The end of what it logged since it was started last; for the message that says that it failed."""
        ...

    def usage(self, over_s: float, deadline: Deadline) -> Usage:
        """What it uses, measured over so many seconds."""
        ...


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
