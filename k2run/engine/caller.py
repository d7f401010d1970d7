"""Calls one action: connections from the stack, arguments from the step, a deadline that nothing outlives."""

from __future__ import annotations

import threading
from types import GeneratorType
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import asdict

from k2run.actions.connection import Connection
from k2run.actions.deadline import Deadline
from k2run.actions.person import Person
from k2run.engine.pointing import places, pointed
from k2run.errors import AuthorError, Interrupted, K2runError, TimedOut, Unreachable
from k2run.language.arguments import argument_types, takes_quantity
from k2run.language.quantities import QUANTITIES, decode_quantity, encode_quantity

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from k2run.actions.action import Undo
    from k2run.actions.catalogue import Action, Catalogue
    from k2run.stack.loading import Stack

GRACE = 0.4
"""Seconds that an action may take past its deadline to clean up before it is left behind."""


class Caller:
    """Calls actions of a catalogue on one stack.

    Args:
        catalogue: Where actions are found.
        stack: Where their connections come from.
        person: Makes the person whom a step may ask, from the step's path.

    Attributes:
        catalogue: The same.
        person: The same.
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
            plan: Keeps a fault's undo before it strikes; without it faults are refused.

        Raises:
            K2runError: It failed; other exceptions are the action's own bugs.
        """
        action = self.action(name)
        arguments = convert_arguments(action, args)
        for parameter, kind in action.given.items():
            arguments[parameter] = self._give(kind, deadline, step)

        def work() -> Any:
            returned = action.call(**arguments)
            return strike(returned, plan) if isinstance(returned, GeneratorType) else returned

        try:
            return work() if action.punctual else finish_by(deadline, work, name)
        except (Unreachable, TimedOut) as error:
            raise pointed(error, places(map(self.connection, action.connections), args)) from error

    def _give(self, kind: type, deadline: Deadline, step: str) -> Any:
        if issubclass(kind, Deadline):
            return deadline
        if issubclass(kind, Person):
            return self.person(step)
        return self.connection(kind) if issubclass(kind, Connection) else None

    def connection(self, kind: type[Connection]) -> Connection:
        """The stack's connection of that type, made once."""
        if kind not in self._connections:
            self._connections[kind] = kind.of(self._stack)
        return self._connections[kind]


def convert_arguments(action: Action, args: dict[str, Any]) -> dict[str, Any]:
    """The step's arguments as the action's parameters.

    Raises:
        AuthorError: A rendered value does not fit.
    """
    try:
        struct = msgspec.convert(_as_declared(action, args), action.arguments, dec_hook=decode_quantity)
    except msgspec.ValidationError as error:
        raise AuthorError(f"{action.name}: {error}", hint=f"see `k2run doc {action.name}`") from error
    return asdict(struct)


def _as_declared(action: Action, args: dict[str, Any]) -> dict[str, Any]:
    """The arguments; a computed quantity, where the action takes a plain number, as that number in base units."""
    declared = args
    for name, value in args.items():
        if isinstance(value, QUANTITIES):
            kinds = argument_types(action.arguments)
            if name in kinds and not takes_quantity(kinds[name]):
                declared = {**declared, name: encode_quantity(value)}
    return declared


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

    threading.Thread(target=run, name=name, daemon=True).start()
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
    return (
        f"unexpected {type(error).__name__}: {error}",
        "this is a defect of the action; the traceback is in the run's debug.log",
    )
