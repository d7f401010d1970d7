"""Takes every incident to its next step: diagnose, choose the runbook, start it, note how it ended."""

from __future__ import annotations

import re
import threading
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.actions.catalogue import Catalogue
from k2run.app.abort import process_of
from k2run.app.detached import Order, last_words, start_detached
from k2run.app.diagnose import lines_of, recovery_runbooks
from k2run.app.launch import DEFAULT_STACK, default_stack, open_stack
from k2run.daemon.alerts.incident import Began, Chosen, Diagnosed, Ended, Incident, Ordered, PutOff
from k2run.engine.journal import ends_of, read_journal
from k2run.errors import K2runError, UsageError
from k2run.language.expressions import render
from k2run.language.model import Start

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence

    from k2run.daemon.alerts.incident import Incident
    from k2run.daemon.alerts.messages import Messages
    from k2run.daemon.alerts.store import IncidentStore
    from k2run.engine.events import RunFinished
    from k2run.engine.store import Store
    from k2run.language.model import AlertRule, Runbook


def fits(rule: AlertRule, labels: Mapping[str, str]) -> bool:
    """Whether every label that a rule names is there and matches as a whole."""
    return all(name in labels and re.fullmatch(pattern, labels[name]) for name, pattern in rule.labels.items())


def choose(incident: Incident, runbooks: Sequence[Runbook], stack: str) -> Chosen:
    """The runbook for an incident.

    Among those whose `alerts` fit, one whose symptoms are present goes before others, then the one that names more
    labels; one about something that the stack has not is none of them. Where none fits, the best match of the diagnosis
    is offered, and never started without approval.

    Args:
        incident: The incident, diagnosed.
        runbooks: All recovery runbooks.
        stack: The stack of rules and runbooks that name none; where it is empty, nothing is started on its own.
    """
    diagnosed = incident.diagnosed
    matches, absent = (diagnosed.matches, diagnosed.absent) if diagnosed is not None else ([], [])
    fitting = [
        (runbook, rule, labels)
        for runbook in runbooks
        for rule in runbook.alerts
        for labels in _label_sets(incident)
        if fits(rule, labels)
    ]
    candidates = [found for found in fitting if found[0].name not in absent]
    if candidates:
        runbook, rule, labels = min(candidates, key=lambda found: _rank(found[0], found[1], matches))
        return _chosen(incident, runbook, rule, labels, stack, present=runbook.name in matches)
    named = next((runbook for name in matches for runbook in runbooks if runbook.name == name), None)
    if named is not None:
        return Chosen(runbook=named.name, path=named.path, stack=_own(named) or stack, why="its symptoms are present")
    if fitting:
        names = ", ".join(dict.fromkeys(runbook.name for runbook, _, _ in fitting))
        return Chosen(why=f"{names}: not applicable on this stack; no failure was recognised")
    return Chosen(why="no runbook answers these alerts, and no failure was recognised")


def stack_of(incident: Incident, runbooks: Sequence[Runbook], stack: str) -> str:
    """The stack to look at: the one that a rule which fits names, else the given one."""
    rules = (rule for runbook in runbooks for rule in runbook.alerts if rule.stack)
    fitting = (rule.stack for rule in rules if any(fits(rule, labels) for labels in _label_sets(incident)))
    return next(fitting, stack)


def _label_sets(incident: Incident) -> list[dict[str, str]]:
    """The labels of each alert that fires; an alert has those of its group too."""
    return [{**incident.opened.labels, **alert.labels} for alert in incident.firing] or [incident.opened.labels]


def _own(runbook: Runbook) -> str:
    """The stack that a runbook names; empty for the embedded one, which is that of every runbook that names none."""
    return "" if runbook.stack == DEFAULT_STACK else runbook.stack


def _rank(runbook: Runbook, rule: AlertRule, matches: Sequence[str]) -> tuple[int, int, str]:
    place = matches.index(runbook.name) if runbook.name in matches else len(matches)
    return place, -len(rule.labels), runbook.name


def _chosen(  # noqa: PLR0913, PLR0917 - what a choice rests on
    incident: Incident, runbook: Runbook, rule: AlertRule, labels: dict[str, str], stack: str, present: bool
) -> Chosen:
    why = "its alerts fit" + (", and its symptoms are present" if present else "")
    stack = rule.stack or _own(runbook) or stack
    automatic = rule.start is Start.AUTOMATIC and bool(stack)
    why += "" if stack else "; it is not said on which stack"
    try:
        inputs = render(rule.inputs, {"labels": labels, "annotations": incident.opened.annotations})
    except K2runError as error:
        inputs, automatic, why = {}, False, f"{why}; its inputs could not be filled in: {error.message}"
    return Chosen(
        runbook=runbook.name,
        path=runbook.path,
        stack=stack,
        inputs=inputs,
        automatic=automatic,
        why=why,
    )


POLL_S = 0.5
LOOK_S = 20.0
"""Seconds for which a stack that looks healthy, and that an alert names, is checked: some failures flap."""
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


class Worker:
    """Looks after the incidents of one k2run home, in a thread of its own.

    Args:
        store: The k2run home.
        incidents: Its incidents.
        stack: The stack that is checked unless a runbook's alert names another; that of `default_stack` when empty.
        messages: Tells people what becomes of the incidents.
        watch_s: Seconds for which a stack without symptoms is watched before it is called healthy.
    """

    def __init__(
        self,
        store: Store,
        incidents: IncidentStore,
        stack: str = "",
        *,
        messages: Messages | None = None,
        watch_s: float = LOOK_S,
    ) -> None:
        self._store = store
        self._incidents = incidents
        self._stack = stack
        self._messages = messages
        self._watch_s = watch_s
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
        for incident in self._incidents.all():
            if self._stop.is_set():
                return
            self._one(incident)
        if self._messages is not None:
            self._messages.tell(self._incidents.all())

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
            self._incidents.add(incident, self._diagnose(incident))
        elif incident.chosen is None:
            self._incidents.add(incident, choose(incident, recovery_runbooks(Catalogue()), self._default()))
        elif incident.may_start and time.monotonic() >= self._not_before.get(incident.id, 0.0):
            self._order(incident, incident.chosen)

    def _diagnose(self, incident: Incident) -> Diagnosed:
        """What the symptoms of its stack say; one that cannot be checked is an answer too."""
        from k2run.recovery.window import watch

        catalogue = Catalogue()
        runbooks = recovery_runbooks(catalogue)
        name = stack_of(incident, runbooks, self._default())
        at, found = self._diagnoses.get(name, (0.0, None))
        if found is not None and time.monotonic() - at < FRESH_S:
            return found
        try:
            stack = open_stack(name, store=self._store)
            diagnosis = watch(runbooks, stack, catalogue, self._stop, self._watch_s, until_ill=True)
            matches = [suspect.runbook for suspect in diagnosis.matches]
            absent = [runbook.name for runbook in runbooks if any(map(stack.absent, runbook.requires))]
            found = Diagnosed(stack=stack.name, lines=list(lines_of(diagnosis)), matches=matches, absent=absent)
        except K2runError as error:
            found = Diagnosed(stack=name, lines=[f"no diagnosis: {error}"])
        self._diagnoses[name] = (time.monotonic(), found)
        return found

    def _default(self) -> str:
        """The stack of what names none; empty where there are several, and none of them is said."""
        try:
            return self._stack or default_stack()
        except UsageError:
            return ""

    def _order(self, incident: Incident, chosen: Chosen) -> None:
        """Start the runbook; the record says so before it happens, so that no restart can start it twice."""
        approved = incident.approved
        marker = f"incident {incident.id}" + (f", approved by {approved.by}" if approved else "")
        self._incidents.add(incident, Ordered(by=marker))
        order = Order(
            runbook=Path(chosen.path),
            stack=chosen.stack,
            by=marker,
            inputs=chosen.inputs,
            inbox=approved is not None,
        )
        log = self._incidents.folder / f"{incident.id}.log"
        try:
            self._runs[incident.id] = _Run(start_detached(order, self._store.home, log), marker, log)
        except OSError as error:
            self._incidents.add(incident, Ended(verdict=f"it could not be started: {error}"))

    def _follow(self, incident: Incident) -> None:
        """Note how the run ended: by its journal as soon as that says so, else by its process, if it is ours."""
        run = self._runs.get(incident.id)
        code = run.process.poll() if run is not None else None
        goes_on = run is not None and code is None
        found = self._find(incident)
        if found is not None and incident.began is None:
            self._incidents.add(incident, Began(run=found[0].name))
        elif goes_on and (found is None or found[1] is None):
            return
        elif found is not None:
            self._end(incident, *found, code)
        elif run is not None:
            self._never_began(incident, run, code)
        elif _age(incident.ordered) > LOST_S:
            self._incidents.add(incident, Ended(verdict="the server died before the run began"))

    def _end(self, incident: Incident, folder: Path, over: RunFinished | None, code: int | None) -> None:
        """Note the end of a run that has begun, unless it goes on in a process that is not ours."""
        if over is not None:
            self._incidents.add(incident, Ended(run=folder.name, verdict=over.verdict, exit_code=over.exit_code))
        elif process_of(self._store, folder.name, read_journal(folder)) is None:
            verdict = "the run died; `k2run resume` continues it"
            self._incidents.add(incident, Ended(run=folder.name, verdict=verdict, exit_code=code))

    def _never_began(self, incident: Incident, run: _Run, code: int | None) -> None:
        """A stack that is held is tried again; anything else is told."""
        said = last_words(run.log)
        del self._runs[incident.id]
        if code == BUSY and incident.closed is None:
            self._not_before[incident.id] = time.monotonic() + RETRY_S
            self._incidents.add(incident, PutOff(why=said))
        else:
            self._incidents.add(incident, Ended(verdict=said or f"it ended with {code}", exit_code=code))

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
