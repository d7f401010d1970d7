"""Why a service is not healthy, looked for where it is written: its log, its end, its ports, disk, memory."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from k2run.actions.action import beginning
from k2run.actions.deadline import Deadline
from k2run.errors import K2runError
from k2run.language.quantities import Size
from k2run.stack.backend import State
from k2run.stack.model import RunBy
from k2run.stack.services import backend_of, strangers_on

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from k2run.stack.backend import LogLine
    from k2run.stack.lifecycle import Look
    from k2run.stack.model import Service
    from k2run.stack.stack import Stack

LEAST_FREE = Size(16 * 2**20)
"""Bytes; a disk with less room than one commit and its metadata take is full."""
LEAST_FILES = 64
LEAST_MEMORY_PERCENT = 2.0
SHOWN = 240
"""Characters of a log line."""
_LAST_LINES = 40
_RECENT = timedelta(seconds=60)
"""What a service wrote longer ago is not about now, or, where it has ended, not about its end."""
_LOG_S = 2.0


class Kind(StrEnum):
    """What a service lacks."""

    DISK = "disk full"
    PORT = "port taken"
    LOCK = "locked"
    READ_ONLY = "read-only"
    PERMISSION = "permission denied"
    MEMORY = "out of memory"
    FILES = "too many open files"
    DAMAGED = "damaged data"
    MISSING = "missing file"
    UNREACHABLE = "unreachable"
    ERROR = "error"
    EXIT = "exit"
    STOPPED = "stopped"


class Cause(Struct, frozen=True, kw_only=True):
    """One thing that says why a service failed.

    Attributes:
        says: The line, as it is written; or the fact.
        source: Where it is written.
    """

    kind: Kind
    says: str
    source: str


_WORDS: tuple[tuple[Kind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        (Kind.DISK, r"no space left on device|disk (?:is )?full|ENOSPC|quota exceeded|Errno 28\b"),
        (Kind.READ_ONLY, r"read-only file system|readonly database|EROFS|Errno 30\b"),
        (Kind.PORT, r"address already in use|port \d+ is (?:already in use|taken)|EADDRINUSE|Errno 98\b"),
        (
            Kind.LOCK,
            r"(?:database|table) (?:table )?is locked|SQLITE_BUSY|could not obtain lock|another \w+ is writing",
        ),
        (Kind.MEMORY, r"MemoryError|cannot allocate memory|out of memory|OutOfMemory|bad_alloc|oom-kill"),
        (Kind.PERMISSION, r"permission denied|operation not permitted|EACCES|Errno 13\b"),
        (Kind.FILES, r"too many open files|EMFILE|Errno 24\b"),
        (
            Kind.DAMAGED,
            r"malformed|corrupt|magic bytes not found|file is not a database|checksum mismatch|not a parquet",
        ),
        (
            Kind.MISSING,
            r"no such (?:file or directory|table)|FileNotFoundError|table does not exist|unable to open database file",
        ),
        (Kind.UNREACHABLE, r"connection refused|did not answer within|transport failure|all brokers are down"),
        (Kind.ERROR, r"\b(?:error|fatal|panic|exception|traceback)\b|^[\w.]*(?:Error|Exception)\b"),
    )
)
_ORDINARY = re.compile(r"^[IW]\d{4} \d\d:\d\d:\d\d\.\d+ |\[(?:info|debug)\s*\]|\blevel=(?:info|debug)\b", re.IGNORECASE)
"""Lines that are no failure by their own level. SeaweedFS writes warnings of Go's log while all is well: its worker
looks for an admin server, which is switched off, for as long as it runs."""
EFFECTS = {Kind.UNREACHABLE, Kind.ERROR, Kind.EXIT}
"""What a service reports that suffers from another cause as well."""


def causes_of(stack: Stack, look: Look) -> list[Cause]:
    """Why a checked service is not ready: the resource first, what only tells of effects last."""
    service, seen = look.service, look.status
    found: list[Cause] = []
    if service.run is RunBy.PROCESS:
        found += _ports(stack, service)
        found += _killed_for_memory(look)
        found += _files(look)
    if seen.ended_by_us:  # what it logged before is not why it does not run
        found.append(Cause(kind=Kind.STOPPED, says=seen.ended_by_us, source="noted by k2run"))
    else:
        found += _log(stack, look)
    found += machine_causes(stack, service)
    if seen.state is State.STOPPED and seen.detail and not seen.ended_by_us:
        found.append(Cause(kind=Kind.EXIT, says=seen.detail, source="its process"))
    found = [replace(cause, says=stack.redact(cause.says)) for cause in found]
    unique = {(cause.kind, cause.says): cause for cause in found}
    return sorted(unique.values(), key=lambda cause: cause.kind in EFFECTS)


def _ports(stack: Stack, service: Service) -> Iterator[Cause]:
    """Ports of a service that another process holds."""
    for port, holder in strangers_on(service.ports, stack).items():
        says = f"another process answers: port {port} is held by {holder.says}"
        yield Cause(kind=Kind.PORT, says=says, source="its port")


# --- its log ---------------------------------------------------------------------------------------------------------


def _log(stack: Stack, look: Look) -> Iterator[Cause]:
    """The newest line of its log that says what is wrong."""
    try:
        backend = backend_of(stack, look.service)
        lines = backend.log(lines=_LAST_LINES, since=None, deadline=Deadline(_LOG_S))
        last_start = {*backend.last_words(_LAST_LINES).splitlines()}
    except K2runError:
        return
    if look.status.state is not State.RUNNING:
        lines = list(_timed(lines))
    until = _until(look, lines)
    told = [line for line in _without_frames(lines) if _counts(line, look, until, last_start)]
    found = [(kind, line) for line in told for kind in (kind_of(line.text),) if kind is not None]
    if not found:
        return
    kind, line = next(((kind, line) for kind, line in reversed(found) if kind not in EFFECTS), found[-1])
    says = beginning(stack.redact(line.text.strip()), SHOWN)
    if kind is Kind.PORT:
        says += _by_whom(stack, look.service)
    yield Cause(kind=kind, says=says, source=f"log of {look.service.name}")


def _without_frames(lines: Iterable[LogLine]) -> Iterator[LogLine]:
    """Lines without the code that a traceback quotes: what it raises stands in its last line."""
    inside = False
    for line in lines:
        inside = inside and line.text[:1].isspace()
        if not inside:
            yield line
        inside = inside or line.text.startswith("Traceback (most recent call last)")


def _timed(lines: list[LogLine]) -> Iterator[LogLine]:
    """Lines with the time of the one before where they have none, as those of a traceback."""
    at = None
    for line in lines:
        at = line.at or at
        yield msgspec.structs.replace(line, at=at)


def _until(look: Look, lines: list[LogLine]) -> datetime:
    """The moment that its log is read for: now while it runs, else its end, which its last line tells best."""
    now = datetime.now(UTC)
    if look.status.state is State.RUNNING:
        return now
    return max((line.at for line in lines if line.at is not None), default=look.status.ended_at or now)


def _counts(line: LogLine, look: Look, until: datetime, last_start: set[str]) -> bool:
    """Whether a line is about that moment: written since the last start, and in the last minute before it."""
    began = look.status.started_at
    if line.at is None:
        return look.status.state is not State.RUNNING and line.text in last_start
    if began is not None and line.at < began - timedelta(seconds=1):
        return False
    return line.at > until - _RECENT


def kind_of(text: str) -> Kind | None:
    """What a log line says is wrong; None when it says nothing of the kind, or calls itself no failure."""
    kind = next((kind for kind, words in _WORDS if words.search(text)), None)
    return None if kind in EFFECTS and _ORDINARY.search(text) else kind


def _by_whom(stack: Stack, service: Service) -> str:
    holder = next(iter(strangers_on(service.ports, stack).values()), None)
    return f" (by {holder.says})" if holder is not None else ""


# --- its machine -----------------------------------------------------------------------------------------------------


def machine_causes(stack: Stack, service: Service | None = None) -> Iterator[Cause]:
    """What the machine lacks: room where the stack keeps its data, the right to write there, memory."""
    devices = set()
    for folder in _folders(stack, service):
        device = folder.stat().st_dev
        if device not in devices:
            devices.add(device)
            yield from _disk(folder)
        if not os.access(folder, os.W_OK):
            why = "its file system is mounted read-only" if _is_read_only(folder) else "permission denied"
            yield Cause(kind=Kind.READ_ONLY, says=f"{folder} cannot be written: {why}", source="the disk")
    yield from _memory()


def _folders(stack: Stack, service: Service | None) -> list[Path]:
    """Folders in which a service keeps what it writes: those that its command names, and the stack's own."""
    named = [] if service is None else [word.rpartition("=")[2] for word in service.command]
    places = [Path(word) for word in named if word.startswith("/")]
    return [folder for folder in dict.fromkeys([*places, stack.state]) if folder.is_dir()]


def _disk(folder: Path) -> Iterator[Cause]:
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE:
        yield Cause(kind=Kind.DISK, says=f"the disk of {folder} is full: {Size(free)} are free", source="the disk")
    kept = os.statvfs(folder)
    if kept.f_files and kept.f_favail < LEAST_FILES:
        yield Cause(kind=Kind.DISK, says=f"the disk of {folder} has room for no more files", source="the disk")


def _is_read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _memory() -> Iterator[Cause]:
    import psutil

    memory = psutil.virtual_memory()
    if 100 * memory.available / memory.total < LEAST_MEMORY_PERCENT:
        says = f"the machine has {Size(memory.available)} of {Size(memory.total)} memory left"
        yield Cause(kind=Kind.MEMORY, says=says, source="the memory")


def _files(look: Look) -> Iterator[Cause]:
    """Whether a process has as many files open as it may; nothing where the system does not say how many that are."""
    import psutil

    if look.status.pid is None or not hasattr(psutil, "RLIMIT_NOFILE"):
        return
    with suppress(psutil.Error):
        process = psutil.Process(look.status.pid)
        opened, most = process.num_fds(), process.rlimit(psutil.RLIMIT_NOFILE)[0]
        if 0 <= most <= opened:
            yield Cause(kind=Kind.FILES, says=f"it has {opened} files open and may have {most}", source="its process")


# --- the kernel ------------------------------------------------------------------------------------------------------


def _killed_for_memory(look: Look) -> Iterator[Cause]:
    """What the kernel's log says of a process that it killed to have memory; nothing where it may not be read."""
    pid = look.status.last_pid
    if pid is None or look.status.state is not State.STOPPED:
        return
    killed = re.compile(rf"Killed process {pid} \(")
    for line in _kernel_log():
        if killed.search(line):
            yield Cause(
                kind=Kind.MEMORY, says=beginning(line.rpartition(";")[2].strip(), SHOWN), source="log of the kernel"
            )
            return


def _kernel_log() -> Iterator[str]:
    """Lines of the kernel, newest last."""
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        with suppress(BlockingIOError):
            while True:
                try:
                    yield os.read(log, 8192).decode(errors="replace")
                except BrokenPipeError:  # the kernel has overwritten this one meanwhile
                    continue
    except OSError:
        return
    finally:
        os.close(log)
