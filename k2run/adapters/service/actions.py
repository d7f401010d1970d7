"""Services of the stack, whoever runs them: look at one, break it, bring it back. Processes and containers alike.

The blast radius of every fault here is one service, with all its processes, and whatever depends on it.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from k2run.actions.action import Effect, Striking, Undo, action, fault
from k2run.actions.deadline import Deadline
from k2run.actions.excerpt import beginning
from k2run.adapters.service.all_services import clocks, roll_call, strangers  # noqa: F401 - actions of this adapter
from k2run.adapters.service.results import Lines, Readiness, Resources, Revived, Seen, Status, Struck
from k2run.errors import NotApplicable, Refused, StackUnavailable, TimedOut, Unknown, Unreachable
from k2run.language.quantities import Duration
from k2run.stack.backend import ServiceStatus, State
from k2run.stack.model import RunBy
from k2run.stack.probes import probe as look_at
from k2run.stack.probes import readiness
from k2run.stack.services import Services, stranger_at

if TYPE_CHECKING:
    from k2run.stack.backend import Backend, LogLine
    from k2run.stack.probes import Probe

GRACE_S = 10.0
"""Seconds that a service gets to end by itself before it is killed, within the step's deadline."""
SHOWN_LINES = 20
SHOWN_CHARACTERS = 1000
ALL_LINES = 1_000_000
NOW = Duration(0)
A_SECOND = Duration(1)
_POLL_S = 0.05
_LOOK_S = 2.0
_RUNS = {State.RUNNING, State.UNHEALTHY}


# --- looking ---------------------------------------------------------------------------------------------------------


@action("service.status")
def status(services: Services, service: str) -> Status:
    """What a service is doing, by its process or container.

    Says nothing of whether it is healthy; `service.ready` does.

    Args:
        service: Name of the service in the stack.
    """
    return _status(services.backend(service).status())


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
            raise _not_ready(service, seen, services.backend(service).status()) from None


@action("service.probe")
def probe(services: Services, deadline: Deadline, service: str) -> Seen:
    """What the `ready` probe of a service sees now, ready or not: for symptoms, where no answer is the finding.

    What a process outside the stack answers, on the port of one of its services, is not that service's answer.

    Args:
        service: Name of the service in the stack.

    Raises:
        NotApplicable: The stack does not say how to see it, and k2run does not know it to be stopped.
    """
    if readiness(services.find(service)) is None and (stopped := _stopped(services, service)) is not None:
        detail = f"{service} {stopped.state}" + (f": {stopped.detail}" if stopped.detail else "")
        return Seen(service=service, ready=False, answered=False, detail=detail, elapsed_ms=0.0, source=service)
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
        most_waiting: How long its threads may wait for a core, in percent of one core's time. On a machine that makes
            them wait longer, a service that is idle cannot be told from one that is starved: the result is unknown.

    Raises:
        Refused: It does not run.
        Unknown: It waited for a core longer than `most_waiting`.
    """
    used = services.backend(service).usage(over, deadline)
    if most_waiting is not None and used.waiting_percent is not None and used.waiting_percent > most_waiting:
        raise Unknown(
            f"{service} waited for a core {used.waiting_percent:g} % of the time: the machine is too busy to judge it",
            hint="end other work on this machine, or give the service a core of its own",
        )
    return Resources(
        service=service,
        cpu_percent=used.cpu_percent,
        rss=used.rss_bytes,
        rss_mib=round(used.rss_bytes / 2**20, 1),
        processes=used.processes,
        waiting_percent=used.waiting_percent,
        source=service,
    )


# --- breaking --------------------------------------------------------------------------------------------------------


@fault("service.kill", undone_by="service.start")
def kill(services: Services, deadline: Deadline, service: str) -> Striking[Struck]:
    """Kill a service at once, with SIGKILL, as a crash would end it. Undone by starting it.

    Blast radius: the service, all its processes, and what depends on it. Nothing is saved or said good-bye to.

    Args:
        service: Name of the service in the stack.

    Raises:
        Refused: It does not run.
        NotApplicable: k2run does not run it.
    """
    backend, before = _running(services, service)
    yield _started_again(service)
    began = time.monotonic()
    backend.kill(deadline)
    return _struck(services, before, began)


@fault("service.stop", undone_by="service.start")
def stop(services: Services, deadline: Deadline, service: str) -> Striking[Struck]:
    """Stop a service with SIGTERM; kill it after 10 s. Undone by starting it.

    Blast radius: the service, all its processes, and what depends on it.

    Args:
        service: Name of the service in the stack.

    Raises:
        Refused: It does not run.
        NotApplicable: k2run does not run it.
    """
    backend, before = _running(services, service)
    yield _started_again(service)
    began = time.monotonic()
    backend.stop(Deadline(deadline.at_most(GRACE_S), deadline.stop))
    return _struck(services, before, began)


@fault("service.pause", undone_by="service.resume")
def pause(services: Services, deadline: Deadline, service: str) -> Striking[Struck]:
    """Hold a service where it stands (SIGSTOP, or the freezer of its container). Undone by resuming it.

    Blast radius: the service and what depends on it. Its connections stay open and do not answer, as in a long pause of
    a garbage collector or a stalled machine.

    Args:
        service: Name of the service in the stack.

    Raises:
        Refused: It does not run, or is paused already.
        NotApplicable: k2run does not run it.
    """
    backend, before = _running(services, service)
    if before.state is State.PAUSED:
        raise Refused(f"{service} is paused already", hint="resume it first")
    yield Undo(action="service.resume", args={"service": service}, says=f"resume {service}")
    began = time.monotonic()
    backend.pause(deadline)
    return _struck(services, before, began)


# --- bringing back ---------------------------------------------------------------------------------------------------


@action("service.start", effect=Effect.CHANGES)
def start(services: Services, deadline: Deadline, service: str) -> Revived:
    """Start a service and wait until it is ready; nothing happens when it is already running.

    Args:
        service: Name of the service in the stack.

    Raises:
        Refused: It cannot be started, or ends again; the message has its last log lines.
        NotApplicable: k2run does not run it.
    """
    began = time.monotonic()
    changed = _start(services, deadline, service)
    return _revived(services, deadline, service, changed=changed, began=began)


@action("service.resume", effect=Effect.CHANGES)
def resume(services: Services, deadline: Deadline, service: str, ended_ok: bool = False) -> Revived:
    """Let a paused service go on; nothing happens when it runs already. Does not wait for it to be ready.

    Args:
        service: Name of the service in the stack.
        ended_ok: One that has ended is left as it is: a later step starts it.

    Raises:
        Refused: It does not run at all.
        NotApplicable: k2run does not run it.
    """
    began = time.monotonic()
    backend = services.backend(service)
    changed = backend.resume(deadline)
    now = backend.status()
    if now.state in {State.STOPPED, State.ABSENT} and not ended_ok:
        raise Refused(
            f"{service} is not running: {now.detail or now.state}", hint="start it: `k2run up`, or service.start"
        )
    return Revived(
        service=service,
        changed=changed,
        pid=now.pid,
        ready=None,
        seconds=round(time.monotonic() - began, 3),
        source=service,
    )


@action("service.restart", effect=Effect.CHANGES)
def restart(services: Services, deadline: Deadline, service: str) -> Revived:
    """Stop a service cleanly, start it, and wait until it is ready.

    Args:
        service: Name of the service in the stack.

    Raises:
        Refused: It cannot be started again; the message has its last log lines.
        NotApplicable: k2run does not run it.
    """
    began = time.monotonic()
    try:
        services.backend(service).stop(Deadline(deadline.at_most(GRACE_S), deadline.stop))
    finally:  # asked to end in the middle: it is not left down
        _start(services, Deadline(GRACE_S), service)
    return _revived(services, deadline, service, changed=True, began=began)


# --- what they share -------------------------------------------------------------------------------------------------


def _started_again(service: str) -> Undo:
    return Undo(action="service.start", args={"service": service}, says=f"start {service}")


def _start(services: Services, deadline: Deadline, service: str) -> bool:
    try:
        return services.backend(service).start(deadline)
    except StackUnavailable as error:
        raise Refused(error.message, hint=error.hint) from error


def _revived(services: Services, deadline: Deadline, service: str, *, changed: bool, began: float) -> Revived:
    """Wait until a service that was started is ready; one that ran already is only probed."""
    from k2run.stack.lifecycle import await_ready

    try:
        seen = await_ready(services.stack, services.find(service), deadline)
    except StackUnavailable as error:
        raise Refused(error.message, hint=error.hint) from error
    return Revived(
        service=service,
        changed=changed,
        pid=services.backend(service).status().pid,
        ready=None if seen is None else seen.ready,
        seconds=round(time.monotonic() - began, 3),
        source=seen.address if seen else service,
    )


def _running(services: Services, service: str) -> tuple[Backend, ServiceStatus]:
    """A service that can be broken: it runs, and k2run runs it.

    Raises:
        Refused: It does not run.
        NotApplicable: k2run does not run it, or cannot on this machine.
    """
    found = services.find(service)
    if found.run is RunBy.EXTERNAL:
        raise NotApplicable(
            f"cannot inject a fault into {service}: k2run does not run it, it only reaches it over the network",
            hint="give it `run: process` or `run: docker` in the stack file",
        )
    backend = services.backend(service)
    seen = backend.status()
    if seen.state is State.ABSENT:
        raise NotApplicable(f"{service} is missing: {seen.detail}")
    if seen.state is State.STOPPED:
        raise Refused(f"{service} is not running; cannot inject a fault", hint=seen.detail or "start it first")
    return backend, seen


def _struck(services: Services, before: ServiceStatus, began: float) -> Struck:
    now = services.backend(before.service).status()
    return Struck(
        service=before.service,
        state=now.state,
        pid=before.pid,
        seconds=round(time.monotonic() - began, 3),
        source=before.service,
    )


def _stopped(services: Services, service: str) -> ServiceStatus | None:
    """A service that k2run runs, and knows not to run or to be held; None for any other."""
    found = services.find(service)
    if found.run is RunBy.EXTERNAL:
        return None
    now = services.backend(service).status()
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


def _status(seen: ServiceStatus) -> Status:
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
