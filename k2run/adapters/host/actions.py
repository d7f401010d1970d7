"""The machine that the stack runs on: keep its processor busy, take its memory, fill its disk. Always bounded.

Each burden is a process (or a file) of its own that ends by itself, so that not even a k2run that is killed leaves one.
"""

from __future__ import annotations

import os
from pathlib import Path

from k2run.actions.action import Blast, Effect, Result, Striking, Undo, action, fault
from k2run.actions.deadline import Deadline
from k2run.adapters.host.machine import battery, clock, disk, lacks, load, memory, ping  # noqa: F401 - actions of this adapter
from k2run.adapters.host.stress import LONGEST, Burdened, Relieved, begin, end, name_of, relief
from k2run.errors import NotApplicable, Refused
from k2run.language.quantities import Duration, Size
from k2run.stack.model import RunBy
from k2run.stack.process_group import busy_port
from k2run.stack.services import Services

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
    """

    path: str
    bytes: int


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
    size = path.stat().st_size if path.exists() else 0
    path.unlink(missing_ok=True)
    return Emptied(path=str(path), bytes=size, source=str(path.parent))


def _scratch(services: Services, name: str) -> Path:
    if not name or Path(name).name != name:
        raise Refused(f"{name!r} is not a file name", hint="give a name without a folder")
    return Path(services.stack.state) / SCRATCH / f"{name}.k2run"


def _free(folder: Path) -> int:
    import shutil

    return shutil.disk_usage(folder).free
