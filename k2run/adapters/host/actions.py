"""The machine that the stack runs on: keep its processor busy, take its memory, fill its disk. Always bounded.

Each burden is a process (or a file) of its own that ends by itself, so that not even a k2run that is killed leaves one.
Long because every action on the machine is on this page, those that only look included.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import statistics
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.actions.action import Blast, Effect, Result, Striking, Undo, action, fault
from k2run.actions.deadline import Deadline
from k2run.adapters._command import run
from k2run.adapters.host.stress import LONGEST, Burdened, Relieved, begin, end, name_of, relief
from k2run.errors import AuthorError, NotApplicable, Refused, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Duration, Size
from k2run.stack.causes import Kind, machine_causes
from k2run.stack.model import RunBy
from k2run.stack.process_group import busy_port
from k2run.stack.services import Services

if TYPE_CHECKING:
    from collections.abc import Iterator

_NTP_PORT = 123
_NTP_EPOCH = 2_208_988_800
"""Seconds from 1900 to 1970."""
_NTP_PACKET = 48
_REPLY = re.compile(r"time=([\d.]+) ms")


class Disk(Result, frozen=True, kw_only=True):
    """The disk that a path is on.

    Attributes:
        free_bytes: What this user may still write.
    """

    path: str
    total_bytes: int
    free_bytes: int
    used_percent: float

    def headline(self) -> str:
        """Such as `41.2GiB free, 63 % used`."""
        return f"{Size(self.free_bytes)} free, {self.used_percent:.0f} % used"


class Memory(Result, frozen=True, kw_only=True):
    """The memory of the machine.

    Attributes:
        available_bytes: What can be had without swapping.
    """

    total_bytes: int
    available_bytes: int
    used_percent: float
    swap_used_percent: float

    def headline(self) -> str:
        """Such as `9.1GiB available, 62 % used`."""
        return f"{Size(self.available_bytes)} available, {self.used_percent:.0f} % used"


class Load(Result, frozen=True, kw_only=True):
    """Processes that want to run, on average.

    Attributes:
        per_core: `one_minute` over `cores`; above 1 processes wait.
    """

    one_minute: float
    five_minutes: float
    fifteen_minutes: float
    cores: int
    per_core: float


class Battery(Result, frozen=True, kw_only=True):
    """The battery; `minutes_left` is None while it is plugged in or not known."""

    percent: float
    plugged: bool
    minutes_left: float | None

    def headline(self) -> str:
        """Such as `100 %, plugged in`."""
        return f"{self.percent:.0f} %, {'plugged in' if self.plugged else 'on battery'}"


class Ping(Result, frozen=True, kw_only=True):
    """The way to a host and back.

    Attributes:
        by: `icmp`, or `tcp` when a port was given.
        loss_percent: Of what was sent, what did not come back.
    """

    host: str
    by: str
    sent: int
    received: int
    loss_percent: float
    minimum_ms: float
    median_ms: float
    maximum_ms: float

    def headline(self) -> str:
        """Such as `0.4 ms, 0 % lost`."""
        return f"{self.median_ms:.1f} ms, {self.loss_percent:.0f} % lost"


class Clock(Result, frozen=True, kw_only=True):
    """How far this machine's clock is from a time server's.

    Attributes:
        skew_ms: Above zero when this machine is ahead.
        round_trip_ms: Of the question; the skew is known to half of it.
        stratum: How far the server is from a reference clock.
    """

    server: str
    skew_ms: float
    round_trip_ms: float
    stratum: int

    def headline(self) -> str:
        """Such as `3.1 ms ahead`."""
        return f"{abs(self.skew_ms):.1f} ms {'ahead' if self.skew_ms >= 0 else 'behind'}"


@action("host.disk")
def disk(path: str = "/") -> Disk:
    """How much room there is on the disk of a path.

    Args:
        path: Any path on it.
    """
    try:
        total, _, free = shutil.disk_usage(path)
    except FileNotFoundError:
        raise Unknown(f"{path} does not exist") from None
    return Disk(
        path=path,
        total_bytes=total,
        free_bytes=free,
        used_percent=100 * (1 - free / total),
        source=socket.gethostname(),
    )


@action("host.memory")
def memory() -> Memory:
    """How much memory the machine has left."""
    import psutil

    found = psutil.virtual_memory()
    return Memory(
        total_bytes=found.total,
        available_bytes=found.available,
        used_percent=found.percent,
        swap_used_percent=psutil.swap_memory().percent,
        source=socket.gethostname(),
    )


@action("host.load")
def load() -> Load:
    """How busy the machine is."""
    one, five, fifteen = os.getloadavg()
    cores = os.cpu_count() or 1
    return Load(
        one_minute=one,
        five_minutes=five,
        fifteen_minutes=fifteen,
        cores=cores,
        per_core=one / cores,
        source=socket.gethostname(),
    )


@action("host.battery")
def battery() -> Battery:
    """How full the battery is; a machine without one is not applicable."""
    import psutil

    found = psutil.sensors_battery()
    if found is None:
        raise NotApplicable(f"{socket.gethostname()} has no battery")
    left = found.secsleft
    known = not found.power_plugged and isinstance(left, int) and left >= 0
    return Battery(
        percent=found.percent,
        plugged=bool(found.power_plugged),
        minutes_left=left / 60 if known else None,
        source=socket.gethostname(),
    )


@action("host.ping")
def ping(deadline: Deadline, host: str, port: int = 0, count: int = 5) -> Ping:
    """How long the way to a host and back takes; a host that never answers is unreachable.

    Args:
        host: Name or address.
        port: A TCP port to connect to; without one the program `ping` asks by ICMP.
        count: How often to ask.
    """
    if count < 1:
        raise AuthorError("host.ping needs a count above 0")
    took = list(_connects(deadline, host, port, count) if port else _echoes(deadline, host, count))
    if not took:
        raise Unreachable(f"{host}{f':{port}' if port else ''} answered none of {count} pings")
    return Ping(
        host=host,
        by="tcp" if port else "icmp",
        sent=count,
        received=len(took),
        loss_percent=100 * (1 - len(took) / count),
        minimum_ms=min(took),
        median_ms=statistics.median(took),
        maximum_ms=max(took),
        source=socket.gethostname(),
    )


@action("host.clock")
def clock(deadline: Deadline, server: str) -> Clock:
    """How far this machine's clock is from a time server's, by one SNTP question.

    Args:
        server: `host` or `host:port` of an NTP server; not an address of IPv6.
    """
    host, _, port = server.partition(":")
    asked = b"\x23" + bytes(_NTP_PACKET - 1)  # version 4, client
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.connect((host, int(port or _NTP_PORT)))
            link.settimeout(deadline.remaining())
            sent = time.time()
            link.send(asked)
            answer = link.recv(512)
            back = time.time()
    except TimeoutError as error:
        raise TimedOut(f"the time server {server} has not answered within {deadline.seconds:g}s") from error
    except ValueError as error:
        raise AuthorError(f"{server!r} is not host:port") from error
    except OSError as error:
        raise Unreachable(f"the time server {server} does not answer: {error.strerror or error}") from error
    return _clock(server, answer, sent, back)


def _clock(server: str, answer: bytes, sent: float, back: float) -> Clock:
    if len(answer) < _NTP_PACKET or answer[0] & 7 != 4 or not answer[1]:  # noqa: PLR2004 - the mode of a server
        raise Refused(f"{server} does not answer like a synchronised time server")
    received, answered = (_ntp_time(answer, at) for at in (32, 40))
    skew = ((sent - received) + (back - answered)) / 2
    return Clock(
        server=server,
        skew_ms=skew * 1000,
        round_trip_ms=((back - sent) - (answered - received)) * 1000,
        stratum=answer[1],
        source=socket.gethostname(),
    )


def _ntp_time(packet: bytes, at: int) -> float:
    """Seconds since 1970 of a 64-bit NTP time."""
    whole, fraction = struct.unpack_from("!II", packet, at)
    return float(whole - _NTP_EPOCH + fraction / 2**32)


def _connects(deadline: Deadline, host: str, port: int, count: int) -> Iterator[float]:
    """Milliseconds of each connection that was made."""
    patience = deadline.remaining() / count
    for _ in range(count):
        started = time.perf_counter()
        try:
            socket.create_connection((host, port), deadline.at_most(patience)).close()
        except socket.gaierror as error:
            raise Unknown(f"unknown host {host}: {error.strerror}") from error
        except OSError:
            continue
        yield (time.perf_counter() - started) * 1000


def _echoes(deadline: Deadline, host: str, count: int) -> Iterator[float]:
    """Milliseconds of each echo that came back."""
    if shutil.which("ping") is None:
        raise NotApplicable("the program ping is not installed", hint="install iputils-ping, or give a TCP `port`")
    wait_s = deadline.remaining()
    command = ["ping", "-n", "-c", str(count), "-i", "0.2", "-w", str(max(1, int(wait_s))), "--", host]
    try:
        done = run(command, deadline)
    except TimedOut as error:
        raise TimedOut(f"{host} has not answered {count} pings within {deadline.seconds:g}s") from error
    if done.stderr.strip() and not done.stdout.strip():
        raise Unknown(f"cannot ping {host}: {done.stderr.strip().splitlines()[0]}")
    yield from map(float, _REPLY.findall(done.stdout))


class Lacks(Result, frozen=True, kw_only=True):
    """What the services of a stack lack on this machine.

    Attributes:
        full: One line for each disk without room.
        read_only: One line for each folder in which nothing can be written.
        memory: What there is too little of, or empty.
    """

    full: list[str] = []
    read_only: list[str] = []
    memory: list[str] = []

    def headline(self) -> str:
        """Such as `the disk of /var/k2 is full: 0B are free`."""
        return "; ".join([*self.full, *self.read_only, *self.memory]) or "nothing"


@action("host.lacks")
def lacks(services: Services) -> Lacks:
    """What this machine lacks for the services that k2run runs on it: disk, the right to write, memory.

    Looked at are the stack's own folder and every folder that a service's command names.

    Raises:
        NotApplicable: k2run runs none of the services on this machine.
    """
    mine = [service for service in services.all() if service.run is RunBy.PROCESS]
    if not mine:
        raise NotApplicable(f"k2run runs no service of {services.stack.name!r} as a process of this machine")
    found = {(cause.kind, cause.says) for service in mine for cause in machine_causes(services.stack, service)}

    def of(kind: Kind) -> list[str]:
        return sorted(says for each, says in found if each is kind)

    return Lacks(
        full=of(Kind.DISK),
        read_only=of(Kind.READ_ONLY),
        memory=of(Kind.MEMORY),
        source=services.stack.name,
    )


KEPT_FREE = Size(512 * 2**20)
"""Bytes of memory, and of disk, that no burden takes."""
SCRATCH = "scratch"


class Filled(Result, frozen=True, kw_only=True):
    """A scratch file that takes up disk space.

    Attributes:
        path: Where it is.
        bytes: How large it is.
        free: Bytes that are left on that disk.
    """

    path: str
    bytes: int
    free: int


class Emptied(Result, frozen=True, kw_only=True):
    """A scratch file is gone.

    Attributes:
        bytes: How large it was; 0 when it was not there.
        changed: It was there.
    """

    path: str
    bytes: int
    changed: bool


@fault("host.hog_cpu", blast=Blast.HOST, undone_by="host.relieve")
def hog_cpu(
    services: Services, deadline: Deadline, workers: int = 0, at_most: Duration = LONGEST
) -> Striking[Burdened]:
    """Keep cores of this machine busy. Undone by ending the processes that do it.

    Blast radius: everything on this machine becomes slower.

    Args:
        workers: How many cores; all of them when 0.
        at_most: When it ends by itself.
    """
    cores = os.cpu_count() or 1
    if workers < 0 or workers > 4 * cores:
        raise Refused(f"{workers} busy processes are too many for {cores} cores", hint=f"at most {4 * cores}")
    burden = name_of("cpu")
    yield relief(burden, "end the processor load")
    return begin(services, deadline, burden, [str(workers or cores)], at_most)


@fault("host.hog_memory", blast=Blast.HOST, undone_by="host.relieve")
def hog_memory(services: Services, deadline: Deadline, size: Size, at_most: Duration = LONGEST) -> Striking[Burdened]:
    """Take memory of this machine, every page in use. Undone by ending the process that holds it.

    Blast radius: everything on this machine. At least 512 MiB are left free.

    Args:
        size: How much, in bytes.
        at_most: When it ends by itself.

    Raises:
        Refused: There is not that much to take.
    """
    import psutil

    free = psutil.virtual_memory().available
    if size > free - KEPT_FREE:
        raise Refused(f"cannot take {size}: {Size(free)} is free", hint=f"{KEPT_FREE} must stay free")
    burden = name_of("memory")
    yield relief(burden, f"release {size} of memory")
    return begin(services, deadline, burden, [str(int(size))], at_most)


@fault("host.take_port", undone_by="host.relieve")
def take_port(
    services: Services, deadline: Deadline, service: str, port: int = 0, at_most: Duration = LONGEST
) -> Striking[Burdened]:
    """Take a port of a service that does not run, as another program would, and answer 200. Undone by letting it go.

    Blast radius: the service, which cannot start, and whoever asks it and gets a stranger's answer.

    Args:
        service: Name of the service in the stack; it is stopped or killed first.
        port: Which of its ports; the first one when 0.
        at_most: When the port is released by itself.

    Raises:
        NotApplicable: k2run does not run the service as a process of this machine, or it has no port.
        Refused: Something listens there already, or it is no port of the service.
    """
    known = services.find(service)
    if known.run is not RunBy.PROCESS or not known.ports:
        raise NotApplicable(f"{service} has no port that k2run could take from it")
    wanted = port or known.ports[0]
    if wanted not in known.ports:
        raise Refused(f"{wanted} is no port of {service}", hint=f"it has {', '.join(map(str, known.ports))}")
    if busy_port(wanted):
        raise Refused(f"something listens on port {wanted} already", hint=f"stop {service} first: service.kill")
    burden = name_of("port")
    yield relief(burden, f"release port {wanted} of {service}")
    return begin(services, deadline, burden, [str(wanted)], at_most)


@action("host.relieve", effect=Effect.CHANGES)
def relieve(services: Services, burden: str) -> Relieved:
    """End a burden with all its processes; nothing happens when it is gone.

    Args:
        burden: Its name, as the fault told it.
    """
    return end(services, burden)


@fault("host.fill_disk", blast=Blast.HOST, undone_by="host.free_disk")
def fill_disk(services: Services, size: Size, name: str = "fill") -> Striking[Filled]:
    """Take up disk space with one scratch file in the stack's state folder. Undone by deleting it.

    Blast radius: everything that writes to that disk. At least 512 MiB are left free.

    Args:
        size: How much, in bytes.
        name: Name of the scratch file.

    Raises:
        Refused: There is not that much free, or the file is there already.
    """
    path = _scratch(services, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    free = _free(path.parent)
    if size > free - KEPT_FREE:
        raise Refused(f"cannot fill {size}: {Size(free)} is free", hint=f"{KEPT_FREE} must stay free")
    if path.exists():
        raise Refused(f"{path} already exists", hint="choose another name for the scratch file")
    yield Undo(action="host.free_disk", args={"name": name}, says=f"delete the scratch file {path.name}")
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, int(size))
    except OSError as error:
        raise Refused(f"cannot fill {path}: {error.strerror}") from error
    return Filled(path=str(path), bytes=int(size), free=_free(path.parent), source=str(path.parent))


@action("host.free_disk", effect=Effect.CHANGES)
def free_disk(services: Services, name: str = "fill") -> Emptied:
    """Delete a scratch file; nothing happens when it is gone.

    Args:
        name: Name of the scratch file.
    """
    path = _scratch(services, name)
    there = path.exists()
    size = path.stat().st_size if there else 0
    path.unlink(missing_ok=True)
    return Emptied(path=str(path), bytes=size, changed=there, source=str(path.parent))


def _scratch(services: Services, name: str) -> Path:
    if not name or Path(name).name != name:
        raise Refused(f"{name!r} is not a file name", hint="give a name without a folder")
    return Path(services.stack.state) / SCRATCH / f"{name}.k2run"


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
