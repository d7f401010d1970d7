"""Starts burdens and ends them; a burden is found by its mark, also after the k2run that started it is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from k2run.actions.action import Result, Undo
from k2run.errors import Refused, TimedOut
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import psutil

    from k2run.actions.deadline import Deadline
    from k2run.stack.services import Services

MARK = "K2RUN_BURDEN"
LONGEST = Duration(600)
_LOOK_S = 0.02
_GONE_S = 5.0


class Burdened(Result, frozen=True, kw_only=True):
    """A burden that weighs.

    Attributes:
        burden: Its name, by which it is ended.
        pid: Its process.
        ends_in_s: Seconds after which it ends by itself.
    """

    burden: str
    pid: int
    ends_in_s: float


class Relieved(Result, frozen=True, kw_only=True):
    """A burden is gone.

    Attributes:
        ended: How many processes it had.
    """

    burden: str
    ended: int


def name_of(kind: str) -> str:
    """A name for a new burden."""
    return f"{kind}-{os.urandom(3).hex()}"


def relief(burden: str, says: str) -> Undo:
    """The undo of a burden, to be planned before it begins."""
    return Undo(action="host.relieve", args={"burden": burden}, says=says)


def begin(
    services: Services,
    deadline: Deadline,
    burden: str,
    arguments: Sequence[str],
    at_most: Duration,
    environment: Mapping[str, str] | None = None,
) -> Burdened:
    """Start a burden and wait until it weighs.

    Args:
        services: The stack that it is a burden to.
        deadline: How long it may take to begin.
        burden: Its name, which begins with its kind.
        arguments: Its arguments.
        at_most: When it ends by itself.
        environment: Variables for it alone, such as a password, which no list of processes is to show.

    Raises:
        Refused: It cannot begin; the message says why.
        TimedOut: It has not begun in time.
    """
    from k2run.stack.process_group import start_apart

    kind = burden.partition("-")[0]
    child = start_apart(
        [sys.executable, "-m", "k2run.adapters.host.stress_process", kind, str(float(at_most)), *arguments],
        env={**os.environ, **(environment or {}), MARK: _mark(services, burden)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said: list[bytes] = []
    reading = threading.Thread(
        target=lambda: said.append(child.stdout.readline() if child.stdout else b""), daemon=True
    )
    reading.start()
    try:
        while reading.is_alive():
            deadline.sleep(_LOOK_S)
    except TimedOut:
        end(services, burden)
        raise TimedOut(
            f"{kind} did not start within {deadline.seconds:g}s", hint="is the machine overloaded?"
        ) from None
    if b"ready" not in said[0]:
        words = child.communicate()[1].decode(errors="replace").strip().splitlines()
        raise Refused(f"cannot start {kind}: {words[-1] if words else 'it ended'}")
    return Burdened(burden=burden, pid=child.pid, ends_in_s=float(at_most), source=services.stack.name)


def end(services: Services, burden: str) -> Relieved:
    """End a burden with all its processes; nothing happens when it is gone."""
    import psutil

    ended: set[int] = set()
    limit = time.monotonic() + _GONE_S
    while found := list(_processes(_mark(services, burden))):  # again: it may have started one while it was looked for
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        ended |= {process.pid for process in found}
        psutil.wait_procs(found, timeout=_GONE_S)
        if time.monotonic() > limit:
            break
    return Relieved(burden=burden, ended=len(ended), source=services.stack.name)


def _mark(services: Services, burden: str) -> str:
    return f"{services.stack.state}:{burden}"


def _processes(mark: str) -> Iterator[psutil.Process]:
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                yield process
