"""Ends a run that another process is doing: it undoes its faults, then it stops."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

from k2run.engine.events import RunResumed, RunStarted
from k2run.engine.journal import read_journal
from k2run.engine.lock import holder
from k2run.engine.past import ended, started
from k2run.engine.signals import sign_request
from k2run.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from k2run.engine.events import AnyEvent
    from k2run.engine.store import Store

_HOLDER = re.compile(r"(?P<run>\S+) \(pid (?P<pid>\d+)\)")


def abort(store: Store, folder: Path, by: str) -> None:
    """Ask a run to end; it undoes its faults first.

    Args:
        store: The k2run home.
        folder: The run's folder.
        by: Who wants it, for the run's journal.

    Raises:
        UsageError: The run is over, or its process is gone.
    """
    events = read_journal(folder)
    over = ended(events)
    if over is not None:
        raise UsageError(f"{folder.name} has ended: {over.verdict}")
    process = process_of(store, folder.name, events)
    if process is None:
        raise UsageError(
            f"{folder.name} is not running any more", hint="`k2run undo` puts back what it left, `k2run resume` goes on"
        )
    sign_request(folder, by)
    with suppress(psutil.NoSuchProcess):
        process.terminate()


def process_of(store: Store, run: str, events: Sequence[AnyEvent]) -> psutil.Process | None:
    """The process that does a run now: it holds the lock of the stack in the name of the run, and the journal names it.

    The lock is only probed while its text names the run and that process lives: a probe of a free lock could get in the
    way of somebody who is about to take it.
    """
    folder = store.stack_folder(started(events).stack)
    pid = next((event.pid for event in reversed(events) if isinstance(event, RunStarted | RunResumed)), 0)
    try:
        said = _HOLDER.match((folder / "lock").read_text())
        if said is None or (said["run"], int(said["pid"])) != (run, pid):
            return None
        process = psutil.Process(pid)
        return process if _HOLDER.match(holder(folder)) else None
    except (OSError, psutil.NoSuchProcess):
        return None
