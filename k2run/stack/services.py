"""The services of a stack, as actions ask for them; strangers on their ports; containers that Compose makes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self, cast
from urllib.parse import urlsplit

from k2run.actions.connection import Connection, Site
from k2run.errors import NotApplicable, StackUnavailable, TimedOut
from k2run.language.problems import did_you_mean
from k2run.stack.backend import State
from k2run.stack.model import RunBy, Service
from k2run.stack.process_group import MARK, Holder, await_end, busy_port, holder_of, sockets_seen, start_apart
from k2run.stack.stack import Stack  # noqa: TC001 - msgspec reads the types of fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from k2run.actions.deadline import Deadline
    from k2run.stack.backend import Backend
    from k2run.stack.process_group import Socket


UNSEEN = Holder(pid=0, group=0, says="a process that cannot be seen (another user's?)", environment={})
LAST_LINES = 12
_COMPOSE_GRACE_S = 5.0
COMPOSE = (("docker", "compose"), ("docker-compose",))
"""How Compose v2 is called: as a plugin of the client, or as a program of its own."""


class Services(Connection, frozen=True, kw_only=True, key="services"):
    """All services of the stack that a run works on."""

    needs_argument: ClassVar[str] = "service"

    stack: Stack

    @classmethod
    def of(cls, site: Site) -> Self:
        """The services of a stack; they are its own, not a setting."""
        return cls(stack=cast("Stack", site))

    def find(self, name: str) -> Service:
        """The service of that name.

        Raises:
            NotApplicable: This stack has none (the hint has the nearest name), or this machine lacks its program.
        """
        services = self.stack.services
        if name in services:
            absent = self.stack.absent(name)
            if absent:
                raise NotApplicable(absent, hint=f"install it where `{name}` is to be part of this stack")
            return services[name]
        near = did_you_mean(name, services)  # in the message: what does not apply is shown without its hint
        raise NotApplicable(
            f"the stack {self.stack.name!r} has no service {name!r}{near and f'; {near}'}",
            hint=f"it has {', '.join(services)}" if services else "it has no services",
        )

    def find_with_url(self, name: str, form: str = "url:") -> Service:
        """The service of that name, which says at which URL it is.

        Args:
            name: Its name.
            form: What its entry in the stack file would say, for the hint.

        Raises:
            NotApplicable: This stack has none, or it has no URL.
        """
        found = self.find(name)
        if not found.url:
            raise NotApplicable(f"the service {name!r} has no url in this stack", hint=f"add `{form}` to it")
        return found

    def all(self) -> list[Service]:
        """Every service, in the order of the stack file."""
        return list(self.stack.services.values())

    def backend(self, name: str) -> Backend:
        """What runs the service of that name.

        Raises:
            NotApplicable: This stack has none, or this machine lacks its program.
        """
        return backend_of(self.stack, self.find(name))


def backend_of(stack: Stack, service: Service) -> Backend:
    """What runs a service."""
    match service.run:
        case RunBy.PROCESS:
            from k2run.stack.processes import ProcessBackend

            return ProcessBackend(service, stack.state)
        case RunBy.DOCKER:
            from k2run.stack.containers import ContainerBackend, Docker

            return ContainerBackend(service, Docker(**(stack.settings("docker") or {})))
        case RunBy.EXTERNAL | RunBy.SSH:
            from k2run.stack.commands import CommandBackend

            ssh = stack.settings("ssh") if service.run is RunBy.SSH else None
            return CommandBackend(service, ssh or {}, stack.redact)


def strangers_on(ports: Iterable[int], stack: Stack) -> dict[int, Holder]:
    """Who listens on ports of a stack's services and is no process of that stack, by port.

    The machine's sockets are read once for all ports: on a busy machine, reading them is what takes long. A holder
    that cannot be seen is a stranger only while no service of the stack that runs has the port.
    """
    busy = [port for port in dict.fromkeys(ports) if busy_port(port)]
    if not busy:
        return {}
    running = dict(_running(stack))
    leaders = set(running.values())
    sockets = [one for one in sockets_seen(leaders) if one.port in busy]
    kept = {one.port for one in sockets if one.listens and one.pid and _descends(one.pid, leaders)}
    expected = {port for name in running for port in stack.services[name].ports}
    found = {}
    for port in busy:
        if port in kept:
            continue
        holder = holder_of(port, sockets)
        if holder is None and port not in expected:
            holder = _occupied(port, sockets)
        if holder is not None and not holder.environment.get(MARK, "").startswith(f"{stack.state}:"):
            found[port] = holder
    return found


def stranger_at(address: str, stack: Stack) -> str:
    """Who answers at an address of this machine in the place of the stack's service; empty when no process does.

    Args:
        address: `host:port`, or a URL.
        stack: Only ports that a process of this stack should have are checked.
    """
    port = urlsplit(address if "://" in address else f"//{address}").port
    if port is None or port not in _own_ports(stack):
        return ""
    holder = strangers_on([port], stack).get(port)
    return f"another process answers on port {port}: {holder.says}" if holder is not None else ""


def _descends(pid: int, leaders: set[int]) -> bool:
    """Whether a process is one of these, a descendant, or in the process group of one."""
    import psutil

    with suppress(psutil.Error, OSError):
        if not leaders.isdisjoint({pid, os.getpgid(pid)}):
            return True
        return any(parent.pid in leaders for parent in psutil.Process(pid).parents())
    return False


def _occupied(port: int, sockets: list[Socket]) -> Holder | None:
    """Who keeps a port busy without being seen to listen: an unseen process, or a connection that goes out from it."""
    found = [one for one in sockets if one.port == port]
    if any(one.listens for one in found):
        return UNSEEN
    pid = next((one.pid for one in found if one.pid), None)
    if pid is None:
        return None
    return Holder(pid=pid, group=0, says=f"pid {pid}, by a connection that goes out from it", environment={})


def _own_ports(stack: Stack) -> set[int]:
    return {port for service in stack.services.values() if service.run is RunBy.PROCESS for port in service.ports}


def _running(stack: Stack) -> Iterator[tuple[str, int]]:
    """The stack's services that run as processes, each with its process group."""
    for name, service in stack.services.items():
        if service.run is RunBy.PROCESS and (pid := backend_of(stack, service).status().pid):
            yield name, pid


def create_missing(stack: Stack, services: list[Service], deadline: Deadline) -> list[str]:
    """Bring the compose project up when containers do not exist yet; images are pulled and built as needed.

    Returns:
        The services whose containers were made (and started).

    Raises:
        StackUnavailable: Compose is not installed, or could not bring the project up.
    """
    if stack.compose is None:
        return []
    missing = _missing(stack, services)
    if missing:
        said = _up(stack, deadline)
        still = _missing(stack, services)
        if still:
            raise StackUnavailable(f"{stack.compose} made no container for {', '.join(still)}{said}")
        # Compose may end well although a container could not be started, because its port is taken for one.
        idle = [service.name for service in services if service.name in missing and not _runs(stack, service)]
        if idle:
            raise StackUnavailable(
                f"{stack.compose} started no {', '.join(idle)}{said}", hint="is a port taken? see also `k2run logs`"
            )
    return missing


def _runs(stack: Stack, service: Service) -> bool:
    return backend_of(stack, service).status().state in {State.RUNNING, State.UNHEALTHY}


def _missing(stack: Stack, services: list[Service]) -> list[str]:
    """The services whose containers do not exist."""
    contained = [service for service in services if service.run is RunBy.DOCKER]
    return [service.name for service in contained if backend_of(stack, service).status().state is State.ABSENT]


def _up(stack: Stack, deadline: Deadline) -> str:
    """Bring the project up; gives Compose's last words, set apart below a message."""
    command = [*_program(), "--file", str(stack.compose), "up", "--detach", "--build"]
    with tempfile.TemporaryFile() as out:
        child = start_apart(command, env=_environment(stack), stdout=subprocess.DEVNULL, stderr=out)
        try:
            code = await_end(child, deadline, _COMPOSE_GRACE_S)
        except TimedOut as error:
            raise StackUnavailable(
                f"{' '.join(command)} was not done within {deadline.seconds:g}s",
                hint="the first time images are pulled and built: do that once by hand, or give --timeout",
            ) from error
        out.seek(0)
        lines = out.read().decode(errors="replace").splitlines()
    said = "".join(f"\n  | {line}" for line in lines[-LAST_LINES:])
    if code:
        raise StackUnavailable(f"{' '.join(command)} failed{said}", hint="look at what Compose says")
    return said


def _environment(stack: Stack) -> dict[str, str]:
    """Compose speaks to the same engine as k2run does."""
    url = (stack.settings("docker") or {}).get("url", "")
    return {**os.environ, "DOCKER_HOST": url} if url else dict(os.environ)


def _program() -> tuple[str, ...]:
    for words in COMPOSE:
        # Also beside this Python: a package of its environment puts it there, and that may not be on the path.
        found = shutil.which(words[0]) or shutil.which(words[0], path=str(Path(sys.executable).parent))
        if found is None:
            continue
        asked = subprocess.run(
            [found, *words[1:], "version"], capture_output=True, check=False, stdin=subprocess.DEVNULL
        )
        if asked.returncode == 0:
            return (found, *words[1:])
    raise StackUnavailable(
        "Docker Compose v2 is not installed", hint="install the plugin `docker compose`, or docker-compose"
    )
