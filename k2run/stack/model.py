"""What a stack file says: services, how each is run, and what plays which role here."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import Struct

from k2run.errors import Inapplicable
from k2run.language.problems import Problem, did_you_mean
from k2run.language.quantities import Duration, decode_quantity, quantified
from k2run.stack.templates import LazyValues

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping

    from k2run.language.document import Document, Trail

PREFIX = "roles."
"""Before the name of a role where services are named too: `requires: [broker, roles.level]`."""

_METHODS = frozenset({"get", "items", "keys", "values"})


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

    @property
    def reached_at(self) -> set[int]:
        """The TCP ports that it listens on, and those by which its URLs and its probe reach it."""
        probe = self.ready or Ready()
        found = re.findall(r":(\d+)", f"{self.url} {self.metrics} {probe.http} {probe.tcp} {probe.postgres}")
        return {*self.ports, *map(int, found)}

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


class Form(StrEnum):
    """How the value of a message is written."""

    JSON = "json"
    AVRO = "avro"
    RAW = "raw"


class Metric(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure among the metrics of a service.

    Attributes:
        service: The service that has it at its `metrics` URL.
        metric: Its name.
        labels: The labels of the series that counts.
    """

    service: str
    metric: str
    labels: dict[str, str] = {}


class Endpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A path of a service.

    Attributes:
        service: The service, by its `url`.
        path: The path below it.
    """

    service: str
    path: str


class Probe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a probe message is made: a recovery writes one to prove that data flows from end to end.

    Attributes:
        template: The template that makes it up.
        key: Its key, by which it is found again.
    """

    template: str
    key: str


class Role(NamedTuple):
    """A role that built-in runbooks ask for.

    Attributes:
        kind: The type of its value.
        help: What plays it.
    """

    kind: Any
    help: str


ROLES: dict[str, Role] = {
    "topic": Role(str, "Topic with the live messages."),
    "group": Role(str, "Consumer group whose lag counts."),
    "table": Role(str, "Table that the consumer fills."),
    "format": Role(Form, "How the values of the topic's messages are written."),
    "subject": Role(str, "Subject of their schema in the schema registry."),
    "fresh": Role(Duration, "Age of the newest row up to which all is well."),
    "health": Role(Endpoint, "Where a JSON body tells by `status: healthy` or `unhealthy` how the platform is."),
    "probe": Role(Probe, "How a probe message is made; declaring it allows recoveries to write one."),
    "level": Role(Metric, "Level of degradation; 0 is normal."),
    "level_seconds": Role(Metric, "Seconds spent at each level, by the label `level`."),
    "produced": Role(Metric, "Messages that the producer has written so far."),
    "shed": Role(Metric, "Messages shed so far."),
    "rows_written": Role(Metric, "Rows written to the table so far."),
    "committed_at": Role(Metric, "Unix time of the last commit to the table."),
    "awaits_schema": Role(Metric, "1 while the consumer waits for a schema that no registry gives it, else 0."),
    "dead_letters": Role(Metric, "Messages set aside because they could not be read."),
}
"""The roles of built-in runbooks. A stack may declare more, for runbooks of its own."""


class Roles(LazyValues):
    """The roles that a stack declares, filled in when they are asked for.

    Args:
        stack: Name of the stack.
        declared: What its file says.
        read: Fills in the role of a name.
    """

    __slots__ = ("_stack",)

    def __init__(self, stack: str, declared: Mapping[str, Any], read: Callable[[str], Any]) -> None:
        super().__init__(declared, read)
        self._stack = stack

    def __getitem__(self, name: str) -> Any:
        if name in self or name in _METHODS:
            return super().__getitem__(name)
        raise Inapplicable(self.missing(name))

    def get(self, name: str, default: Any = None) -> Any:
        """The role of that name, or something else where none is declared."""
        return self._make(name) if name in self else default

    def __repr__(self) -> str:
        return f"Roles({', '.join(self)})"

    def missing(self, name: str) -> str:
        """Why a runbook cannot ask for a role here; empty when it can."""
        if name in self:
            return ""
        near = "" if name in ROLES else did_you_mean(name, self)
        return f"cannot say: the stack {self._stack!r} declares no role {name!r}{near and f'; {near}'}"


def role_of(name: str, value: Any) -> Any:
    """A declared role as a value of its type.

    Raises:
        msgspec.ValidationError: It does not fit.
    """
    if name not in ROLES:
        return quantified(value)
    return msgspec.convert(value, ROLES[name].kind, dec_hook=decode_quantity, strict=False)


def role_problems(document: Document, declared: Any, services: Container[str]) -> Iterator[Problem]:
    """What is wrong with `roles:`, before anything in it is filled in."""
    if not isinstance(declared, dict):
        yield document.problem("K203", "`roles` is a mapping of names to what plays them", ("roles",))
        return
    for name, value in declared.items():
        trail: Trail = ("roles", name)
        if not str(name).isidentifier() or name in _METHODS:
            yield document.problem("K203", f"`{name}` cannot be a name in `{{{{ }}}}`", trail, key=True)
        elif value is None or value in ({}, []):
            hint = "leave the role out where nothing plays it: what asks for it is then not applicable"
            yield document.problem("K202", f"nothing plays the role `{name}`", trail, key=True, hint=hint)
        elif isinstance(value, dict):
            yield from _service(document, trail, value, services)


def _service(document: Document, trail: Trail, value: dict[str, Any], services: Any) -> Iterator[Problem]:
    named = value.get("service")
    if isinstance(named, str) and "{{" not in named and named not in services:
        hint = did_you_mean(named, services)
        yield document.problem("K501", f"there is no service {named!r}", (*trail, "service"), hint=hint)
