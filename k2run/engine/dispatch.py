"""Calls one action, here or on another stack: connections, arguments, a deadline that nothing outlives."""

from __future__ import annotations

import threading
from pathlib import Path
from types import GeneratorType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import asdict

from k2run.actions.action import Person, beginning
from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.errors import AuthorError, Interrupted, K2runError, NotApplicable, TimedOut, Unreachable
from k2run.language.arguments import as_declared
from k2run.language.quantities import decode_quantity
from k2run.stack.services import Services
from k2run.stack.stack import load_stack

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from k2run.actions.action import Undo
    from k2run.actions.catalogue import Action, Catalogue
    from k2run.language.model import Runbook
    from k2run.stack.stack import Stack

_NEAR, _SHOWN = 12, 60
"""Bytes on either side of one that cannot be read, and characters of a text, that an error shows."""
_LOOK_THERE = "look at what the system sends there"
GRACE = 0.4
"""Seconds that an action may take past its deadline to clean up before it is left behind."""


class Caller:
    """Calls actions of a catalogue on one stack.

    Args:
        catalogue: Where actions are found.
        stack: Where their connections come from.
        person: Makes the person whom a step may ask, from the step's path.
    """

    def __init__(self, catalogue: Catalogue, stack: Stack, person: Callable[[str], Person]) -> None:
        self.catalogue = catalogue
        self._stack = stack
        self.person = person
        self._connections: dict[type[Connection], Connection] = {}

    def action(self, name: str) -> Action:
        """The action of that name.

        Raises:
            AuthorError: There is none; an undo may have been written by a version that had it.
        """
        found = self.catalogue.find(name)
        if found is None:
            raise AuthorError(f"there is no action {name!r}", hint="is the adapter that brings it still installed?")
        return found

    def call(
        self,
        name: str,
        args: dict[str, Any],
        deadline: Deadline,
        *,
        step: str = "",
        plan: Callable[[Undo], None] | None = None,
    ) -> Any:
        """Call an action and wait for its result, at most until the deadline.

        Args:
            name: Name of the action.
            args: Its arguments, rendered.
            deadline: Its time, and whether it should stop.
            step: Path of the step that calls; a person is asked in its name.
            plan: Keeps a fault's undo before it is injected; without it faults are refused.

        Raises:
            K2runError: It failed; other exceptions are the action's own bugs.
        """
        action = self.action(name)
        if step:
            _refuse_empty(action, args)
        arguments = convert_arguments(action, args)
        for parameter, kind in action.given.items():
            arguments[parameter] = self._give(kind, deadline, step)

        def work() -> Any:
            returned = action.call(**arguments)
            return strike(returned, plan and only(action, plan)) if isinstance(returned, GeneratorType) else returned

        try:
            return work() if action.punctual else finish_by(deadline, work, name)
        except (Unreachable, TimedOut) as error:
            raise pointed(error, places(map(self.connection, action.connections), args)) from error

    def _give(self, kind: type, deadline: Deadline, step: str) -> Any:
        if issubclass(kind, Deadline):
            return deadline
        if issubclass(kind, Person):
            return self.person(step)
        return self.connection(kind).at(step) if issubclass(kind, Connection) else None

    def connection(self, kind: type[Connection]) -> Connection:
        """The stack's connection of that type, made once.

        Raises:
            NotApplicable: The stack has none, or the service that it belongs to is absent on this machine.
        """
        if kind not in self._connections:
            made = kind.of(self._stack)
            absent = self._stack.unusable(kind.key)
            if absent:
                raise NotApplicable(absent)
            self._connections[kind] = made
        return self._connections[kind]


def convert_arguments(action: Action, args: dict[str, Any]) -> dict[str, Any]:
    """The step's arguments as the action's parameters.

    Raises:
        AuthorError: A rendered value does not fit.
    """
    try:
        struct = msgspec.convert(as_declared(action.arguments, args), action.arguments, dec_hook=decode_quantity)
    except msgspec.ValidationError as error:
        raise AuthorError(f"{action.name}: {error}", hint=f"see `k2run doc {action.name}`") from error
    return asdict(struct)


def only(fault: Action, plan: Callable[[Undo], None]) -> Callable[[Undo], None]:
    """The same, for undos that the fault has declared: no others would be played from the journal of a dead run."""

    def keep(undo: Undo) -> None:
        if not fault.may_plan(undo.action):
            raise AuthorError(
                f"{fault.name} plans {undo.action} as its undo without having declared it",
                hint=f'@fault("{fault.name}", undone_by="{undo.action}")',
            )
        plan(undo)

    return keep


def strike(fault: Generator[Undo, None, Any], plan: Callable[[Undo], None] | None) -> Any:
    """Run a fault: each undo it yields is kept before it may go on.

    Raises:
        AuthorError: A fault was called where no undo can be kept.
    """
    if plan is None:
        fault.close()
        raise AuthorError("a fault cannot be used here", hint="an undo or a symptom may not break anything itself")
    try:
        while True:
            plan(next(fault))
    except StopIteration as stop:
        return stop.value


class CallThread(threading.Thread):
    """Makes one call of an action; may be left behind by it."""


def is_one_left_behind() -> bool:
    """Whether a call that outlived its deadline is still under way."""
    return any(isinstance(thread, CallThread) for thread in threading.enumerate())


def finish_by(deadline: Deadline, work: Callable[[], Any], name: str) -> Any:
    """Run `work` in a thread of its own and wait for it until the deadline, or until the run is asked to end.

    Client libraries block where no signal reaches them; the engine must not. A thread that outlives its deadline is
    left behind: its result is not waited for and not used.

    Raises:
        TimedOut: It was not done in time.
        Interrupted: The run was asked to end.
    """
    done = threading.Event()
    box: list[Any] = [None, None]

    def run() -> None:
        try:
            box[0] = work()
        except BaseException as error:  # noqa: BLE001 - carried over to the thread that waits
            box[1] = error
        finally:
            done.set()

    CallThread(target=run, name=name, daemon=True).start()
    _wait(done, deadline)
    if box[1] is not None:
        raise box[1]
    if not done.is_set():
        raise TimedOut(
            f"not done within {deadline.seconds:g}s", hint="raise the step's timeout, or find out what is slow"
        )
    return box[0]


def _wait(done: threading.Event, deadline: Deadline) -> None:
    """Wait for the work, the deadline (and a little grace), or a request to stop (and a little grace)."""
    while not done.is_set():
        try:
            left = deadline.remaining()
        except TimedOut:
            done.wait(GRACE)
            return
        except Interrupted:
            if not done.wait(GRACE):
                raise
            return
        done.wait(min(left, 0.2))


def message_of(error: BaseException) -> tuple[str, str]:
    """What to tell about an error: the message and the hint."""
    if isinstance(error, K2runError):
        return error.message, error.hint
    return _mistake(error) or (
        f"unexpected {type(error).__name__}: {error}",
        "this is a defect of the action; the traceback is in the run's debug.log",
    )


def _mistake(error: BaseException) -> tuple[str, str] | None:
    """What a value of the user, or an answer of a system, has made Python say."""
    told: tuple[str, str] | None = None
    match error:
        case UnicodeDecodeError():
            wrong = error.object[error.start]
            near = ascii(bytes(error.object[max(0, error.start - _NEAR) : error.start + _NEAR]))
            message = f"an answer cannot be read: byte 0x{wrong:02x} at {error.start:,} is not UTF-8, near {near}"
            told = message, _LOOK_THERE
        case UnicodeEncodeError():
            shown = beginning(error.object, _SHOWN)
            message = f"{error.object[error.start]!r} of {shown!r} cannot be sent: {error.reason}"
            told = message, "write it without that character"
        case RecursionError():
            told = "an answer cannot be read: it is nested too deep", _LOOK_THERE
        case ValueError() if "embedded null" in str(error):
            told = "a text has a NUL character in it, which no path, name or command has", "take the \\0 out"
        case RuntimeError() if "home directory" in str(error):
            told = "a path begins with `~` and a user that there is not", "write the whole path"
    return told


def _refuse_empty(action: Action, args: Mapping[str, Any]) -> None:
    """A text or list that an action cannot do without is not empty: there would be nothing to do, and that would pass.

    Raises:
        AuthorError: One is.
    """
    for field in msgspec.structs.fields(action.arguments):
        value = args.get(field.encode_name)
        empty = not value.strip() if isinstance(value, str) else isinstance(value, list) and not value
        if field.required and empty:
            raise AuthorError(
                f"{action.name}: `{field.encode_name}` is empty, so nothing would be done",
                hint="what gave the text? a template can fill in nothing",
            )


_ADDRESSES = ("bootstrap", "url", "uri", "endpoint")
"""Attributes by which connections name their address."""

Silence = Unreachable | TimedOut


class Place(NamedTuple):
    """Somewhere an action speaks to: `127.0.0.1:9092`, by `connections.kafka`."""

    address: str
    setting: str


def places(connections: Iterable[Connection], args: Mapping[str, Any]) -> list[Place]:
    """The places that an action with these connections and arguments speaks to."""
    found: list[Place] = []
    for connection in connections:
        if isinstance(connection, Services):
            found += _of_service(connection, args.get("service"))
        elif address := _address(connection):
            found.append(Place(address, f"connections.{connection.key}"))
    return found


def pointed(error: Silence, there: list[Place]) -> Silence:
    """The error with the address and the setting, where it has none of them yet."""
    said = f"{error.message} {error.hint}"
    message, hint = error.message, error.hint
    if not any(place.address in said for place in there):
        message += f" (at {' and '.join(place.address for place in there)})" if there else ""
    if there and not any(place.setting in said for place in there):
        settings = " and ".join(place.setting for place in there)
        hint = "; ".join(filter(None, [hint, f"see {settings} in the stack file"]))
    return error if (message, hint) == (error.message, error.hint) else type(error)(message, hint=hint)


def _of_service(services: Services, name: Any) -> list[Place]:
    service = services.stack.services.get(name) if isinstance(name, str) else None
    if service is None:
        return []
    shown = service.url or service.metrics or (service.ready.http or service.ready.tcp if service.ready else "")
    return [Place(_host(shown), f"services.{name}")] if shown else []


def _address(connection: Connection) -> str:
    """Host and port; never a path, which may be the secret of a webhook."""
    for name in _ADDRESSES:
        if written := getattr(connection, name, ""):
            return _host(written)
    host, port = getattr(connection, "host", ""), getattr(connection, "port", "")
    return f"{host}:{port}" if host and port else str(host)


def _host(written: str) -> str:
    """`host:port` of a URL without user and password, or the file that it names; what is no URL stays as it is."""
    if "://" not in written:
        return written
    parts = urlsplit(written)
    return parts.netloc.rpartition("@")[2] or f"/{parts.path.lstrip('/')}"


class Delegates:
    """The other stacks of a run, each read when it is first asked for.

    Args:
        runbook: Where names of stacks are looked for from.
        caller: Calls actions on the run's own stack.
        home: The `.k2run` folder.
    """

    def __init__(self, runbook: Runbook, caller: Caller, home: Path) -> None:
        self._near = Path(runbook.home) if runbook.home else None
        self._caller = caller
        self._home = home
        self._known: dict[str, tuple[Stack, Caller]] = {}

    def find(self, reference: str, own: Stack) -> tuple[Stack, Caller]:
        """A stack and who calls actions on it; its secrets are masked in the records of the run's own.

        Raises:
            StackInvalid: There is no such stack, or its file is wrong.
        """
        if reference not in self._known:
            stack = load_stack(reference, near=self._near, home=self._home, overrides={})
            stack.redact = own.redact
            self._known[reference] = (stack, Caller(self._caller.catalogue, stack, self._caller.person))
        return self._known[reference]
