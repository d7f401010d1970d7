"""Aborts a run of another process: it undoes its faults, then stops."""

from __future__ import annotations

import re
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

from k2run.engine.events import RunFinished, RunResumed, RunStarted
from k2run.engine.interrupts import sign_request
from k2run.engine.journal import read_journal
from k2run.engine.replay import ended, started
from k2run.engine.store import holder, running
from k2run.engine.undo import pending_undos
from k2run.errors import UsageError
from k2run.terminal.mode import open_face
from k2run.terminal.safe_stream import say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from k2run.engine.events import AnyEvent
    from k2run.engine.store import Store

WATCH_S = 120.0
"""Seconds after which the end of a run is no longer followed; the run continues undoing."""
POLL_S = 0.1
_HOLDER = re.compile(r"(?P<run>\S+) \(pid (?P<pid>\d+)\)")


def abort(store: Store, folder: Path, by: str) -> None:
    """Ask a run to end; it undoes its faults first.

    Args:
        store: The k2run home.
        folder: The run's folder.
        by: Who asks for it, for the run's journal.

    Raises:
        UsageError: The run has ended, or its process is gone.
    """
    events = read_journal(folder)
    over = ended(events)
    if over is not None:
        raise UsageError(f"{folder.name} has ended: {over.verdict}")
    process = process_of(store, folder.name, events)
    if process is None:
        raise UsageError(
            f"{folder.name} is no longer running", hint="`k2run undo` undoes what it left, `k2run resume` continues it"
        )
    with suppress(OSError):  # only a name for its journal
        sign_request(folder, by)
    with suppress(psutil.NoSuchProcess):
        process.terminate()
        process.resume()  # one that stands still (SIGSTOP, Ctrl-Z) takes no other signal


def abort_and_watch(store: Store, reference: str, by: str) -> bool:
    """Ask a run to end, and show how it undoes its faults.

    Args:
        store: The k2run home.
        reference: The run's id, a unique part of it, or `last`; "" is the one that runs.
        by: Who asks for it, for the run's journal.

    Returns:
        Whether it has ended and left nothing broken.

    Raises:
        UsageError: There is no such run, or it has ended; without a reference: no run is in progress, or several are.
    """
    folder = store.find_run(reference) if reference else _running(store)
    before = read_journal(folder)
    process = process_of(store, folder.name, before)
    abort(store, folder, by)
    say(f"{folder.name} was asked to end; it undoes its faults first")
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
    """The one run in progress: it holds the lock of its stack.

    Raises:
        UsageError: There is none, or several.
    """
    names = running(store.home)
    if len(names) == 1:
        return store.home / "runs" / names[0]
    if not names:
        raise UsageError("no run is in progress", hint="`k2run undo` undoes what an interrupted one left")
    raise UsageError(f"{len(names)} runs are in progress", hint=f"choose one: {', '.join(names)}")


def process_of(store: Store, run: str, events: Sequence[AnyEvent]) -> psutil.Process | None:
    """The process that does a run now: it holds the lock of the stack in the name of the run, and the journal names it.

    The lock is only probed while its text names the run and that process lives: a probe of a free lock could get in the
    way of a process that is about to take it.
    """
    folder = store.stack_folder(started(events).stack)
    pid = next((event.pid for event in reversed(events) if isinstance(event, RunStarted | RunResumed)), 0)
    try:
        said = _HOLDER.match((folder / "lock").read_text(encoding="utf-8"))
        if said is None or (said["run"], int(said["pid"])) != (run, pid):
            return None
        process = psutil.Process(pid)
        return process if _HOLDER.match(holder(folder)) else None
    except (OSError, psutil.NoSuchProcess):
        return None
