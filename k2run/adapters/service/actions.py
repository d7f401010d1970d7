"""Services of the stack, whoever runs them: look at them, break one, bring it back. Processes and containers alike.

Long because what breaks or revives one service, and what is asked of all of them at once, is on this page.

The blast radius of every fault here is one service, with all its processes, and whatever depends on it.
"""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from k2run.actions.action import Result, Striking, Undo, action, fault
from k2run.actions.deadline import Deadline
from k2run.adapters.service.state import logs, probe, ready, resources, status  # noqa: F401 - actions of this adapter
from k2run.errors import K2runError, NotApplicable, Refused, StackUnavailable, Unknown
from k2run.language.quantities import Duration
from k2run.language.vocabulary import Effect
from k2run.stack import lifecycle
from k2run.stack.backend import ServiceStatus, State
from k2run.stack.commands import GIVE_COMMANDS, refusal
from k2run.stack.model import RunBy
from k2run.stack.services import Services, strangers_on

if TYPE_CHECKING:
    from k2run.stack.backend import Backend
    from k2run.stack.lifecycle import Look
    from k2run.stack.model import Service

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
    try:
        return _revived(services, deadline, service, changed=changed, began=began)
    except Refused:  # was it ending as it was seen to run?
        if changed or not _start(services, deadline, service):
            raise
        return _revived(services, deadline, service, changed=True, began=began)


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


AT_THE_START = timedelta(seconds=5)
"""A service that ends with an error within this time after its start cannot start."""
_LAST_LINES = 20
_ERROR = re.compile(r"^(\S+: )?(error|fatal|panic)\b", re.IGNORECASE)
ANSWER_S = 1.5
TOLERANCE = Duration(5)
"""A header tells whole seconds, and some servers renew theirs once a second."""


class RollCall(Result, frozen=True, kw_only=True):
    """What every service of a stack is doing; those that the stack leaves out on this machine are not counted.

    Attributes:
        count: How many services there are.
        well: Those that are running and healthy.
        held: Those that are paused.
        down: Those that do not run.
        gave_up: Those of them whose log ends with an error of the first five seconds: they cannot start.
        silent: Those that run, and whose `ready` probe gets no answer.
        unseen: Those that the stack does not say how to see.
    """

    count: int
    well: list[str] = []
    held: list[str] = []
    down: list[str] = []
    gave_up: list[str] = []
    silent: list[str] = []
    unseen: list[str] = []

    def headline(self) -> str:
        """Such as `4 of 6 well; down: api; silent: stream`."""
        kinds = {"down": self.down, "held": self.held, "silent": self.silent}
        wrong = [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
        return "; ".join([f"{len(self.well)} of {self.count} well", *wrong])


@action("service.roll_call")
def roll_call(services: Services, deadline: Deadline) -> RollCall:
    """What all services of the stack are doing, side by side.

    Raises:
        Unknown: What runs one of them gives no answer, so it may be up or down.
    """
    looks = [look for look in lifecycle.status(services.stack) if not services.stack.absent(look.service.name)]
    for look in looks:
        if look.unreached:
            raise Unknown(f"what {look.service.name} is doing cannot be known: {look.status.detail}")
    runs = [look for look in looks if look.status.state is not State.STOPPED]
    down = [look for look in looks if look.status.state is State.STOPPED]
    return RollCall(
        count=len(looks),
        well=[look.service.name for look in looks if look.works],
        held=[look.service.name for look in looks if look.status.state is State.PAUSED],
        down=[look.service.name for look in down],
        gave_up=[look.service.name for look in down if _gave_up(services, look, deadline)],
        silent=[look.service.name for look in runs if look.probe is not None and not look.probe.answered],
        unseen=[look.service.name for look in looks if not look.is_known],
        source=services.stack.name,
    )


def _gave_up(services: Services, look: Look, deadline: Deadline) -> bool:
    """Whether a service that is down could not start, by the end of its log."""
    try:
        lines = services.backend(look.service.name).log(lines=_LAST_LINES, since=None, deadline=deadline)
    except K2runError:
        return False  # without a log it cannot be known
    if not lines or not _ERROR.search(lines[-1].text):
        return False
    started = look.status.started_at
    times = [line.at for line in lines if line.at is not None]
    return started is None or not times or max(times) < started + AT_THE_START


class Strangers(Result, frozen=True, kw_only=True):
    """Who holds ports that services of the stack should have.

    Attributes:
        ports: How many ports were checked.
        taken: One line for each that another process holds, with service, port, and the holder's pid and command.
        services: The services whose ports these are.
        pids: The holders' pids, as far as they can be seen.
    """

    ports: int
    taken: list[str] = []
    services: list[str] = []
    pids: list[int] = []

    def headline(self) -> str:
        """Such as `port 19095 of consumer: pid 4242 (nginx)`."""
        return "; ".join(self.taken) if self.taken else f"none of {self.ports} ports"


@action("service.strangers")
def strangers(services: Services) -> Strangers:
    """Whether processes outside the stack hold ports of its services; only services that k2run runs as processes."""
    wanted = [
        (service.name, port)
        for service in services.all()
        if service.run is RunBy.PROCESS and not services.stack.absent(service.name)
        for port in service.ports
    ]
    holders = strangers_on((port for _, port in wanted), services.stack)
    found = [(name, port, holders[port]) for name, port in wanted if port in holders]
    return Strangers(
        ports=len(wanted),
        taken=[f"port {port} of {name}: {holder.says}" for name, port, holder in found],
        services=list(dict.fromkeys(name for name, _, _ in found)),
        pids=sorted({holder.pid for _, _, holder in found} - {0}),
        source=services.stack.name,
    )


class Clocks(Result, frozen=True, kw_only=True):
    """How far the clocks of the services are from this machine's.

    Attributes:
        offsets_s: By service, above zero when it is ahead.
        wrong: The services whose clock is further away than the tolerance.
        unseen: The services that did not tell the time.
        worst_s: The largest distance.
    """

    offsets_s: dict[str, float]
    wrong: list[str] = []
    unseen: list[str] = []
    worst_s: float = 0.0

    def headline(self) -> str:
        """Such as `consumer 3600 s behind`."""
        if not self.wrong:
            return f"{len(self.offsets_s)} clocks agree"
        told = (f"{name} {abs(at):.0f} s {'ahead' if at > 0 else 'behind'}" for name, at in self.offsets_s.items())
        return ", ".join(line for line, name in zip(told, self.offsets_s, strict=True) if name in self.wrong)


@action("service.clocks")
def clocks(services: Services, deadline: Deadline, tolerance: Duration = TOLERANCE) -> Clocks:
    """How far the clocks of the services are from this machine's, by the `Date` of their HTTP answers.

    Args:
        tolerance: Less than this is no difference.

    Raises:
        NotApplicable: No service speaks HTTP.
        Unknown: None of them told the time.
    """
    asked = {service.name: url for service in services.all() if (url := _address(service))}
    if not asked:
        raise NotApplicable(f"no service of the stack {services.stack.name!r} has an HTTP address")
    patience = deadline.at_most(ANSWER_S)
    with ThreadPoolExecutor(len(asked)) as threads:
        read = dict(zip(asked, threads.map(lambda url: _offset(url, patience), asked.values()), strict=True))
    offsets = {name: offset for name, offset in read.items() if offset is not None}
    if not offsets:
        raise Unknown("no service told the time", hint="are they running?")
    return Clocks(
        offsets_s=offsets,
        wrong=[name for name, offset in offsets.items() if abs(offset) > tolerance],
        unseen=[name for name, offset in read.items() if offset is None],
        worst_s=max(map(abs, offsets.values())),
        source=services.stack.name,
    )


def _address(service: Service) -> str:
    """Where a service itself answers: its metrics are seldom behind a proxy."""
    return service.metrics or (service.ready.http if service.ready is not None else "") or service.url


def _offset(url: str, patience: float) -> float | None:
    """Seconds by which a server is ahead; None when it does not say."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    began = time.time()
    try:
        with urlopen(Request(url, method="GET"), timeout=patience) as answer:  # noqa: S310 - an address of the stack file
            told = answer.headers.get("Date")
    except HTTPError as error:
        told = error.headers.get("Date")
    except OSError:
        return None
    if not told:
        return None
    try:
        return round(parsedate_to_datetime(told).timestamp() + 0.5 - (began + time.time()) / 2, 1)
    except ValueError:
        return None
