"""Services that are containers of a Docker engine."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from k2run.actions.connection import Connection
from k2run.errors import NotApplicable, Refused, TimedOut, Unknown, Unreachable
from k2run.stack.backend import LogLine, ServiceStatus, State, Usage, time_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docker import DockerClient
    from docker.models.containers import Container

    from k2run.actions.deadline import Deadline
    from k2run.stack.model import Service

CALL_LIMIT_S = 15.0
"""A call to the engine that has no deadline of its own ends after this."""
FREEZES = 5
"""How often a container is tried to be paused."""
_POLL_S = 0.05
_COMPOSE_NAME = "com.docker.compose.service"
_STATES = {
    "running": State.RUNNING,
    "paused": State.PAUSED,
    "restarting": State.UNHEALTHY,
    "dead": State.STOPPED,
    "created": State.STOPPED,
    "exited": State.STOPPED,
    "removing": State.STOPPED,
}


class Docker(Connection, frozen=True, kw_only=True, key="docker"):
    """A Docker engine.

    Attributes:
        url: Where it listens, `unix:///var/run/docker.sock` or `tcp://host:2375`; as DOCKER_HOST says when empty.
    """

    url: str = ""

    @contextmanager
    def engine(self, deadline: Deadline | None = None) -> Iterator[DockerClient]:
        """A client whose calls end with the deadline; what it raises is told in k2run's words.

        Raises:
            Unreachable: No engine answers.
            Refused: The engine said no.
            TimedOut: The deadline passed.
        """
        from docker.errors import APIError, DockerException
        from requests.exceptions import ConnectionError as NoConnection
        from requests.exceptions import Timeout

        limit = deadline.at_most(CALL_LIMIT_S) if deadline else CALL_LIMIT_S
        where = self.url or "the environment's DOCKER_HOST or its default socket"
        try:
            yield self._client(limit)
        except APIError as error:
            raise Refused(f"the Docker engine refused: {error.explanation or error}", hint=f"asked {where}") from error
        except Timeout as error:
            raise TimedOut(f"the Docker engine did not answer within {limit:.3g}s", hint=f"asked {where}") from error
        except (DockerException, NoConnection) as error:
            raise Unreachable(
                f"no Docker engine answers: {_cause(error)}",
                hint=f"checked {where}; set `connections: {{docker: {{url: …}}}}` or DOCKER_HOST",
            ) from error

    def _client(self, limit: float) -> DockerClient:
        """One client per thread and engine: its connections are not made to be shared."""
        import docker

        clients: dict[str, DockerClient] = _local.__dict__.setdefault("clients", {})
        if self.url not in clients:
            clients[self.url] = (
                docker.DockerClient(base_url=self.url, timeout=limit) if self.url else docker.from_env(timeout=limit)  # type: ignore[arg-type]
            )
        client = clients[self.url]
        client.api.timeout = limit  # type: ignore[assignment] # requests takes fractions
        return client


_local = threading.local()


class ContainerBackend:
    """Runs one service as a container that exists already (`docker compose up` makes it)."""

    def __init__(self, service: Service, docker: Docker) -> None:
        self._service = service
        self._docker = docker

    # --- looking ----------------------------------------------------------------------------------

    def status(self) -> ServiceStatus:
        """What the container is doing."""
        try:
            with self._container(None) as container:
                return _status(self._service.name, container.attrs)
        except NotApplicable as error:
            return ServiceStatus(service=self._service.name, state=State.ABSENT, detail=error.message)

    def log(self, *, lines: int, since: datetime | None, deadline: Deadline) -> list[LogLine]:
        """The newest lines of its log; the engine knows when each was written."""
        with self._container(deadline) as container:
            raw = container.logs(timestamps=True, tail=lines if since is None else "all", since=since)
        texts = raw.decode(errors="replace").splitlines()
        told = [LogLine(text.partition(" ")[2], time_of(text)) for text in texts]
        if since is not None:  # the engine takes whole seconds only
            told = [line for line in told if line.at is not None and line.at >= since]
        return told[-lines:] if lines > 0 else []

    def last_words(self, lines: int = 12) -> str:
        """The end of its log."""
        with self._container(None) as container:
            raw: bytes = container.logs(tail=lines)
        return raw.decode(errors="replace").rstrip()

    def usage(self, over_s: float, deadline: Deadline) -> Usage:
        """What the container uses; between two samples of the engine, which are about a second apart at least."""
        with self._container(deadline) as container:
            if container.status != "running":
                raise Refused(f"{self._service.name} is not running", hint=f"the container is {container.status}")
            first = container.stats(stream=False, one_shot=True)
            deadline.sleep(over_s)
            second = container.stats(stream=False, one_shot=True)
        return _usage(self._service.name, first, second)

    # --- doing ------------------------------------------------------------------------------------

    def start(self, deadline: Deadline) -> bool:
        """Start the container unless it runs; resume a paused one, reconnect one that was cut off."""
        with self._container(deadline) as container:
            joined = _join(container)
            if container.status == "paused":
                container.unpause()
                return True
            if container.status == "running":
                return joined
            container.start()
            return True

    def stop(self, deadline: Deadline) -> bool:
        """SIGTERM (or the container's own stop signal), and SIGKILL a second before the deadline."""
        with self._container(deadline) as container:
            if container.status not in {"running", "paused", "restarting"}:
                return False
            if container.status == "paused":
                container.unpause()
            container.stop(timeout=max(0, int(deadline.at_most(CALL_LIMIT_S) - 1)))
            return True

    def kill(self, deadline: Deadline) -> None:
        """SIGKILL to its processes.

        Raises:
            Refused: It does not run.
        """
        with self._container(deadline) as container:
            if container.status not in {"running", "paused"}:
                raise Refused(f"{self._service.name} is not running", hint=f"the container is {container.status}")
            container.kill()
            self._wait_for({"exited", "dead", "restarting"}, container, deadline)

    def pause(self, deadline: Deadline) -> None:
        """Freeze its processes.

        Raises:
            Refused: It does not run, or is paused already.
        """
        with self._container(deadline) as container:
            if container.status != "running":
                raise Refused(f"{self._service.name} cannot be paused", hint=f"the container is {container.status}")
            _freeze(container, deadline)

    def resume(self, deadline: Deadline) -> bool:
        """Let its processes go on."""
        with self._container(deadline) as container:
            if container.status != "paused":
                return False
            container.unpause()
            return True

    @contextmanager
    def _container(self, deadline: Deadline | None) -> Iterator[Container]:
        from docker.errors import NotFound

        name = self._service.container
        with self._docker.engine(deadline) as engine:
            try:
                container = engine.containers.get(name)
            except NotFound:
                raise NotApplicable(
                    f"there is no container {name}", hint=f"make it first (`docker compose up -d {self._service.name}`)"
                ) from None
            yield container

    @staticmethod
    def _wait_for(states: set[str], container: Container, deadline: Deadline) -> None:
        while container.status not in states:
            deadline.sleep(_POLL_S)
            container.reload()


def _cut_off(attrs: dict[str, Any]) -> str:
    """The network for which a container was made, when it is on no network at all; else ""."""
    made_for: str = attrs["HostConfig"]["NetworkMode"]
    if attrs["NetworkSettings"]["Networks"] or made_for.startswith("container:"):
        return ""
    return "bridge" if made_for == "default" else made_for


def _join(container: Container) -> bool:
    """Connect a container that is on no network to its own again, under the names that Compose gives it there."""
    network = _cut_off(container.attrs)
    if not network or container.client is None:
        return False
    alias = container.labels.get(_COMPOSE_NAME)
    aliases = [container.name, alias] if alias else None
    container.client.networks.get(network).connect(container, aliases=aliases)
    return True


def _freeze(container: Container, deadline: Deadline) -> None:
    """Pause a container; on a busy machine the kernel may catch its processes only at the second try."""
    from docker.errors import APIError

    for attempt in range(1, FREEZES + 1):
        try:
            container.pause()
        except APIError as error:
            if attempt == FREEZES or "unable to freeze" not in str(error):
                raise
            deadline.sleep(_POLL_S)
        else:
            return


def _status(name: str, attrs: dict[str, Any]) -> ServiceStatus:
    told = attrs["State"]
    state = _STATES.get(told["Status"], State.UNHEALTHY)
    health = told.get("Health", {}).get("Status", "")
    cut_off = _cut_off(attrs)
    if state is State.RUNNING and (health == "unhealthy" or cut_off):
        state = State.UNHEALTHY
    started = _moment(told.get("StartedAt", ""))
    runs = state in {State.RUNNING, State.PAUSED, State.UNHEALTHY}
    return ServiceStatus(
        service=name,
        state=state,
        pid=told.get("Pid") or None,
        started_at=started,
        uptime_s=round(max(0.0, time.time() - started.timestamp()), 3) if runs and started else None,
        restarts=attrs.get("RestartCount"),
        detail=_detail(told, health, cut_off),
        ended_at=None if runs else _moment(told.get("FinishedAt", "")),
    )


def _moment(told: str) -> datetime | None:
    """A time that the engine tells; None for its "never", which is in the year 1."""
    at = time_of(told)
    return None if at is None or at.year == 1 else at


def _detail(told: dict[str, Any], health: str, cut_off: str) -> str:
    if told.get("OOMKilled"):
        return "ended: out of memory"
    if told["Status"] in {"exited", "dead"}:
        return f"ended with exit code {told.get('ExitCode')}"
    if told["Status"] == "restarting":
        return f"restarts again and again; last exit code {told.get('ExitCode')}"
    if cut_off:
        return f"cut off from its network {cut_off}"
    return f"health check: {health}" if health else ""


def _usage(name: str, first: Any, second: Any) -> Usage:
    try:
        memory = second["memory_stats"]
        details = memory["stats"]
        cache = details.get("total_inactive_file", details.get("inactive_file", 0))
        elapsed = _read_at(second) - _read_at(first)
        cpu = second["cpu_stats"]["cpu_usage"]["total_usage"] - first["cpu_stats"]["cpu_usage"]["total_usage"]
        return Usage(
            cpu_percent=round(100 * cpu / 1e9 / elapsed, 1),
            rss_bytes=max(0, memory["usage"] - cache),
            processes=second["pids_stats"]["current"],
        )
    except (KeyError, ZeroDivisionError) as error:
        raise Unknown(f"the engine does not know what {name} uses", hint=f"its answer lacks {error}") from error


def _read_at(sample: dict[str, Any]) -> float:
    at = time_of(sample["read"])
    return (at or datetime.now(UTC)).timestamp()


def _cause(error: Exception) -> str:
    """The innermost reason: requests wraps it four times."""
    inner: BaseException = error
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__ or inner
    return (getattr(inner, "strerror", None) or str(inner) or type(inner).__name__).strip()
