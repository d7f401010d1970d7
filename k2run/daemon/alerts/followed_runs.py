"""The runs that incidents have started: each is started once, and followed to its end by its journal."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.app.abort import process_of
from k2run.app.run_processes import Order, last_words, start_detached
from k2run.daemon.alerts.incident import Began, Closed, Ended, Ordered, PutOff
from k2run.engine.events import ClockStopped, StepFinished
from k2run.engine.journal import ends_of, read_journal
from k2run.evidence.wording import span

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable

    from k2run.daemon.alerts.incident import Chosen, Incident
    from k2run.daemon.alerts.store import IncidentStore
    from k2run.engine.events import AnyEvent, RunFinished, RunStarted
    from k2run.engine.store import Store

LOST_S = 120.0
"""A run that was ordered by a server that died, and left no journal in this time, never began."""
BUSY = 4
"""The exit code of a run that found its stack held."""


class _Run(Struct, frozen=True):
    process: subprocess.Popen[bytes]
    marker: str
    log: Path


class FollowedRuns:
    """Starts and follows the runs of incidents.

    Args:
        store: The k2run home.
        incidents: Its incidents.
    """

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
        found = self._find(incident)
        if found is not None and incident.began is None:
            self._incidents.add(incident, Began(run=found[0].name))
        elif goes_on and (found is None or found[1] is None):
            return
        elif found is not None:
            self._end(incident, *found, code)
        elif run is not None:
            self._never_began(incident, run, code)
        elif incident.ordered is not None and age_of(incident.ordered) > LOST_S:
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
        if code == BUSY:
            self._incidents.add(incident, PutOff(why=said))
        else:
            self._incidents.add(incident, Ended(verdict=said or f"it ended with {code}", exit_code=code or 1))

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
        other: The run that recovered the stack since.
    """
    if other is not None:
        return Closed(why=f"{other.run} recovered it", run=other.run, runbook=other.name)
    if any(alert.at > ended.at for alert in incident.alerts.values()):
        return Closed(why="every alert is resolved; no run recovered it")
    return None


def age_of(entry: Ordered | Ended) -> float:
    """Seconds since an event."""
    return (datetime.now(UTC) - datetime.fromisoformat(entry.at)).total_seconds()
