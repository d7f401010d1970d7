"""Services of the stack, whoever runs them: look at one, break it, bring it back. Processes and containers alike.

The blast radius of every fault here is one service, with all its processes, and whatever depends on it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from k2run.actions.action import Result, Striking, Undo, action, fault
from k2run.actions.deadline import Deadline
from k2run.adapters.service.all_services import clocks, roll_call, strangers  # noqa: F401 - actions of this adapter
from k2run.adapters.service.state import logs, probe, ready, resources, status  # noqa: F401 - as those
from k2run.errors import NotApplicable, Refused, StackUnavailable, Unknown
from k2run.language.quantities import Duration
from k2run.language.vocabulary import Effect
from k2run.stack.backend import ServiceStatus, State
from k2run.stack.commands import GIVE_COMMANDS, refusal
from k2run.stack.services import Services

if TYPE_CHECKING:
    from k2run.stack.backend import Backend

GRACE_S = 10.0
"""Seconds that a service gets to end by itself before it is killed, within the step's deadline."""


class Struck(Result, frozen=True, kw_only=True):
    """A fault that was injected.

    Attributes:
        state: What the service is doing now.
        pid: The process that the fault hit.
        seconds: How long the injection took.
    """

    service: str
    state: str
    pid: int | None
    seconds: float

    def headline(self) -> str:
        """Such as `consumer stopped (was pid 4711)`."""
        return f"{self.service} {self.state}" + (f" (was pid {self.pid})" if self.pid else "")


class Revived(Result, frozen=True, kw_only=True):
    """A service that runs again.

    Attributes:
        changed: False when it ran already.
        pid: Its process now.
        ready: Whether its `ready` probe was seen to succeed; None when the stack has none for it.
        seconds: How long that took.
    """

    service: str
    changed: bool
    pid: int | None
    ready: bool | None
    seconds: float

    def headline(self) -> str:
        """Such as `consumer ready in 3.2s`."""
        if not self.changed:
            return f"{self.service} was already running"
        return f"{self.service} {'ready' if self.ready else 'runs'} in {Duration(self.seconds)}"


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
    backend, before = _running(services, service, "kill")
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
    backend, before = _running(services, service, "stop")
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
    backend, before = _running(services, service, "pause")
    if before.state is State.PAUSED:
        raise Refused(f"{service} is already paused", hint="resume it first")
    yield Undo(action="service.resume", args={"service": service}, says=f"resume {service}")
    began = time.monotonic()
    backend.pause(deadline)
    return _struck(services, before, began)


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
    found = services.find(service)
    if lacks := refusal(found, "stop") or refusal(found, "start"):
        raise NotApplicable(f"cannot restart {service}: {lacks}", hint=GIVE_COMMANDS)
    try:
        services.backend(service).stop(Deadline(deadline.at_most(GRACE_S), deadline.stop))
    finally:  # asked to end in the middle: it is not left down
        _start(services, Deadline(GRACE_S), service)
    return _revived(services, deadline, service, changed=True, began=began)


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


def _running(services: Services, service: str, done: str) -> tuple[Backend, ServiceStatus]:
    """A service that can be broken: it runs, and k2run can do that to it and start it again.

    Raises:
        Refused: It does not run.
        Unknown: Whether it runs cannot be seen: its host cannot be reached, or its `status` command cannot be run.
        NotApplicable: k2run does not run it, or cannot on this machine.
    """
    found = services.find(service)
    if lacks := refusal(found, done) or (done != "pause" and refusal(found, "start")):
        raise NotApplicable(
            f"cannot inject a fault into {service}: {lacks}",
            hint=GIVE_COMMANDS,
        )
    backend = services.backend(service)
    seen = backend.status()
    if seen.state is State.UNKNOWN:
        raise Unknown(
            f"whether {service} is running cannot be known: {seen.detail}", hint="no fault is injected unseen"
        )
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
