"""Takes every incident to its next step: diagnose, choose the runbook, start it, note how it ended."""

from __future__ import annotations

import threading
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.actions.catalogue import Catalogue
from k2run.engine.journal import read_journal
from k2run.errors import K2runError
from k2run.faces.abort import process_of
from k2run.faces.alerts.incident import Began, Chosen, Diagnosed, Ended, Incident, Ordered, PutOff
from k2run.faces.alerts.matching import choose, stack_of
from k2run.faces.detached import Order, last_words, start_detached
from k2run.faces.diagnose import lines_of, recovery_runbooks
from k2run.faces.journals import ends_of
from k2run.faces.launch import DEFAULT_STACK, open_stack

if TYPE_CHECKING:
    import subprocess

    from k2run.engine.events import RunFinished
    from k2run.engine.store import Store
    from k2run.faces.alerts.book import Book
    from k2run.faces.alerts.messages import Messages

POLL_S = 0.5
FRESH_S = 10.0
"""A diagnosis serves all incidents of its stack for this long."""
RETRY_S = 10.0
LOST_S = 120.0
"""A run that was ordered by a server that died, and left no journal in this time, never began."""
BUSY = 4
"""The exit code of a run that found its stack held."""


class _Run(Struct, frozen=True):
    process: subprocess.Popen[bytes]
    marker: str
    log: Path


class Keeper:
    """Looks after the incidents of one k2run home, in a thread of its own.

    Args:
        store: The k2run home.
        book: Its incidents.
        stack: The stack that is looked at unless a runbook's alert names another.
        messages: Tells people what becomes of the incidents.
    """

    def __init__(
        self, store: Store, book: Book, stack: str = DEFAULT_STACK, *, messages: Messages | None = None
    ) -> None:
        self._store = store
        self._book = book
        self._stack = stack
        self._messages = messages
        self._runs: dict[str, _Run] = {}
        self._not_before: dict[str, float] = {}
        self._diagnoses: dict[str, tuple[float, Diagnosed]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="incidents", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Take no further steps; runs that were started go on."""
        self._stop.set()
        self._thread.join(timeout=10)

    def step(self) -> None:
        """Take every incident one step further, where there is one to take."""
        for run in self._runs.values():
            run.process.poll()  # a journal tells the end before its process is gone: that would stay as a zombie
        for incident in self._book.all():
            if self._stop.is_set():
                return
            self._one(incident)
        if self._messages is not None:
            self._messages.tell(self._book.all())

    def _work(self) -> None:
        while not self._stop.wait(POLL_S):
            try:
                self.step()
            except Exception:  # noqa: BLE001 - one incident that cannot be read must not leave the others alone
                traceback.print_exc()

    def _one(self, incident: Incident) -> None:
        if incident.ordered is not None and incident.ended is None:
            self._follow(incident)
        elif incident.closed is not None:
            return
        elif incident.diagnosed is None:
            self._book.add(incident, self._diagnose(incident))
        elif incident.chosen is None:
            self._book.add(incident, choose(incident, recovery_runbooks(Catalogue()), self._stack))
        elif incident.may_start and time.monotonic() >= self._not_before.get(incident.id, 0.0):
            self._order(incident, incident.chosen)

    def _diagnose(self, incident: Incident) -> Diagnosed:
        """What the symptoms of its stack say; one that cannot be looked at is an answer too."""
        from k2run.recovery.diagnosis import diagnose

        catalogue = Catalogue()
        runbooks = recovery_runbooks(catalogue)
        name = stack_of(incident, runbooks, self._stack)
        at, found = self._diagnoses.get(name, (0.0, None))
        if found is not None and time.monotonic() - at < FRESH_S:
            return found
        try:
            stack = open_stack(name, store=self._store)
            diagnosis = diagnose(runbooks, stack, catalogue, self._stop)
            matches = [suspect.runbook for suspect in diagnosis.matches]
            found = Diagnosed(stack=stack.name, lines=list(lines_of(diagnosis)), matches=matches)
        except K2runError as error:
            found = Diagnosed(stack=name, lines=[f"no diagnosis: {error}"])
        self._diagnoses[name] = (time.monotonic(), found)
        return found

    def _order(self, incident: Incident, chosen: Chosen) -> None:
        """Start the runbook; the record says so before it happens, so that no restart can start it twice."""
        approved = incident.approved
        marker = f"incident {incident.id}" + (f", approved by {approved.by}" if approved else "")
        self._book.add(incident, Ordered(by=marker))
        order = Order(
            runbook=Path(chosen.path),
            stack=chosen.stack,
            by=marker,
            inputs=chosen.inputs,
            inbox=approved is not None,
        )
        log = self._book.folder / f"{incident.id}.log"
        try:
            self._runs[incident.id] = _Run(start_detached(order, self._store.home, log), marker, log)
        except OSError as error:
            self._book.add(incident, Ended(verdict=f"it could not be started: {error}"))

    def _follow(self, incident: Incident) -> None:
        """Note how the run ended: by its journal as soon as that says so, else by its process, if it is ours."""
        run = self._runs.get(incident.id)
        code = run.process.poll() if run is not None else None
        goes_on = run is not None and code is None
        found = self._find(incident)
        if found is not None and incident.began is None:
            self._book.add(incident, Began(run=found[0].name))
        elif goes_on and (found is None or found[1] is None):
            return
        elif found is not None:
            self._end(incident, *found, code)
        elif run is not None:
            self._never_began(incident, run, code)
        elif _age(incident.ordered) > LOST_S:
            self._book.add(incident, Ended(verdict="the server died before the run began"))

    def _end(self, incident: Incident, folder: Path, over: RunFinished | None, code: int | None) -> None:
        """Note the end of a run that has begun, unless it goes on in a process that is not ours."""
        if over is not None:
            self._book.add(incident, Ended(run=folder.name, verdict=over.verdict, exit_code=over.exit_code))
        elif process_of(self._store, folder.name, read_journal(folder)) is None:
            verdict = "the run died; `k2run resume` goes on with it"
            self._book.add(incident, Ended(run=folder.name, verdict=verdict, exit_code=code))

    def _never_began(self, incident: Incident, run: _Run, code: int | None) -> None:
        """A stack that is held is tried again; anything else is told."""
        said = last_words(run.log)
        del self._runs[incident.id]
        if code == BUSY and incident.closed is None:
            self._not_before[incident.id] = time.monotonic() + RETRY_S
            self._book.add(incident, PutOff(why=said))
        else:
            self._book.add(incident, Ended(verdict=said or f"it ended with {code}", exit_code=code))

    def _find(self, incident: Incident) -> tuple[Path, RunFinished | None] | None:
        """The run of an incident, and how it ended, if it has."""
        ordered = incident.ordered
        for folder in reversed(self._store.runs()):
            if folder.name[:15] < incident.id[:15]:
                break
            begun, over = ends_of(folder)
            if begun is not None and ordered is not None and begun.by == ordered.by:
                return folder, over
        return None


def _age(entry: Ordered | None) -> float:
    """Seconds since an event."""
    return (datetime.now(UTC) - datetime.fromisoformat(entry.at)).total_seconds() if entry is not None else 0.0
