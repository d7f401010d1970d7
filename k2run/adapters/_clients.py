"""Client libraries: whether one is installed, and its calls under the deadline of a step if it knows none itself.

Coroutines and blocking calls run in a thread of their own. When the deadline passes, the step continues at once, and
what was begun there is cleared away in the background: a polite close of a peer that does not answer takes longer than
a step may.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from k2run.errors import NotApplicable, Refused, TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from k2run.actions.deadline import Deadline


T = TypeVar("T")
SLICE = 0.1
"""Seconds after which the deadline is asked again; a request to stop is noticed within it."""
FAREWELL = 0.25
"""Seconds that a step waits for what it cancelled."""
PATIENCE = 10.0
"""Seconds after which a farewell is cut short, too."""


def require(extra: str, *modules: str) -> None:
    """Complain when a module of an extra is not installed.

    Raises:
        NotApplicable: With what to install.
    """
    if missing := _missing(modules):
        raise NotApplicable(f"{missing} is not installed", hint=f"pip install 'k2run[{extra}]'")


def require_client(extra: str, *modules: str) -> None:
    """Complain when the client library of a system is not installed: the system may be there, and cannot be asked.

    Raises:
        Refused: With what to install.
    """
    if missing := _missing(modules):
        raise Refused(f"the client library {missing} is not installed", hint=f"pip install 'k2run[{extra}]'")


def _missing(modules: tuple[str, ...]) -> str:
    return " and ".join(module for module in modules if find_spec(module) is None)


def late(address: str, deadline: Deadline, hint: str) -> TimedOut:
    """The error for a system that did not answer before the deadline."""
    return TimedOut(f"{address} has not answered within {deadline.seconds:g}s", hint=hint)


def cause_of(error: object, *secrets: str) -> str:
    """What a client library says of an error, on one line and without secrets; its type when it says nothing.

    `secrets` are what it may quote, such as a password; empty ones mean nothing.
    """
    return " ".join(masked(str(error), *secrets).split()) or type(error).__name__


def masked(text: str, *secrets: str) -> str:
    """A text without secrets; empty ones mean nothing."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


def punctually(work: Coroutine[Any, Any, T], deadline: Deadline) -> T:
    """What the coroutine returns; cancelled when the deadline passes or the run is asked to end.

    Raises:
        TimedOut: The deadline passed first.
        Interrupted: The run was asked to end.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    thread = threading.Thread(target=_see_through, args=(loop, task), name="punctually", daemon=True)
    thread.start()
    try:
        _await(thread, deadline)
    except BaseException:
        with contextlib.suppress(RuntimeError):  # the loop is closed: it ended just now
            loop.call_soon_threadsafe(task.cancel)
            loop.call_soon_threadsafe(lambda: loop.call_later(PATIENCE, task.cancel))
        thread.join(FAREWELL)
        raise
    return task.result()


def apart(call: Callable[[], T], deadline: Deadline) -> T:
    """What a blocking call returns; it is left behind when the deadline passes first.

    The call should have a timeout of its own, so that it does not stay there for good.

    Raises:
        TimedOut: The deadline passed first.
        Interrupted: The run was asked to end.
    """
    returned: list[T] = []
    raised: list[Exception] = []

    def work() -> None:
        try:
            returned.append(call())
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            raised.append(error)

    thread = threading.Thread(target=work, name="apart", daemon=True)
    thread.start()
    _await(thread, deadline)
    if raised:
        raise raised[0]
    return returned[0]


def _await(thread: threading.Thread, deadline: Deadline) -> None:
    while thread.is_alive():
        thread.join(deadline.at_most(SLICE))


def _see_through(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    """Run the loop until the task has ended, whichever way."""
    try:
        loop.run_until_complete(asyncio.wait({task}))
        if not task.cancelled():
            task.exception()  # it is raised again where it is waited for
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
