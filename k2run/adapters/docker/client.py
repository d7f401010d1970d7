"""What actions on containers return; files through a Docker engine as a tar stream, and the output of a command."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import tarfile
import tempfile
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

from k2run.actions.action import Result, beginning
from k2run.adapters._command import Kept, Printed
from k2run.errors import Interrupted, OperatorError, Refused, TimedOut
from k2run.files import drafted
from k2run.language.quantities import Duration, Size

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from docker import DockerClient

    from k2run.actions.deadline import Deadline


LARGEST = 2**30
"""Bytes of the largest file that is copied."""
CHUNK = 2**20
_READ_BYTES = 64 * 1024
_STDOUT, _STDERR = 1, 2
_HEADER = 8
_LISTEN_S = 0.2  # how often a command that says nothing is asked whether it should end


class Listed(Struct, frozen=True, kw_only=True):
    """One container in a list.

    Attributes:
        state: running, paused, exited, created, restarting or dead.
        health: healthy, unhealthy, starting, or "" without a health check.
    """

    name: str
    image: str
    state: str
    health: str = ""


class Containers(Result, frozen=True, kw_only=True):
    """The containers of an engine.

    Attributes:
        count: How many there are.
        running: How many of them run.
        unhealthy: Names of those whose health check fails.
        not_running: Names of those that do not run.
        names: All names, sorted.
    """

    count: int
    running: int
    names: list[str]
    unhealthy: list[str]
    not_running: list[str]
    containers: list[Listed]

    def headline(self) -> str:
        """Such as `9 of 10 containers run, unhealthy: shop-web`."""
        shown = f"{self.running} of {self.count} containers run"
        return f"{shown}, unhealthy: {', '.join(self.unhealthy)}" if self.unhealthy else shown


class Inspected(Result, frozen=True, kw_only=True):
    """One container in detail.

    Attributes:
        uptime_s: Seconds since it was started, when it runs.
        restarts: How often the engine restarted it by its restart policy.
        exit_code: With what it ended; None while it runs or when it never ran.
        oom_killed: Whether it was ended for want of memory.
        memory_limit: Bytes; 0 is no limit.
        cpu_limit: Cores; 0 is no limit.
        networks: Names of the networks that it is connected to.
    """

    container: str
    image: str
    state: str
    health: str = ""
    pid: int | None = None
    uptime_s: float | None = None
    started_at: str = ""
    restarts: int = 0
    exit_code: int | None = None
    oom_killed: bool = False
    memory_limit: int = 0
    cpu_limit: float = 0.0
    networks: list[str] = []

    def headline(self) -> str:
        """Such as `shop-db running, healthy, up 2h`."""
        words = [f"{self.container} {self.state}", self.health, "out of memory" if self.oom_killed else ""]
        words.append(f"up {Duration(self.uptime_s)}" if self.uptime_s is not None else "")
        return ", ".join(word for word in words if word)


class Executed(Printed, frozen=True, kw_only=True):
    """A command that ran inside a container.

    Attributes:
        stdout: What it printed; of more than 8 MiB the beginning and the end.
        stderr: Its complaints, likewise.
        truncated: Only the beginning and the end of one of them are here; what an expression would find is unknown.
    """

    container: str
    exit_code: int
    elapsed_ms: float

    def headline(self) -> str:
        """Such as `exit code 0`, with the first line that it printed."""
        first = beginning((self.stdout.strip() or self.stderr.strip()).partition("\n")[0], 60)
        return f"exit code {self.exit_code}" + (f": {first}" if first else "")


class Limited(Result, frozen=True, kw_only=True):
    """The limits of a container.

    Attributes:
        memory: Bytes; 0 is no limit.
        cpus: Cores; 0 is no limit.
    """

    container: str
    memory: int
    cpus: float

    def headline(self) -> str:
        """Such as `shop-web may use 256MiB and 0.5 cores`."""
        memory = str(Size(self.memory)) if self.memory else "any memory"
        return f"{self.container} may use {memory} and {f'{self.cpus:g}' if self.cpus else 'all'} cores"


class Linked(Result, frozen=True, kw_only=True):
    """The networks of a container after a change.

    Attributes:
        changed: False when it was so already.
        networks: Names of the networks that it is connected to now.
    """

    container: str
    network: str
    changed: bool
    networks: list[str]

    def headline(self) -> str:
        """Such as `shop-web is on shop-network`."""
        return f"{self.container} is on {', '.join(self.networks) or 'no network'}"


class Copied(Result, frozen=True, kw_only=True):
    """A file that was copied into or out of a container.

    Attributes:
        inside: Its path in the container.
        outside: Its path on this machine.
        bytes: Its size.
        sha256: The hash of what it holds.
    """

    container: str
    inside: str
    outside: str
    bytes: int
    sha256: str

    def headline(self) -> str:
        """Such as `/data/reference.csv of shop-web, 12KiB`."""
        return f"{self.inside} of {self.container}, {Size(self.bytes)}"


class Content(NamedTuple):
    """What a file holds: its size in bytes and its hash."""

    size: int
    sha256: str


def pack(file: Path, name: str, deadline: Deadline) -> tuple[IO[bytes], Content]:
    """A tar stream with one file under another name; the caller closes it.

    Raises:
        OperatorError: The file cannot be read.
        Refused: It is no regular file, or too large.
    """
    try:
        size = file.stat().st_size
        if not file.is_file() or size > LARGEST:
            raise Refused(f"{file} is not a regular file of at most {LARGEST >> 20} MiB")
        packed = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        with file.open("rb") as reader, tarfile.open(fileobj=packed, mode="w") as archive:
            entry = tarfile.TarInfo(name)
            about = os.fstat(reader.fileno())
            entry.size, entry.mode, entry.mtime = about.st_size, about.st_mode & 0o777, int(about.st_mtime)
            counted = _Counted(reader, deadline)
            archive.addfile(entry, counted)
    except OSError as error:
        raise OperatorError(f"{file} cannot be read: {error.strerror or error}") from error
    packed.seek(0)
    return packed, counted.content()


def unpack(chunks: Iterable[bytes], file: Path, deadline: Deadline) -> Content:
    """Write the one file of a tar stream.

    Raises:
        OperatorError: It cannot be written.
        Refused: The stream has no regular file, or one that is too large.
    """
    with tempfile.TemporaryFile() as packed:
        for chunk in chunks:
            deadline.remaining()
            packed.write(chunk)
            if packed.tell() > LARGEST + CHUNK:
                raise Refused(f"it is larger than {LARGEST >> 20} MiB")
        packed.seek(0)
        with tarfile.open(fileobj=packed, mode="r|") as archive:
            entry = archive.next()
            held = archive.extractfile(entry) if entry is not None and entry.isfile() else None
            if held is None:
                raise Refused("it is not a regular file", hint="copy files one by one, or pack them with docker.exec")
            counted = _Counted(held, deadline)
            return _write(counted, file)


def _write(counted: _Counted, file: Path) -> Content:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with drafted(file) as draft, draft.open("wb") as target:
            while chunk := counted.read(CHUNK):
                target.write(chunk)
    except OSError as error:
        raise OperatorError(f"{file} cannot be written: {error.strerror or error}") from error
    return counted.content()


class _Counted(io.RawIOBase):
    """Reads on, counts and hashes what was read, until the deadline."""

    def __init__(self, reader: IO[bytes], deadline: Deadline) -> None:
        self._reader = reader
        self._deadline = deadline
        self._size = 0
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        self._deadline.remaining()
        chunk = self._reader.read(size)
        self._size += len(chunk)
        self._hash.update(chunk)
        return chunk

    def content(self) -> Content:
        return Content(self._size, self._hash.hexdigest())


def follow(engine: DockerClient, run: str, deadline: Deadline) -> tuple[Kept, Kept]:
    """What a command prints and complains of, until it ends.

    Raises:
        TimedOut: It did not end in time; it was ended where that is possible.
        Interrupted: The run was asked to end, and the command with it.
    """
    kept = {_STDOUT: Kept(), _STDERR: Kept()}
    answer: Any = engine.api.exec_start(run, socket=True)
    try:
        for stream, part in _frames(getattr(answer, "_sock", answer), deadline):
            kept.setdefault(stream, Kept()).add(part)
    except (TimedOut, Interrupted):
        _end(engine, run)
        raise
    finally:
        answer.close()
    return kept[_STDOUT], kept[_STDERR]


def _frames(connection: socket.socket, deadline: Deadline) -> Iterator[tuple[int, bytes]]:
    """The engine's frames: byte 0 says which stream, bytes 4 to 8 how long; docker-py reads them without a timeout."""
    waiting = b""
    while True:
        while len(waiting) >= _HEADER and len(waiting) >= (whole := _HEADER + int.from_bytes(waiting[4:_HEADER])):
            yield waiting[0], waiting[_HEADER:whole]
            waiting = waiting[whole:]
        connection.settimeout(deadline.at_most(_LISTEN_S))
        try:
            part = connection.recv(_READ_BYTES)
        except TimeoutError:
            continue
        if not part:
            return
        waiting += part


def _end(engine: DockerClient, run: str) -> None:
    """End a command in a container: the engine cannot, but on the same machine its pid is known."""
    pid = engine.api.exec_inspect(run)["Pid"]
    if pid and engine.api.base_url.startswith("http+docker"):  # a socket of this machine
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
