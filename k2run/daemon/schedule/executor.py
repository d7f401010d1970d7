"""Where scheduled runs are done: processes on this machine, each found again by the name under which it was started."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from k2run.app.abort import process_of
from k2run.app.detached import Order, last_words, start_detached
from k2run.app.launch import open_stack
from k2run.daemon.schedule.scheduler import Ending
from k2run.engine.journal import ends_of, read_journal
from k2run.engine.replay import ended
from k2run.engine.store import holder
from k2run.errors import K2runError
from k2run.stack.secrets import as_written

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from k2run.daemon.schedule.entries import Entry
    from k2run.daemon.schedule.ledger import Record
    from k2run.engine.store import Store


def marker(entry: str, due: datetime) -> str:
    """Who asked for the run of a due time, as its journal says."""
    return f"schedule {entry} {due:%Y-%m-%dT%H:%M:%SZ}"


def this_host() -> str:
    """The name of this machine, as it begins the names of its schedulers."""
    return socket.gethostname()


class ProcessExecutor:
    """Starts runs as processes of their own.

    Args:
        store: The k2run home.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._names: dict[tuple[str, Path], str] = {}

    def holder(self, stack: str) -> str:
        """Who holds a stack; empty when it is free."""
        return holder(self._store.stack_folder(self._name(stack)))

    def start(self, entry: Entry, due: datetime, release: Callable[[], None]) -> Process:
        """Start the run of a due time; its stack is released at the moment in which its process ends."""
        schedule = entry.schedule
        order = Order(
            runbook=entry.runbook.absolute(),
            stack=schedule.stack,
            by=marker(entry.id, due),
            inputs={name: as_written(value) for name, value in schedule.inputs.items()},
            tags=schedule.tags,
        )
        log = self._store.home / "schedule" / entry.id / f"{due:%Y%m%dT%H%M%SZ}.log"
        process = start_detached(order, self._store.home, log)
        threading.Thread(target=_release_after, args=(process, release), daemon=True).start()
        return Process(process, self._store, marker(entry.id, due), log, due)

    def trace(self, record: Record) -> Ending | None:
        """How a run ended that another scheduler of this machine has started."""
        if record.owner.rpartition(":")[0] != this_host():
            return None
        folder = find_run(self._store, marker(record.entry, record.due), record.due)
        if folder is None:
            return Ending(why="the scheduler died before the run began")
        return _ending(self._store, folder)

    def _name(self, stack: str) -> str:
        """The name that a stack's file gives it; a stack that cannot be read counts as free."""
        from pathlib import Path

        try:
            return open_stack(stack, near=Path("runbooks"), store=self._store).name
        except K2runError:
            return stack


def _release_after(process: subprocess.Popen[bytes], release: Callable[[], None]) -> None:
    process.wait()
    release()


class Process:
    """The process of one run."""

    def __init__(self, process: subprocess.Popen[bytes], store: Store, by: str, log: Path, due: datetime) -> None:
        self._process = process
        self._store = store
        self._by = by
        self._log = log
        self._due = due

    def ending(self) -> Ending | None:
        """How it ended; None while it goes on."""
        code = self._process.poll()
        if code is None:
            return None
        folder = find_run(self._store, self._by, self._due)
        if folder is None:
            return Ending(why=last_words(self._log), exit_code=code)
        self._log.unlink(missing_ok=True)  # the journal has it all
        ending = _ending(self._store, folder)
        return Ending(run=folder.name, why=ending.why if ending else "", exit_code=code)

    def stop(self) -> None:
        """Ask it to end; it undoes its faults first."""
        if self._process.poll() is None:
            self._process.terminate()


def find_run(store: Store, by: str, since: datetime) -> Path | None:
    """The run that was asked for under that name, not earlier than `since`."""
    earliest = f"{since:%Y%m%d-%H%M%S}"
    for folder in reversed(store.runs()):
        if folder.name < earliest:
            return None
        begun, _ = ends_of(folder)
        if begun is not None and begun.by == by:
            return folder
    return None


def _ending(store: Store, folder: Path) -> Ending | None:
    events = read_journal(folder)
    over = ended(events)
    if over is not None:
        return Ending(run=folder.name, why=over.verdict, exit_code=over.exit_code)
    if process_of(store, folder.name, events) is not None:
        return None
    return Ending(run=folder.name, why="the run was interrupted; `k2run resume` continues it")
