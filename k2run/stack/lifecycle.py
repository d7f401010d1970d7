"""Brings a stack's services up and down, all side by side, and looks at them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import Struct

from k2run.actions.deadline import Deadline
from k2run.errors import ActionError, K2runError, NotApplicable, StackUnavailable, TimedOut, UsageError
from k2run.language.problems import did_you_mean
from k2run.stack.backend import Probe, ServiceStatus, State, probe, readiness
from k2run.stack.model import OUTSIDE, Ready, RunBy, Service
from k2run.stack.services import backend_of, create_missing, stranger_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from k2run.stack.backend import Backend, LogLine
    from k2run.stack.stack import Stack

E = TypeVar("E")
T = TypeVar("T")

POLL_S = 0.05
SETTLE_S = 0.1
"""Seconds after which a service that has no probe and has not ended counts as started."""
STOP_S = 10.0
"""Seconds that services get to end by themselves."""
_LOOK_S = 1.0
_WATCH_S = 0.5


class Look(Struct, frozen=True, kw_only=True):
    """A service as `k2run status` shows it: its state, and whether it is ready.

    Attributes:
        unreached: The stack says how to see it, and neither what runs it nor the service itself gave an answer.
    """

    service: Service
    status: ServiceStatus
    probe: Probe | None = None
    unreached: bool = False

    @property
    def is_known(self) -> bool:
        """Whether anything can be said of it."""
        return self.status.state is not State.UNKNOWN or self.probe is not None

    @property
    def works(self) -> bool:
        """Whether it is seen to run and to be ready."""
        if self.status.state is State.UNKNOWN:
            return self.probe is not None and self.probe.ready
        return self.status.state is State.RUNNING and (self.probe is None or self.probe.ready)


def start(
    stack: Stack,
    names: Sequence[str] | None,
    deadline: Deadline,
    say: Callable[[str], None] = lambda _text: None,
    *,
    outside: bool = False,
) -> list[str]:
    """Start services side by side, with those that they need, and wait until each is ready.

    Those that run already are left as they are. When one cannot be started, or the run is asked to end, those that this
    call started are stopped again.

    Args:
        stack: The stack.
        names: Which services; all when None.
        deadline: How long it may take altogether.
        say: Told, in a sentence each, what is left out.
        outside: Start those too that k2run does not run itself, by their `start` commands.

    Returns:
        The names of those that were started, in the order of the stack file.

    Raises:
        StackUnavailable: One could not be started, or was not ready in time; the message has its last log lines.
        Interrupted: The run was asked to end.
        UsageError: There is no such service.
    """
    stack.learn()
    started: list[str] = []
    try:
        startable = _startable(stack, names, say, outside=outside)
        started += create_missing(stack, startable, deadline)
        for service in startable:
            if service.name in started:
                continue
            try:
                if backend_of(stack, service).start(deadline):
                    started.append(service.name)
            except (NotApplicable, TimedOut) as error:
                raise StackUnavailable(f"{service.name}: {error.message}", hint=error.hint) from error
        _await_all(stack, [stack.services[name] for name in started], deadline)
    except BaseException:
        stop(stack, started, failed=True)
        raise
    return started


def _await_all(stack: Stack, services: Sequence[Service], deadline: Deadline) -> None:
    """Wait until each is ready; one that was ready and ends while others are waited for has failed, too."""
    given_up, over = threading.Event(), threading.Event()
    waited_for = {service.name for service in services}

    def wait(service: Service) -> None:
        try:
            await_ready(stack, service, deadline, given_up)
            waited_for.discard(service.name)
            while waited_for and not over.wait(_WATCH_S):
                if readiness(service) is not None:  # without a probe it may be a job that ends
                    _require_alive(stack, service, backend_of(stack, service))
        except BaseException:
            given_up.set()
            raise
        finally:
            if given_up.is_set() or not waited_for:
                over.set()

    _side_by_side(services, wait)


def await_ready(
    stack: Stack, service: Service, deadline: Deadline, given_up: threading.Event | None = None
) -> Probe | None:
    """Wait until a service is ready; no longer once `given_up` is set, as another one that is started with it failed.

    Returns:
        The probe that saw it; None when the stack does not say how to see it.

    Raises:
        StackUnavailable: It ended, or was not ready within its `ready: {within: …}` or the deadline.
        Interrupted: The run was asked to end.
    """
    ready, backend = readiness(service), backend_of(stack, service)
    if ready is None:
        deadline.sleep(SETTLE_S)
        _require_alive(stack, service, backend)
        return None
    limit = Deadline(ready.within, deadline.stop)
    detail = "not asked yet"
    while True:
        try:
            seen = probe(ready, max(0.01, min(_LOOK_S, limit.remaining(), deadline.remaining())), service.headers)
            if seen.ready:
                return seen
            if seen.hopeless:
                raise StackUnavailable(
                    f"{service.name} cannot be seen to be ready: {seen.detail}",
                    hint="`ready:` in the stack file takes {tcp: HOST:PORT} or {http: http://HOST:PORT/PATH}",
                )
            detail = seen.detail
            _require_alive(stack, service, backend)
            if given_up is not None and given_up.is_set():
                raise StackUnavailable(f"{service.name} was not waited for: another service failed")
            limit.sleep(POLL_S)
        except TimedOut:
            seconds = min(limit.seconds, deadline.seconds)
            raise StackUnavailable(
                f"{service.name} was not ready within {seconds:g}s: "
                + stack.redact(f"{ready.tcp or ready.postgres or ready.http}: {detail}{_quote(backend)}"),
                hint=f"`k2run logs {service.name}` shows more; `ready: {{within: …}}` in the stack file gives time",
            ) from None


def stop(
    stack: Stack, names: Iterable[str] | None = None, deadline: Deadline | None = None, *, failed: bool = False
) -> list[str]:
    """Stop services side by side, each after those that need it; what does not end by itself is killed at the deadline.

    Args:
        stack: The stack.
        names: Which services; all that k2run runs when None.
        deadline: How long they may take; 10 s when None.
        failed: They are stopped because they could not be started: their logs say why they do not run, not this.

    Returns:
        The names of those that ran.

    Raises:
        K2runError: One could not be stopped; the others were.
    """
    stack.learn()
    limit = deadline or Deadline(STOP_S)
    chosen = _known(stack, names)

    def end(name: str) -> bool:
        service = stack.services[name]
        if service.run in OUTSIDE and (names is None or not service.stop):
            return False
        backend = backend_of(stack, service)
        ran = backend.status().state is not State.ABSENT and backend.stop(limit)
        forget = getattr(backend, "forget", None)
        if forget is not None:
            forget(who=failed)
        return ran

    ran: set[str] = set()
    problems: list[K2runError] = []
    for wave in _needed_last(stack, chosen):
        try:
            ran |= {name for name, did in zip(wave, _side_by_side(wave, end), strict=True) if did}
        except K2runError as problem:  # the others are stopped all the same
            problems.append(problem)
    if problems:
        raise problems[0]
    return [name for name in chosen if name in ran]


def _needed_last(stack: Stack, names: Sequence[str]) -> Iterator[list[str]]:
    """The services in waves: whatever another one needs comes after it, so that it can still finish its work."""
    left = list(names)
    while left:
        needed = {need for name in left for need in stack.services[name].needs if need != name}
        wave = [name for name in left if name not in needed] or left
        yield wave
        left = [name for name in left if name not in wave]


def status(stack: Stack, names: Iterable[str] | None = None, patience: float = _LOOK_S) -> list[Look]:
    """Look at services side by side, at all unless `names` says which; a probe may take `patience` seconds."""
    stack.learn()
    return _side_by_side(_chosen(stack, names), lambda service: _look(stack, service, patience))


def _look(stack: Stack, service: Service, patience: float) -> Look:
    ready = readiness(service)
    if service.run in OUTSIDE and ready is None and not service.status:
        return Look(service=service, status=ServiceStatus(service=service.name, state=State.UNKNOWN, detail="no probe"))
    seen = status_of(stack, service)
    unknown = seen.state is State.UNKNOWN
    runs = seen.state is State.RUNNING or (seen.state is State.UNHEALTHY and service.run is RunBy.DOCKER)
    if ready is None or not (runs or unknown):
        return Look(service=service, status=seen, unreached=unknown)
    found = _probe(stack, ready, patience, service)
    if unknown and not found.answered:  # that may be for the same reason for which what runs it is silent
        return Look(service=service, status=seen, unreached=True)
    return Look(service=service, status=seen, probe=found)


def status_of(stack: Stack, service: Service) -> ServiceStatus:
    """What a service is doing; unknown, with the reason, where what runs it gives no answer.

    Raises:
        NotApplicable: The stack file does not say how to see it.
    """
    try:
        seen = backend_of(stack, service).status()
    except NotApplicable:
        raise
    except (ActionError, StackUnavailable) as error:
        seen = ServiceStatus(service=service.name, state=State.UNKNOWN, detail=str(error))
    return msgspec.structs.replace(seen, detail=stack.redact(seen.detail))


def _probe(stack: Stack, ready: Ready, patience: float, service: Service) -> Probe:
    """One look; an answer that is not the right one may come from another process on the service's port."""
    seen = probe(ready, patience, service.headers)
    stranger = stranger_at(seen.address, stack) if seen.answered and not seen.ready else ""
    told = f"{stranger} ({seen.detail})" if stranger else seen.detail
    return msgspec.structs.replace(seen, address=stack.redact(seen.address), detail=stack.redact(told))


def died(stack: Stack) -> list[str]:
    """The services run as processes that have ended since they were started, and that no command of k2run ended.

    One without a `ready` probe may be a job that ends, and is not among them.
    """
    stack.learn()
    watched = [one for one in stack.services.values() if one.run is RunBy.PROCESS and readiness(one) is not None]
    looks = [status_of(stack, service) for service in watched]
    ended = [one for one in looks if one.state is State.STOPPED and one.last_pid is not None]
    return [one.service for one in ended if not one.ended_by_us]


def logs(stack: Stack, name: str, lines: int = 100) -> list[LogLine]:
    """The newest lines of a service's log, oldest first, without secrets.

    Raises:
        UsageError: There is no such service.
        NotApplicable: k2run does not run it.
    """
    stack.learn()
    [service] = _chosen(stack, [name])
    found = backend_of(stack, service).log(lines=lines, since=None, deadline=Deadline(_LOOK_S * 10))
    return [msgspec.structs.replace(line, text=stack.redact(line.text)) for line in found]


def _startable(
    stack: Stack, names: Iterable[str] | None, say: Callable[[str], None], *, outside: bool
) -> list[Service]:
    """What is to be started: without what is not run by k2run, or cannot be run here."""
    chosen = stack.needed(_known(stack, names))
    startable = []
    for service in (stack.services[name] for name in stack.services if name in chosen):
        if service.run in OUTSIDE and not (outside and service.start):
            continue
        reason = stack.absent(service.name)
        if reason:
            say(f"not applicable: {reason}")
        else:
            startable.append(service)
    return startable


def _chosen(stack: Stack, names: Iterable[str] | None) -> list[Service]:
    return [stack.services[name] for name in _known(stack, names)]


def _known(stack: Stack, names: Iterable[str] | None) -> list[str]:
    known = stack.services
    wanted = list(known if names is None else names)
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"the stack {stack.name!r} has no service {name!r}",
                hint=did_you_mean(name, known) or f"it has {', '.join(known)}",
            )
    return wanted


def _require_alive(stack: Stack, service: Service, backend: Backend) -> None:
    if service.run in OUTSIDE and not service.status:
        return  # only its probe shows it, and that is asked anyway
    seen = backend.status()
    if seen.state in {State.STOPPED, State.ABSENT}:
        raise StackUnavailable(
            f"{service.name} " + stack.redact(f"{seen.detail or 'ended'} while it was started{_quote(backend)}"),
            hint=f"`k2run logs {service.name}` shows more",
        )


def _quote(backend: Backend) -> str:
    """The last log lines of a service, set apart below a message."""
    try:
        words = backend.last_words()
    except K2runError:
        return ""
    return "".join(f"\n  | {line}" for line in words.splitlines())


def _side_by_side(turns: Sequence[E], do: Callable[[E], T]) -> list[T]:
    """Do something for each at once; all are done with before the first error is raised."""
    results: list[T | None] = [None] * len(turns)
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            results[index] = do(turns[index])
        except BaseException as error:  # noqa: BLE001 - carried over to the thread that waits
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(turns))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results  # type: ignore[return-value] # each was set, or there was an error
