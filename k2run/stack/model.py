"""What a stack file says: services and how each is run."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Struct

from k2run.language.quantities import Duration


class RunBy(StrEnum):
    """How a service is run, and so how it can be started, stopped and broken."""

    PROCESS = "process"
    DOCKER = "docker"
    EXTERNAL = "external"  # checked over the network; started and stopped where its own commands say how
    SSH = "ssh"  # the same, with its commands on another host


OUTSIDE = frozenset({RunBy.EXTERNAL, RunBy.SSH})
"""Services that k2run does not run itself."""


class StopSignal(StrEnum):
    """The signal that asks a process to end."""

    TERM = "SIGTERM"
    INT = "SIGINT"
    QUIT = "SIGQUIT"


class Ready(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a service is seen to be ready: a TCP port that answers, or an HTTP answer with what must be in it.

    Attributes:
        tcp: `host:port`.
        postgres: `host:port` of a PostgreSQL, which must take sessions: not while it starts, recovers or shuts down.
        http: A URL that must answer `status`.
        status: The HTTP status that it must answer with.
        body: Values that the JSON body must have, such as `{status: healthy}`.
        headers: Sent with the request, beside those of the service.
        within: How long it may take after a start.
    """

    tcp: str = ""
    postgres: str = ""
    http: str = ""
    status: int = 200
    body: dict[str, Any] = {}
    headers: dict[str, str] = {}
    within: Duration = Duration(30)


class Show(StrEnum):
    """What a chart shows of a metric: its value, how fast it grows, or a percentile of a histogram."""

    VALUE = "value"
    RATE = "rate"
    P50 = "p50"
    P95 = "p95"
    P99 = "p99"


class Chart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric of a service that is worth a chart on the stack's page.

    Attributes:
        title: What people call it.
        service: The service whose metrics page has it.
        metric: Its name there; several series of that name are added up, of a level the highest counts.
        show: `value`, `rate` (per second, of a counter), or `p50`, `p95`, `p99` of a histogram, in its own unit.
        unit: What stands behind the figures, such as `messages`; a histogram of `_seconds` is shown in ms.
        levels: The names of the values 0, 1, 2, … of a metric that is a level.
        labels: Labels that its series must have; others may be there as well.
    """

    title: str
    service: str
    metric: str
    show: Show = Show.VALUE
    unit: str = ""
    levels: list[str] = []
    labels: dict[str, str] = {}


class Service(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One part of the stack that k2run checks and, when it runs it, can inject faults into.

    Attributes:
        run: Who runs it.
        command: For a process: the program and its arguments.
        program: For a process: a program that must be on PATH; without it the service is "not applicable".
        package: For a process: a Python package that brings its program; without it the service is "not applicable".
        stop_signal: For a process: the signal that asks it to end; SIGTERM when missing.
        cwd: For a process: its working directory; the state folder of the stack when missing.
        env: For a process: environment variables beside those of k2run itself.
        container: For docker: the container's name.
        host: For ssh: where it runs, a name of `connections.ssh.hosts` or an address.
        start: For external and ssh: the command that starts it and returns.
        stop: For external and ssh: the command that stops it.
        status: For external and ssh: the command that exits 0 while it runs.
        logs: For external and ssh: the command that prints its log, the newest line last, and ends.
        ports: The TCP ports it listens on; a taken one is an error that names the holder.
        url: Its base URL, for `http` actions.
        page: The address that people open in a browser, for documents; none when missing.
        metrics: The URL of its Prometheus metrics.
        headers: Sent with every request to it (an API key).
        title: What people call it.
        elsewhere: Address of one that is run elsewhere; unless it is empty, k2run only reaches that one.
        ready: How it is seen to be ready; by its first port when missing.
        needs: Services that are started with it.
    """

    name: str = ""
    run: RunBy = RunBy.EXTERNAL
    title: str = ""
    command: list[str] = []
    program: str = ""
    package: str = ""
    stop_signal: StopSignal = StopSignal.TERM
    cwd: str = ""
    env: dict[str, str] = {}
    container: str = ""
    host: str = ""
    start: list[str] = []
    stop: list[str] = []
    status: list[str] = []
    logs: list[str] = []
    ports: list[int] = []
    url: str = ""
    page: str = ""
    metrics: str = ""
    headers: dict[str, str] = {}
    ready: Ready | None = None
    needs: list[str] = []
    elsewhere: str = ""

    def facts(self) -> dict[str, Any]:
        """What expressions see of it as `stack.services.NAME`."""
        shown = ("name", "title", "url", "metrics", "ports", "container", "program")
        return {"run": str(self.run), **{field: getattr(self, field) for field in shown}}


def missing_program(service: Service) -> str:
    """Why a process cannot be run on this machine; empty when it can."""
    if service.run is not RunBy.PROCESS:
        return ""
    if service.package and not _is_installed(service.package):
        return f"no wheel of {service.package} is installed here"
    if not service.program:
        return ""
    from shutil import which

    found = which(service.program, path=service.env.get("PATH"))
    return "" if found else f"{service.program} is not installed"


def _is_installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return bool(distribution(package))
    except PackageNotFoundError:
        return False
