"""Ends a run that another process is doing: it undoes its faults, then it stops."""

from __future__ import annotations

import re
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

from k2run.engine.events import RunFinished, RunResumed, RunStarted
from k2run.engine.journal import read_journal
from k2run.engine.lock import holder
from k2run.engine.past import ended, started
from k2run.engine.signals import sign_request
from k2run.engine.undo import pending_undos
from k2run.errors import UsageError
from k2run.faces.terminal import open_face

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from k2run.engine.events import AnyEvent
    from k2run.engine.store import Store

WATCH_S = 120.0
"""Seconds after which nobody looks any more at how a run ends; it goes on undoing."""
POLL_S = 0.1
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


def abort_and_watch(store: Store, reference: str, by: str) -> bool:
    """Ask a run to end, and show how it puts back what it broke.

    Args:
        store: The k2run home.
        reference: The run's id, a unique part of it, or `last`; "" is the one that runs.
        by: Who wants it, for the run's journal.

    Returns:
        Whether it has ended and left nothing broken.

    Raises:
        UsageError: There is no such run, or it is over; without a reference: none or several run.
    """
    folder = store.find_run(reference) if reference else _running(store)
    before = read_journal(folder)
    process = process_of(store, folder.name, before)
    abort(store, folder, by)
    print(f"{folder.name} was asked to end; it undoes its faults first")
    with open_face("plain", sys.stdout) as face:
        face.recall(before)
        shown = len(before)
        ends = time.monotonic() + WATCH_S
        while True:
            over = process is None or not process.is_running() or time.monotonic() > ends
            events = read_journal(folder)
            for event in events[shown:]:
                face.see(event)
            shown = len(events)
            if over or isinstance(events[-1], RunFinished):
                return isinstance(events[-1], RunFinished) and not pending_undos(events)
            time.sleep(POLL_S)


def _running(store: Store) -> Path:
    """The one run that is under way: it holds the lock of its stack.

    Raises:
        UsageError: There is none, or several.
    """
    held = [_HOLDER.match(holder(lock.parent)) for lock in sorted(store.home.glob("stacks/*/lock"))]
    names = [said["run"] for said in held if said is not None and (store.home / "runs" / said["run"]).is_dir()]
    if len(names) == 1:
        return store.home / "runs" / names[0]
    if not names:
        raise UsageError("no run is under way", hint="`k2run undo` puts back what a dead one left")
    raise UsageError(f"{len(names)} runs are under way", hint=f"say which: {', '.join(names)}")


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
