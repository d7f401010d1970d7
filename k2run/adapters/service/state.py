"""What a service of the stack is doing: its state, whether it is ready, its log, and what it uses."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar

from k2run.actions.action import Result, action, beginning
from k2run.actions.deadline import Deadline
from k2run.errors import K2runError, NotApplicable, Refused, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Duration, Size
from k2run.stack.backend import ServiceStatus, State, readiness
from k2run.stack.backend import probe as look_at
from k2run.stack.lifecycle import status_of
from k2run.stack.model import OUTSIDE
from k2run.stack.services import Services, stranger_at

if TYPE_CHECKING:
    from k2run.stack.backend import LogLine, Probe

SHOWN_LINES = 20
SHOWN_CHARACTERS = 1000
ALL_LINES = 1_000_000
NOW = Duration(0)
A_SECOND = Duration(1)
_POLL_S = 0.05
_LOOK_S = 2.0
_RUNS = {State.RUNNING, State.UNHEALTHY}


class Status(Result, frozen=True, kw_only=True):
    """What a service is doing.

    Attributes:
        state: running, paused, stopped, absent (there is none, or it cannot be run here) or unhealthy.
        running: Whether it runs, healthy or not.
        pid: Its process, when it runs.
        uptime_s: Seconds since it was started, when it runs.
        started_at: When it was started last, UTC, ISO 8601; empty when unknown.
        restarts: How often it was started again since the stack came up; None where it is not counted.
        detail: Why it is in this state.
    """

    unknowable: ClassVar[frozenset[str]] = frozenset({"restarts"})

    service: str
    state: str
    running: bool
    pid: int | None = None
    uptime_s: float | None = None
    started_at: str = ""
    restarts: int | None = None
    detail: str = ""

    def headline(self) -> str:
        """Such as `consumer running for 12s` or `consumer stopped: ended by SIGKILL`."""
        if self.uptime_s is not None and self.running:
            return f"{self.service} {self.state} for {Duration(self.uptime_s)}"
        return f"{self.service} {self.state}" + (f": {self.detail}" if self.detail else "")


class Readiness(Result, frozen=True, kw_only=True):
    """A service that is ready.

    Attributes:
        ready: Always true: one that is not ready is a failure.
        elapsed_ms: How long its answer took.
        waited_s: Seconds until it was ready, from the start of the step.
    """

    service: str
    ready: bool
    elapsed_ms: float
    waited_s: float

    def headline(self) -> str:
        """Such as `api ready in 2.1s`."""
        return f"{self.service} ready in {Duration(self.waited_s)}"


class Seen(Result, frozen=True, kw_only=True):
    """What the probe of a service saw.

    Attributes:
        ready: It is ready.
        answered: Something answered, rightly or not.
        detail: What was wrong; empty when it is ready.
        elapsed_ms: How long the look took.
    """

    service: str
    ready: bool
    answered: bool
    detail: str = ""
    elapsed_ms: float = 0.0

    def headline(self) -> str:
        """Such as `api ready` or `api not ready: Connection refused`."""
        return f"{self.service} ready" if self.ready else f"{self.service} not ready: {self.detail}"


class Lines(Result, frozen=True, kw_only=True):
    """What a service logged.

    Attributes:
        matches: How many lines fit.
        searched: How many lines were searched.
        lines: The newest of those that fit, at most 20, each cut after 1,000 characters.
    """

    service: str
    matches: int
    searched: int
    lines: list[str] = []

    def headline(self) -> str:
        """Such as `3 of 1,204 lines`."""
        return f"{self.matches:,} of {self.searched:,} lines"


class Resources(Result, frozen=True, kw_only=True):
    """What a service uses.

    Attributes:
        cpu_percent: Of one core: 100 is one core busy.
        rss: Memory in use, bytes.
        rss_mib: The same in MiB.
        processes: How many processes it has (for a container: tasks).
        waiting_percent: How long its threads were ready to run and had no core, of one core's time; None where the
            system does not say (containers, macOS).
    """

    service: str
    cpu_percent: float
    rss: int
    rss_mib: float
    processes: int
    waiting_percent: float | None = None

    def headline(self) -> str:
        """Such as `cpu 12.5 %, 180MiB`."""
        return f"cpu {self.cpu_percent:g} %, {Size(self.rss)}"


@action("service.status")
def status(services: Services, service: str) -> Status:
    """What a service is doing, by its process, its container or its `status` command.

    Says nothing of whether it is healthy; `service.ready` does.

    Args:
        service: Name of the service in the stack.

    Raises:
        Unknown: Its `status` command cannot be run, or reaches no host; no Docker engine answers.
    """
    services.backend(service)  # k2run has to know how to see it
    seen = status_of(services.stack, services.find(service))
    if seen.state is State.UNKNOWN:
        raise Unknown(f"what {service} is doing cannot be known: {seen.detail}")
    return Status(
        service=seen.service,
        state=seen.state,
        running=seen.state in _RUNS,
        pid=seen.pid,
        uptime_s=seen.uptime_s,
        started_at=seen.started_at.isoformat(timespec="milliseconds") if seen.started_at else "",
        restarts=seen.restarts,
        detail=seen.detail,
        source=seen.service,
    )


@action("service.ready")
def ready(services: Services, deadline: Deadline, service: str, wait: Duration = NOW) -> Readiness:
    """Check that a service is ready, by the `ready` probe of the stack.

    Args:
        service: Name of the service in the stack.
        wait: How long it may take until it is ready; once only when 0s.

    Raises:
        Unreachable: Nothing answers, or k2run knows that it does not run.
        Refused: It answers, and not as it should.
        Unknown: The stack does not say how to see it.
    """
    _require_probe(services, service)
    began = time.monotonic()
    limit = Deadline(max(wait, 0.0), deadline.stop)
    while True:
        seen = _look(services, deadline, service)
        waited = time.monotonic() - began
        if seen.ready:
            return Readiness(
                service=service, ready=True, elapsed_ms=seen.elapsed_ms, waited_s=round(waited, 3), source=seen.address
            )
        try:
            limit.sleep(_POLL_S)
        except TimedOut:
            raise _not_ready(service, seen, status_of(services.stack, services.find(service))) from None


@action("service.probe")
def probe(services: Services, deadline: Deadline, service: str) -> Seen:
    """What the `ready` probe of a service sees now, ready or not: for symptoms, where no answer is the finding.

    What a process outside the stack answers, on the port of one of its services, is not that service's answer.

    Args:
        service: Name of the service in the stack.

    Raises:
        NotApplicable: The stack does not say how to see it, and k2run does not know it to be stopped.
    """
    found = services.find(service)
    if readiness(found) is None:
        if (stopped := _stopped(services, service)) is not None:
            detail = f"{service} {stopped.state}" + (f": {stopped.detail}" if stopped.detail else "")
            return Seen(service=service, ready=False, answered=False, detail=detail, source=service)
        if found.status and status_of(services.stack, found).state is State.RUNNING:
            return Seen(service=service, ready=True, answered=True, source=service)
    seen = _look(services, deadline, service)
    stranger = stranger_at(seen.address, services.stack) if seen.answered else ""
    return Seen(
        service=service,
        ready=seen.ready and not stranger,
        answered=seen.answered and not stranger,
        detail=stranger or seen.detail,
        elapsed_ms=seen.elapsed_ms,
        source=seen.address,
    )


@action("service.logs")
def logs(
    services: Services,
    deadline: Deadline,
    service: str,
    pattern: str = "",
    since: Duration | None = None,
    lines: int = ALL_LINES,
) -> Lines:
    """Search the log of a service.

    Args:
        service: Name of the service in the stack.
        pattern: Regular expression to look for in each line; every line fits when it is empty.
        since: Only lines written within this time before now; needs a log whose lines tell the time.
        lines: How many of the newest lines are searched.

    Raises:
        Unknown: There is no log, or its lines do not tell the time.
        Refused: The pattern is no regular expression.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise Refused(
            f"{pattern!r} is not a regular expression: {error}", hint="quote its special characters"
        ) from error
    from datetime import UTC, datetime, timedelta

    start = datetime.now(UTC) - timedelta(seconds=since) if since is not None else None
    found = services.backend(service).log(lines=lines, since=start, deadline=deadline)
    fitting = _search(found, wanted, deadline)
    shown = [beginning(line.text, SHOWN_CHARACTERS) for line in fitting[-SHOWN_LINES:]]
    return Lines(service=service, matches=len(fitting), searched=len(found), lines=shown, source=f"log of {service}")


@action("service.resources")
def resources(
    services: Services, deadline: Deadline, service: str, over: Duration = A_SECOND, most_waiting: float | None = None
) -> Resources:
    """What a service uses of its machine: processor and memory, with everything that it started.

    Args:
        service: Name of the service in the stack.
        over: How long the processor is measured.
        most_waiting: How long its threads may wait for a core, in percent of one core's time, and those of each service
            that it needs. On a machine that makes them wait longer, a service that is idle cannot be told from one
            that is starved, or that waits for one that is: the result is unknown.

    Raises:
        Refused: It does not run.
        Unknown: It, or a service that it needs, waited for a core longer than `most_waiting`.
    """
    needed = services.stack.needed([service])[1:] if most_waiting is not None else []
    with ThreadPoolExecutor(len(needed) + 1) as looks:
        waiting = {name: looks.submit(_waiting_percent, services, name, over, deadline) for name in needed}
        used = services.backend(service).usage(over, deadline)
    if most_waiting is not None:
        shares = {service: used.waiting_percent, **{name: look.result() for name, look in waiting.items()}}
        _require_cores({name: share for name, share in shares.items() if share is not None}, most_waiting)
    return Resources(
        service=service,
        cpu_percent=used.cpu_percent,
        rss=used.rss_bytes,
        rss_mib=round(used.rss_bytes / 2**20, 1),
        processes=used.processes,
        waiting_percent=used.waiting_percent,
        source=service,
    )


def _waiting_percent(services: Services, service: str, over: Duration, deadline: Deadline) -> float | None:
    """How long it waited for a core; None where that is not known. That it is down is for others to tell."""
    try:
        return services.backend(service).usage(over, deadline).waiting_percent
    except K2runError:
        return None


def _require_cores(shares: dict[str, float], most: float) -> None:
    for name, share in shares.items():
        if share > most:
            raise Unknown(
                f"{name} waited for a core {share:g} % of the time: the machine is too busy to judge it",
                hint="end other work on this machine, or give the service a core of its own",
            )


def _stopped(services: Services, service: str) -> ServiceStatus | None:
    """A service that k2run runs, and knows not to run or to be held; None for any other."""
    found = services.find(service)
    if found.run in OUTSIDE and not found.status:
        return None
    now = status_of(services.stack, found)
    if now.state is State.UNKNOWN:
        raise Unknown(f"what {service} is doing cannot be known: {now.detail}")
    return None if now.state in _RUNS else now


def _require_probe(services: Services, service: str) -> None:
    """Without a probe only one thing can be said of a service: that k2run knows it to be stopped.

    Raises:
        Unreachable: It is.
        Unknown: It is not, so it may be ready or not.
    """
    if readiness(services.find(service)) is not None:
        return
    stopped = _stopped(services, service)
    if stopped is not None:
        raise Unreachable(
            f"{service} is not ready: {stopped.state}{f': {stopped.detail}' if stopped.detail else ''}",
            hint=f"`k2run logs {service}` shows more",
        )
    raise Unknown(
        f"whether {service} is ready cannot be known: the stack does not say how to see it",
        hint=f"give services.{service} a `ready:` in the stack file",
    )


def _look(services: Services, deadline: Deadline, service: str) -> Probe:
    found = services.find(service)
    how = readiness(found)
    if how is None:
        raise NotApplicable(
            f"the stack does not say how to see that {service} is ready", hint="give it `ready:` in the stack file"
        )
    return look_at(how, deadline.at_most(_LOOK_S), found.headers)


def _not_ready(service: str, seen: Probe, now: ServiceStatus) -> Unreachable | Refused:
    """Why a service is not ready: what it answered, and what its process is doing when that explains it."""
    doing = "" if now.state is State.RUNNING else f" ({now.state}{f': {now.detail}' if now.detail else ''})"
    kind = Refused if seen.answered else Unreachable
    return kind(
        f"{service} is not ready{doing}: {seen.address}: {seen.detail}",
        hint=f"`k2run logs {service}` shows more; services.{service} in the stack file says where it is probed",
    )


def _search(lines: list[LogLine], wanted: re.Pattern[str], deadline: Deadline) -> list[LogLine]:
    fitting = []
    for number, line in enumerate(lines):
        if number % 10_000 == 0:
            deadline.remaining()
        if wanted.search(line.text):
            fitting.append(line)
    return fitting
