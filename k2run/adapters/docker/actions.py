"""Containers of a Docker engine, by name: look at them, run commands in them, cut them off, limit them.

To start, stop, kill or pause a container use the actions on services, which do the same for processes.
"""

from __future__ import annotations

import fnmatch
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2run.actions.action import Effect, Striking, Undo, action, ending, fault
from k2run.actions.deadline import Deadline
from k2run.adapters.docker.client import (
    Containers,
    Content,
    Copied,
    Executed,
    Inspected,
    Limited,
    Linked,
    Listed,
    follow,
    pack,
    unpack,
)
from k2run.errors import NotApplicable, Refused, Unknown
from k2run.language.quantities import Size
from k2run.stack.backend import time_of
from k2run.stack.containers import Docker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker import DockerClient
    from docker.models.containers import Container

NANO = 1_000_000_000
PERIOD_US = 100_000
"""Over which the kernel counts the processor time of a container with a quota, when nothing else is said."""


@action("docker.ps")
def ps(docker: Docker, deadline: Deadline, name: str = "*", all: bool = True) -> Containers:
    """List containers by name, with what each is doing.

    Args:
        name: Pattern of the names, such as `shop-*`.
        all: Also those that do not run.

    Raises:
        Unknown: No container has such a name.
    """
    with docker.engine(deadline) as engine:
        raw = engine.api.containers(all=all)
    found = [_listed(entry) for entry in raw]
    found = sorted((entry for entry in found if fnmatch.fnmatchcase(entry.name, name)), key=lambda entry: entry.name)
    if not found:
        raise Unknown(
            f"there is no container {name}", hint=f"the engine has {len(raw)} others" if raw else "it has none"
        )
    return Containers(
        count=len(found),
        running=sum(entry.state == "running" for entry in found),
        names=[entry.name for entry in found],
        unhealthy=[entry.name for entry in found if entry.health == "unhealthy"],
        not_running=[entry.name for entry in found if entry.state != "running"],
        containers=found,
        source=docker.url or "docker",
    )


@action("docker.inspect")
def inspect(docker: Docker, deadline: Deadline, container: str) -> Inspected:
    """Look closely at one container: health, restarts, start time, limits, networks, whether memory ran out.

    Args:
        container: Its name.
    """
    with _container(docker, deadline, container) as (_, found):
        return _inspected(container, found.attrs)


@action("docker.exec")
def exec_(
    docker: Docker,
    deadline: Deadline,
    container: str,
    command: list[str],
    user: str = "",
    workdir: str = "",
    env: dict[str, str] = {},
    ok_codes: list[int] = [0],
) -> Executed:
    """Run a command inside a container.

    Args:
        container: Its name.
        command: The program and its arguments; for a shell, `[sh, -c, "…"]`.
        user: Run it as this user; as the container's own when empty.
        workdir: Run it in this folder of the container.
        env: Environment variables for it.
        ok_codes: Exit codes that are no failure.

    Raises:
        Refused: It ended with another code; the message has the end of what it said.
        TimedOut: It was not done in time, and was ended.
    """
    began = time.perf_counter()
    with _container(docker, deadline, container) as (engine, found):
        if found.status != "running":
            raise Refused(f"{container} is not running", hint=f"it is {found.status}")
        made = engine.api.exec_create(found.id, command, user=user, workdir=workdir or None, environment=env or None)
        stdout, stderr = follow(engine, made["Id"], deadline)
        code = engine.api.exec_inspect(made["Id"])["ExitCode"]
    said = ending((stderr.text() or stdout.text()).strip(), 300)
    if code not in ok_codes:
        raise Refused(f"{command[0]} in {container} ended with {code}: {said}", hint=f"`ok_codes` allows {ok_codes}")
    elapsed = round((time.perf_counter() - began) * 1000, 3)
    return Executed(
        container=container,
        exit_code=code,
        stdout=stdout.as_printed(),
        stderr=stderr.as_printed(),
        truncated=stdout.truncated or stderr.truncated,
        elapsed_ms=elapsed,
        source=container,
    )


@action("docker.copy_from")
def copy_from(docker: Docker, deadline: Deadline, container: str, inside: str, outside: str) -> Copied:
    """Copy a file out of a container; it may also be one that does not run.

    Args:
        container: Its name.
        inside: Path of the file in the container.
        outside: Path to write to; a file that is there is replaced as a whole.

    Raises:
        NotApplicable: The container has no such file.
        Refused: It is no regular file, or larger than 1 GiB.
    """
    from docker.errors import NotFound

    with _container(docker, deadline, container) as (_, found):
        try:
            chunks, _about = found.get_archive(inside)
        except NotFound:
            raise NotApplicable(f"there is no {inside} in {container}") from None
        content = unpack(chunks, Path(outside), deadline)
    return _copied(container, inside, outside, content)


@action("docker.copy_to", effect=Effect.CHANGES)
def copy_to(docker: Docker, deadline: Deadline, container: str, outside: str, inside: str) -> Copied:
    """Copy a file into a container; it keeps its permissions and belongs to root there.

    Args:
        container: Its name.
        outside: Path of the file on this machine.
        inside: Path to write to in the container; the folder must be there, a file that is there is replaced.

    Raises:
        NotApplicable: The container has no such folder.
        Refused: It is no regular file, or larger than 1 GiB.
    """
    from docker.errors import NotFound

    folder, _, name = inside.rpartition("/")
    if not name:
        raise Refused(f"{inside} is a folder", hint="name the file: /folder/file")
    with _container(docker, deadline, container) as (_, found):
        packed, content = pack(Path(outside), name, deadline)
        with packed:
            try:
                found.put_archive(folder or "/", packed)
            except NotFound:
                raise NotApplicable(f"there is no folder {folder} in {container}") from None
    return _copied(container, inside, outside, content)


def _copied(container: str, inside: str, outside: str, content: Content) -> Copied:
    return Copied(
        container=container,
        inside=inside,
        outside=outside,
        bytes=content.size,
        sha256=content.sha256,
        source=f"{container}:{inside}",
    )


# --- breaking --------------------------------------------------------------------------------------------------------


@fault("docker.disconnect", undone_by="docker.connect")
def disconnect(docker: Docker, deadline: Deadline, container: str, network: str) -> Striking[Linked]:
    """Cut a container off from a network, as a broken cable would. Undone by connecting it, under its old names.

    Blast radius: all traffic of that container over that network, also to those who ask for it by name.

    Args:
        container: Its name.
        network: Name of the network.

    Raises:
        Refused: It is not connected to that network.
    """
    with _container(docker, deadline, container) as (engine, found):
        link = found.attrs["NetworkSettings"]["Networks"].get(network)
        if link is None:
            raise Refused(f"{container} is not on the network {network}", hint=f"it is on {_networks(found.attrs)}")
        aliases = [alias for alias in link.get("Aliases") or [] if not (found.id or "").startswith(alias)]
        address = (link.get("IPAMConfig") or {}).get("IPv4Address", "")
        args = {"container": container, "network": network, "aliases": aliases, "address": address}
        yield Undo(action="docker.connect", args=args, says=f"connect {container} to {network}")
        engine.networks.get(link["NetworkID"]).disconnect(found, force=True)
        found.reload()
        return _linked(container, network, found, changed=True)


@action("docker.connect", effect=Effect.CHANGES)
def connect(
    docker: Docker,
    deadline: Deadline,
    container: str,
    network: str,
    aliases: list[str] = [],
    address: str = "",
) -> Linked:
    """Connect a container to a network; nothing happens when it is connected already.

    Args:
        container: Its name.
        network: Name of the network.
        aliases: Names by which others on the network find it.
        address: IPv4 address that it shall have there; any when empty.
    """
    from docker.errors import NotFound

    with _container(docker, deadline, container) as (engine, found):
        if network in found.attrs["NetworkSettings"]["Networks"]:
            return _linked(container, network, found, changed=False)
        try:
            engine.networks.get(network).connect(found, aliases=aliases or None, ipv4_address=address or None)
        except NotFound:
            raise NotApplicable(f"there is no network {network}", hint="`docker network ls` lists them") from None
        found.reload()
        return _linked(container, network, found, changed=True)


@fault("docker.limit", undone_by="docker.set_limits")
def limit(
    docker: Docker, deadline: Deadline, container: str, memory: Size | None = None, cpus: float | None = None
) -> Striking[Limited]:
    """Narrow what a container may use of memory and processor. Undone by setting the old limits again.

    Blast radius: the container; with too little memory the kernel ends its processes.

    Args:
        container: Its name.
        memory: Bytes that it may use, swap included.
        cpus: Cores that it may use, such as 0.5.

    Raises:
        Refused: Nothing is limited, or the engine does not take the limit.
    """
    if memory is None and cpus is None:
        raise Refused("nothing is limited", hint="give `memory`, `cpus` or both")
    with _container(docker, deadline, container) as (engine, found):
        before = found.attrs["HostConfig"]
        args: dict[str, Any] = {"container": container}
        if memory is not None:
            args |= {"memory": before["Memory"], "swap": before["MemorySwap"]}
        if cpus is not None:
            args["cpus"] = _cores(before)
        yield Undo(action="docker.set_limits", args=args, says=f"restore the limits of {container}")
        _limit(engine, found, memory, memory, cpus)
        return _limited(container, found)


@action("docker.set_limits", effect=Effect.CHANGES)
def set_limits(
    docker: Docker,
    deadline: Deadline,
    container: str,
    memory: int | None = None,
    swap: int = 0,
    cpus: float | None = None,
) -> Limited:
    """Set what a container may use of memory and processor; what is not given stays as it is.

    An engine cannot take a limit of memory away from a container that lives, nor one of cores that it was made with;
    no limit becomes all that the machine has.

    Args:
        container: Its name.
        memory: Bytes; 0 is no limit.
        swap: Bytes of memory and swap together, set with `memory`; 0 is no limit.
        cpus: Cores; 0 is no limit.
    """
    with _container(docker, deadline, container) as (engine, found):
        _limit(engine, found, memory, swap, cpus)
        return _limited(container, found)


# --- what they share -------------------------------------------------------------------------------------------------


@contextmanager
def _container(docker: Docker, deadline: Deadline, name: str) -> Iterator[tuple[DockerClient, Container]]:
    from docker.errors import NotFound

    with docker.engine(deadline) as engine:
        try:
            found = engine.containers.get(name)
        except NotFound:
            raise NotApplicable(f"there is no container {name}", hint="`docker ps -a` lists them") from None
        yield engine, found


def _listed(entry: dict[str, Any]) -> Listed:
    status = entry["Status"]
    health = next((word for word in ("unhealthy", "healthy", "starting") if f"{word})" in status), "")
    return Listed(name=entry["Names"][0].lstrip("/"), image=entry["Image"], state=entry["State"], health=health)


def _inspected(name: str, attrs: dict[str, Any]) -> Inspected:
    told, limits = attrs["State"], attrs["HostConfig"]
    started = time_of(told["StartedAt"])
    ran = started is not None and started.year > 1  # the engine's "never" is the year 1
    alive = told["Status"] in {"running", "paused"}
    return Inspected(
        container=name,
        image=attrs["Config"]["Image"],
        state=told["Status"],
        health=told.get("Health", {}).get("Status", ""),
        pid=told["Pid"] or None,
        uptime_s=round(time.time() - started.timestamp(), 3) if alive and started else None,
        started_at=told["StartedAt"] if ran else "",
        restarts=attrs["RestartCount"],
        exit_code=None if alive or not ran else told["ExitCode"],
        oom_killed=told["OOMKilled"],
        memory_limit=limits["Memory"],
        cpu_limit=_cores(limits),
        networks=sorted(attrs["NetworkSettings"]["Networks"]),
        source=name,
    )


def _networks(attrs: dict[str, Any]) -> str:
    return ", ".join(sorted(attrs["NetworkSettings"]["Networks"])) or "none"


def _linked(name: str, network: str, found: Container, *, changed: bool) -> Linked:
    networks = sorted(found.attrs["NetworkSettings"]["Networks"])
    return Linked(container=name, network=network, changed=changed, networks=networks, source=name)


def _limit(engine: DockerClient, found: Container, memory: int | None, swap: int | None, cpus: float | None) -> None:
    """Set limits by the engine's own call: docker-py's `update` does not know NanoCpus.

    A limit of 0 would be left as it is, so none becomes all of the machine. A container without NanoCpus gets a quota
    instead, because that can be taken away again.
    """
    wanted: dict[str, int] = {}
    host, has = engine.info(), found.attrs["HostConfig"]
    if memory is not None:
        wanted |= {"Memory": memory or host["MemTotal"], "MemorySwap": swap or 2 * host["MemTotal"]}
    if cpus is not None and has["NanoCpus"]:
        wanted["NanoCpus"] = round((cpus or host["NCPU"]) * NANO)
    elif cpus is not None:
        period = has["CpuPeriod"] or PERIOD_US
        wanted |= {"CpuPeriod": period, "CpuQuota": round(cpus * period) or -1}
    url = f"{engine.api.base_url}/v{engine.api.api_version}/containers/{found.id}/update"
    answer = engine.api.post(url, json=wanted, timeout=engine.api.timeout)
    if not answer.ok:
        raise Refused(f"the engine rejects these limits: {answer.json().get('message')}", hint=f"asked {wanted}")
    found.reload()


def _limited(name: str, found: Container) -> Limited:
    limits = found.attrs["HostConfig"]
    memory = max(0, limits["Memory"])
    return Limited(container=name, memory=memory, cpus=_cores(limits), source=name)


def _cores(limits: dict[str, Any]) -> float:
    """How many cores a container may use by the engine's description of its host's part; 0 is no limit."""
    if limits["NanoCpus"]:
        return float(limits["NanoCpus"] / NANO)
    return float(max(0, limits["CpuQuota"]) / (limits["CpuPeriod"] or PERIOD_US))
