"""Coroutines and blocking calls under the deadline of a step: for client libraries that know no deadline themselves."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from k2run.actions.deadline import Deadline

T = TypeVar("T")

SLICE = 0.1
"""Seconds after which the deadline is asked again; a request to stop is noticed within it."""
_FAREWELLS = 3


def punctually(work: Coroutine[Any, Any, T], deadline: Deadline) -> T:
    """What the coroutine returns; cancelled when the deadline passes or the run is asked to end.

    The loop is closed without waiting for its threads: a name server that does not answer must not hold a step.

    Raises:
        TimedOut: The deadline passed first.
        Interrupted: The run was asked to end.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_watched(work, deadline))
    finally:
        loop.close()


async def _watched(work: Coroutine[Any, Any, T], deadline: Deadline) -> T:
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=deadline.at_most(SLICE))
    except BaseException:
        await _end(task)
        raise
    return task.result()


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel it, again where it tries to part politely from somebody who does not answer."""
    for _ in range(_FAREWELLS):
        task.cancel()
        await asyncio.wait({task}, timeout=SLICE)
        if task.done():
            with contextlib.suppress(asyncio.CancelledError):
                task.exception()
            return


def apart(call: Callable[[], T], deadline: Deadline) -> T:
    """What a blocking call returns; it is left behind, in a thread of its own, when the deadline passes first.

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
        except Exception as error:  # noqa: BLE001 - raised again where somebody waits for it
            raised.append(error)

    thread = threading.Thread(target=work, name=f"apart {call!r}", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(deadline.at_most(SLICE))
    if raised:
        raise raised[0]
    return returned[0]
