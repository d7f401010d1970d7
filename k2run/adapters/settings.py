"""How a service is set up: run it with other options or another clock for a while, or let it crash over and over."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from k2run.actions.action import Effect, Result, Striking, Undo, action, fault
from k2run.actions.deadline import Deadline
from k2run.adapters.host.stress import LONGEST, Burdened, begin, name_of, relief
from k2run.errors import NotApplicable, Refused, StackUnavailable
from k2run.language.quantities import Duration
from k2run.stack.model import OUTSIDE, RunBy
from k2run.stack.services import Services

if TYPE_CHECKING:
    from k2run.stack.model import Service
    from k2run.stack.processes import ProcessBackend

STOP_S = 10.0
TWO_SECONDS = Duration(2)
_FAKETIME = ("lib/*/faketime/libfaketimeMT.so.1", "lib/faketime/libfaketimeMT.so.1", "local/lib/faketime/*MT.so.1")
"""Where the library lies, below /usr."""


class Reset(Result, frozen=True, kw_only=True):
    """A service runs with other settings, or with its own again.

    Attributes:
        pid: Its process; None when it ended at once, as one with a broken configuration does.
        changed: It was restarted.
        seconds: How long that took.
    """

    service: str
    pid: int | None
    changed: bool
    seconds: float

    def headline(self) -> str:
        """Such as `consumer restarted` or `consumer ended at once`."""
        if self.pid is None:
            return f"{self.service} ended at once"
        return f"{self.service} {'restarted' if self.changed else 'left as it was'}"


@fault("settings.change", undone_by="settings.restore")
def change(
    services: Services,
    deadline: Deadline,
    service: str,
    options: dict[str, str | int | float] = {},
    env: dict[str, str] = {},
    settle: Duration = TWO_SECONDS,
) -> Striking[Reset]:
    """Start a service again with other options, such as a wrong one. Undone by starting it with its own.

    Blast radius: the service, and what depends on it.

    Args:
        service: Name of the service in the stack; it must be a process.
        options: Options of its command line and their values, such as `{--rate: 0}`; a new one is added.
        env: Environment variables, beside its own.
        settle: How long to look whether it ends at once.

    Raises:
        NotApplicable: k2run does not run it as a process.
    """
    found = _process(services, service)
    other = structs.replace(
        found,
        command=_with(found.command, {name: str(value) for name, value in options.items()}),
        env={**found.env, **env},
    )
    yield Undo(action="settings.restore", args={"service": service}, says=f"restore the settings of {service}")
    return _start_as(services, deadline, other, settle)


@fault("settings.skew_clock", undone_by="settings.restore")
def skew_clock(
    services: Services, deadline: Deadline, service: str, by: Duration, behind: bool = False
) -> Striking[Reset]:
    """Start a service again with a clock that is wrong. Undone by starting it with the right one.

    Blast radius: the service, and all that trusts its times. Needs libfaketime on this machine.

    Args:
        service: Name of the service in the stack; it must be a process.
        by: How wrong.
        behind: The clock is slow; it is fast otherwise.

    Raises:
        NotApplicable: libfaketime is not installed, or k2run does not run the service as a process.
    """
    found = _process(services, service)
    env = {
        "LD_PRELOAD": _faketime(),
        "FAKETIME": f"{'-' if behind else '+'}{float(by):.3f}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    yield Undo(action="settings.restore", args={"service": service}, says=f"correct the clock of {service}")
    return _start_as(services, deadline, structs.replace(found, env={**found.env, **env}), TWO_SECONDS)


@action("settings.restore", effect=Effect.CHANGES)
def restore(services: Services, deadline: Deadline, service: str) -> Reset:
    """Start a service with the settings of the stack file, and wait until it is ready; left alone when it has them.

    Args:
        service: Name of the service in the stack.

    Raises:
        Refused: It cannot be started, or does not become ready.
        NotApplicable: k2run does not run it as a process.
    """
    from k2run.stack.lifecycle import await_ready

    began = time.monotonic()
    found = _process(services, service)
    backend = _backend(services, found)
    changed = not _has_its_own(backend, found)
    try:
        if changed:
            backend.stop(Deadline(deadline.at_most(STOP_S), deadline.stop))
            backend.start(deadline)
        await_ready(services.stack, found, deadline)
    except StackUnavailable as error:
        raise Refused(error.message, hint=error.hint) from error
    return _reset(backend, service, changed=changed, began=began)


@fault("settings.crash_loop", undone_by=("service.start", "host.relieve"))
def crash_loop(
    services: Services, deadline: Deadline, service: str, every: Duration = TWO_SECONDS, at_most: Duration = LONGEST
) -> Striking[Burdened]:
    """Let a service crash and start again, over and over. Undone by ending that and starting it.

    Blast radius: the service, and what depends on it.

    Args:
        service: Name of the service in the stack.
        every: How long it lives each time.
        at_most: When it ends by itself; the service may then be down.

    Raises:
        Refused: It does not run.
    """
    found = services.find(service)
    if found.run in OUTSIDE or services.backend(service).status().pid is None:
        raise Refused(f"{service} is not running, or k2run does not run it")
    burden = name_of("crash")
    yield Undo(action="service.start", args={"service": service}, says=f"start {service}")
    yield relief(burden, f"stop crashing {service}")
    stack = services.stack
    home = Path(stack.state).parents[1]
    return begin(services, deadline, burden, [str(stack.path), str(home), service, str(float(every))], at_most)


# --- what they share -------------------------------------------------------------------------------------------------


def _process(services: Services, name: str) -> Service:
    found = services.find(name)
    if found.run is not RunBy.PROCESS:
        raise NotApplicable(f"{name} is not a process of k2run, so its settings cannot be changed here")
    return found


def _backend(services: Services, service: Service) -> ProcessBackend:
    from k2run.stack.processes import ProcessBackend

    return ProcessBackend(service, services.stack.state)


def _with(command: list[str], options: dict[str, str]) -> list[str]:
    """A command line with some options set to other values, written as `--name value` or `--name=value`."""
    changed = list(command)
    for name, value in options.items():
        at = next((at for at, word in enumerate(changed) if word == name or word.startswith(f"{name}=")), None)
        if at is None:
            changed.append(f"{name}={value}")
        elif changed[at] == name and at + 1 < len(changed):
            changed[at + 1] = value
        else:
            changed[at] = f"{name}={value}"
    return changed


def _start_as(services: Services, deadline: Deadline, other: Service, settle: Duration) -> Reset:
    began = time.monotonic()
    backend = _backend(services, other)
    backend.stop(Deadline(deadline.at_most(STOP_S), deadline.stop))
    backend.start(deadline)
    ends = time.monotonic() + settle
    while backend.status().pid is not None and time.monotonic() < ends:
        deadline.sleep(0.05)
    return _reset(backend, other.name, changed=True, began=began)


def _has_its_own(backend: ProcessBackend, service: Service) -> bool:
    """Whether the process that runs was started as the stack file says."""
    import psutil

    from k2run.stack.process_group import fingerprint

    pid = backend.status().pid
    if pid is None:
        return False
    record = backend.record()
    if record is not None and record.started_as:  # the process itself may have become another program since
        return record.started_as == fingerprint(service)
    try:
        process = psutil.Process(pid)
        line, environment = process.cmdline(), process.environ()
    except psutil.Error:
        return False
    ours = {"LD_PRELOAD", "FAKETIME"} & environment.keys() <= service.env.keys()
    same = line[-len(service.command) + 1 :] == service.command[1:] if len(service.command) > 1 else True
    return same and ours and all(environment.get(name) == value for name, value in service.env.items())


def _reset(backend: ProcessBackend, service: str, *, changed: bool, began: float) -> Reset:
    seconds = round(time.monotonic() - began, 3)
    return Reset(service=service, pid=backend.status().pid, changed=changed, seconds=seconds, source=service)


def _faketime() -> str:
    found = [path for pattern in _FAKETIME for path in Path("/usr").glob(pattern)]
    if not found:
        raise NotApplicable(
            "libfaketime is not installed, so no clock can be skewed", hint="install the package faketime"
        )
    return str(found[0])
