"""What incidents are about, followed: stacks with their diagnoses, and the runs that were started to repair them."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.actions.catalogue import Catalogue
from k2run.app.diagnose import evidence_of, lines_of
from k2run.app.launch import open_stack
from k2run.app.run_processes import Order, last_words, process_of, run_by, start_detached
from k2run.daemon.alerts.incident import Began, Closed, Diagnosed, Ended, Ordered, PutOff, seconds_of
from k2run.engine.events import ClockStopped, FaultStruck, StepFinished
from k2run.engine.journal import ends_of, read_journal
from k2run.engine.store import began, holder
from k2run.errors import Interrupted, K2runError, StackBusy
from k2run.evidence.wording import span
from k2run.language.model import Kind
from k2run.recovery.diagnosis import Verdict
from k2run.recovery.looks import is_for

if TYPE_CHECKING:
    import subprocess
    import threading
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from k2run.daemon.alerts.incident import Chosen, Incident
    from k2run.daemon.alerts.incident_store import IncidentStore
    from k2run.engine.events import AnyEvent, RunFinished, RunStarted
    from k2run.engine.store import Store
    from k2run.language.model import Runbook
    from k2run.recovery.diagnosis import Diagnosis

FRESH_S = 10.0
"""A diagnosis serves all incidents of its stack for this long."""
AFTER_S = 30.0
"""Seconds after the end of a run in which what it did may still be sampled for the first time."""
LOOKERS = 4
LOADS = frozenset({Kind.SCENARIO, Kind.BENCHMARK, Kind.REHEARSAL})
"""Kinds of runs that break or load a stack on purpose."""
EVIDENCE = 5
"""Lines of evidence for a failure that are kept for messages."""
LATEST = 50
"""Runs among which the one is looked for that was under way when an outage began."""
_RUN = re.compile(r"\S+")
LOST_S = 120.0
"""A run that was ordered by a server that died, and left no journal in this time, never began."""


class _Look(Struct, frozen=True):
    began: float
    future: Future[tuple[float, Diagnosed]]


class StackWatch:
    """Looks at stacks, each in a thread beside, so that no incident waits for the diagnosis of another stack.

    Args:
        store: The k2run home.
        stop: Set when looking is to end.
        watch_s: Seconds for which a stack without symptoms is watched before it is called healthy.
    """

    def __init__(self, store: Store, stop: threading.Event, watch_s: float) -> None:
        self._store = store
        self._stop = stop
        self._watch_s = watch_s
        self._names: dict[str, str] = {}
        self._looks: dict[str, _Look] = {}
        self._since = 0.0
        self._threads = ThreadPoolExecutor(LOOKERS, thread_name_prefix="diagnosis")

    def name(self, reference: str) -> str:
        """The name that a stack's file gives it; empty when it cannot be read."""
        if reference and reference not in self._names:
            try:
                self._names[reference] = open_stack(reference, store=self._store).name
            except K2runError:
                return ""
        return self._names.get(reference, "")

    def holder(self, reference: str) -> tuple[str, RunStarted | None]:
        """Who holds a stack (empty when it is free), and the run that this is, where it is one."""
        name = self.name(reference)
        said = holder(self._store.stack_folder(name)) if name else ""
        run = _RUN.match(said)
        folder = self._store.home / "runs" / run[0] if run is not None else None
        return said, ends_of(folder)[0] if folder is not None else None

    def forget(self) -> None:
        """A run has ended: what was seen before that says nothing any more."""
        self._since = time.monotonic()

    def diagnosis(self, reference: str, runbooks: Sequence[Runbook], after: float = 0.0) -> Diagnosed | None:
        """What the symptoms of a stack say; None while it is being looked at.

        Args:
            reference: Name or file of the stack.
            runbooks: The recovery runbooks.
            after: A diagnosis that began earlier than this (of the monotonic clock) does not serve.
        """
        look = self._looks.get(reference)
        if look is None or look.began < max(after, self._since):
            look = self._looks[reference] = _Look(
                time.monotonic(), self._threads.submit(self._look, reference, runbooks)
            )
        if not look.future.done():
            return None
        ended, found = look.future.result()
        if time.monotonic() - ended > FRESH_S:
            del self._looks[reference]
            return self.diagnosis(reference, runbooks, after)
        return found

    def _look(self, reference: str, runbooks: Sequence[Runbook]) -> tuple[float, Diagnosed]:
        found = self._diagnose(reference, runbooks)
        return time.monotonic(), found

    def _diagnose(self, reference: str, runbooks: Sequence[Runbook]) -> Diagnosed:
        """A diagnosis; a stack that cannot be checked is an answer too."""
        from k2run.recovery.looks import watch

        catalogue = Catalogue()
        try:
            stack = open_stack(reference, store=self._store)
            found = watch(runbooks, stack, catalogue, self._stop, self._watch_s, until_ill=True)
        except (K2runError, Interrupted) as error:
            return Diagnosed(stack=reference, lines=[f"no diagnosis: {error}"])
        absent = [
            runbook.name
            for runbook in runbooks
            if not is_for(runbook, stack) or any(map(stack.absent, runbook.requires))
        ]
        if found.healthy:
            self._store.note_well(stack.name)
        return Diagnosed(
            stack=stack.name,
            lines=list(lines_of(found)),
            matches=[suspect.runbook for suspect in found.matches],
            absent=absent,
            ruled_out=[suspect.runbook for suspect in found.having(Verdict.RULED_OUT)],
            healthy=found.healthy,
            causes=causes_of(found),
            evidence={one.runbook: [line.strip() for line in evidence_of(one)][:EVIDENCE] for one in found.matches},
        )

    # --- runs ---

    def culprit(self, reference: str, at: str) -> RunStarted | None:
        """The run that broke or loaded a stack on purpose when an outage began (UTC, ISO 8601), or just before."""
        name, moment = self.name(reference), seconds_of(at)
        for folder, begun, over in self._runs(LATEST):
            if begun.stack != name or seconds_of(begun.at) > moment:
                continue
            ended = seconds_of(over.at) + AFTER_S if over is not None else None
            if over is None and self.holder(reference)[0].split(" ")[0] != folder.name:
                continue  # it died: what it left is an outage
            if (ended is None or moment <= ended) and breaks(folder, begun):
                return begun
        return None

    def breaks(self, begun: RunStarted) -> bool:
        """Whether a run breaks or loads its stack on purpose: meanwhile no diagnosis says anything."""
        return breaks(self._store.home / "runs" / begun.run, begun)

    def repairer(self, reference: str, after: str, but: str = "") -> RunStarted | None:
        """The recovery that passed on a stack after a time (UTC, ISO 8601), other than a given run."""
        name = self.name(reference)
        for folder, begun, over in self._runs(LATEST):
            passed = (
                over is not None
                and over.exit_code == 0
                and not over.unchanged
                and seconds_of(over.at) > seconds_of(after)
            )
            if passed and begun.stack == name and begun.kind == Kind.RECOVERY and folder.name != but:
                return begun
        return None

    def _runs(self, number: int) -> Iterator[tuple[Path, RunStarted, RunFinished | None]]:
        """The newest runs, each with how it began and, if it has ended, how."""
        for folder in sorted(self._store.runs(), key=lambda run: began(run.name), reverse=True)[:number]:
            begun, over = ends_of(folder)
            if begun is not None:
                yield folder, begun, over


def breaks(folder: Path, begun: RunStarted) -> bool:
    """Whether a run breaks or loads its stack on purpose: by its kind, or by a fault that it has injected."""
    if begun.kind in LOADS:
        return True
    try:
        return any(isinstance(event, FaultStruck) for event in read_journal(folder))
    except K2runError:
        return False


def causes_of(found: Diagnosis) -> dict[str, str]:
    """What is wrong with a stack, by the runbook that recovers from it: the failure, and why, where that is written."""
    causes = {one.runbook: f"{one.title}{_why(found, one.requires)}" for one in found.matches}
    if not causes and found.ailing:
        first = found.ailing[0]
        causes[""] = f"{first.service} is {first.state}" + (_why(found, [first.service]) or f": {first.detail}")
    return causes


def _why(found: Diagnosis, services: list[str]) -> str:
    whys = (why for why in found.causes if why.service in services)
    return next((f": {why.service}: {why.kind}: {why.says}" for why in whys), "")


class _Run(Struct, frozen=True):
    process: subprocess.Popen[bytes]
    marker: str
    log: Path


class FollowedRuns:
    """Starts and follows the runs of incidents."""

    def __init__(self, store: Store, incidents: IncidentStore) -> None:
        self._store = store
        self._incidents = incidents
        self._runs: dict[str, _Run] = {}

    def reap(self) -> None:
        """Ask after processes: a journal tells the end before its process is gone, which would stay as a zombie."""
        for run in self._runs.values():
            run.process.poll()

    def order(self, incident: Incident, chosen: Chosen) -> None:
        """Start the runbook; the record says so before it happens, so that no restart can start it twice."""
        approved = incident.approved if incident.is_approved else None
        marker = f"incident {incident.id}" + (f", approved by {approved.by}" if approved else "")
        if not self._incidents.order(incident, Ordered(by=marker)):
            return
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

    def follow(self, incident: Incident) -> None:
        """Note how the run ended: by its journal as soon as that says so, else by its process, if it is ours."""
        run = self._runs.get(incident.id)
        code = run.process.poll() if run is not None else None
        goes_on = run is not None and code is None
        ordered = incident.ordered
        found = run_by(self._store, ordered.by, incident.id[:15]) if ordered is not None else None
        if found is not None and incident.began is None:
            self._incidents.add(incident, Began(run=found[0].name))
        elif goes_on and (found is None or found[1] is None):
            return
        elif found is not None:
            self._end(incident, *found, code)
        elif run is not None:
            self._never_began(incident, run, code)
        elif ordered is not None and age_of(ordered) > LOST_S:
            self._incidents.add(incident, Ended(verdict="the server died before the run began"))

    def _end(self, incident: Incident, folder: Path, over: RunFinished | None, code: int | None) -> None:
        """Note the end of a run that has begun, unless it goes on in a process that is not ours."""
        events = read_journal(folder)
        if over is not None:
            cost = cost_of(events)
            ended = Ended(
                run=folder.name, verdict=over.verdict, exit_code=over.exit_code, cost=cost, unchanged=over.unchanged
            )
            self._incidents.add(incident, ended)
        elif process_of(self._store, folder.name, events) is None:
            verdict = "the run died; `k2run resume` continues it"
            self._incidents.add(incident, Ended(run=folder.name, verdict=verdict, exit_code=code or 1))

    def _never_began(self, incident: Incident, run: _Run, code: int | None) -> None:
        """A stack that is held is waited for; anything else is told."""
        said = last_words(run.log)
        del self._runs[incident.id]
        if code == StackBusy.exit_code:
            self._incidents.add(incident, PutOff(why=said))
        else:
            self._incidents.add(incident, Ended(verdict=said or f"it ended with {code}", exit_code=code or 1))


def cost_of(events: Iterable[AnyEvent]) -> str:
    """What an outage cost, as far as its recovery measured it: `data path works 8.2s after the start; doubled 0`."""
    said: dict[str, str] = {}
    for event in events:
        if isinstance(event, ClockStopped) and event.clock == "rto" and not event.message:
            within = f" (objective {span(event.within)}: {event.objective})" if event.within else ""
            said["rto"] = f"the data path worked {span(event.seconds)} after the run's start{within}"
        elif isinstance(event, StepFinished):
            said |= {name: f"{name.replace('_', ' ')} {value}" for name, value in event.figures.items()}
    return "; ".join(said.values())


def closing(incident: Incident, ended: Ended, other: RunStarted | None) -> Closed | None:
    """The end of an incident whose run failed, and of whose alerts none fires any more; None while nothing says so.

    Args:
        incident: The incident.
        ended: How its run ended.
        other: The run that recovered the stack since; it has not recovered what was resolved before it began.
    """
    resolved = "" if incident.firing else max(alert.at for alert in incident.alerts.values())
    if other is not None and (not resolved or other.at < resolved):
        return Closed(why=f"{other.run} recovered it", run=other.run, runbook=other.name)
    if resolved and resolved >= ended.at:
        return Closed(why="every alert is resolved; no run recovered it")
    if other is not None:  # it was well before that run began
        return Closed(why=f"every alert had been resolved when {other.run} found the stack well; no run recovered it")
    return None


def age_of(entry: Ordered | Ended) -> float:
    """Seconds since an event."""
    return time.time() - seconds_of(entry.at)
