"""Takes every incident to its next step: diagnose, choose the runbook, start it, note how it ended."""

from __future__ import annotations

import threading
import time
import traceback
from typing import TYPE_CHECKING

from k2run.app.launch import default_stack
from k2run.daemon.alerts.followed_runs import FollowedRuns, age_of, closing
from k2run.daemon.alerts.incident_events import Closed, Declined, Dropped, Ended, Joined, PutOff, Requeued
from k2run.daemon.alerts.runbook_choice import KnownRunbooks, answers, choose, stack_of
from k2run.daemon.alerts.stack_watch import StackWatch
from k2run.errors import UsageError
from k2run.evidence.wording import span

if TYPE_CHECKING:
    from k2run.daemon.alerts.incident import Incident
    from k2run.daemon.alerts.incident_events import Chosen
    from k2run.daemon.alerts.messages import Messages
    from k2run.daemon.alerts.store import IncidentStore
    from k2run.engine.events import RunStarted
    from k2run.engine.store import Store

POLL_S = 0.5
LOOK_S = 20.0
"""Seconds for which a stack that looks healthy, and that an alert names, is checked: some failures flap."""
SILENT_S = 7200.0
"""Seconds without a notice, twice the shipped `repeat_interval`, after which a sender has forgotten an alert."""
AGAIN_S = 60.0
"""Seconds between two diagnoses of a stack whose recovery failed, and whose alerts are resolved."""


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
        self._incidents = incidents
        self._stack = stack
        self._messages = messages
        self._stop = threading.Event()
        self._runs = FollowedRuns(store, incidents)
        self._stacks = StackWatch(store, self._stop, watch_s)
        self._after: dict[str, float] = {}
        self._asked: set[str] = set()
        self._runbooks = KnownRunbooks()
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
        self._runs.reap()
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
        if incident.closed is not None and (incident.ordered is None or incident.ended is not None):
            return
        if incident.joined is not None and incident.ended is None:
            self._mirror(incident, self._incidents.find(incident.joined.incident))
        elif incident.ordered is not None and incident.ended is None:
            self._runs.follow(incident)
            if self._incidents.find(incident.id).ended is not None:
                self._stacks.forget()
        elif incident.ended is not None:
            self._settle(incident, incident.ended)
        elif incident.waits_for_approval and incident.chosen is not None and incident.silent_s < SILENT_S:
            self._join_started(incident, incident.chosen)
        elif incident.silent_s > SILENT_S:
            self._end_silent(incident)
        elif not (incident.dropped or incident.declined or incident.is_left_to_people):
            self._prepare(incident)

    # --- before a run ---

    def _prepare(self, incident: Incident) -> None:
        """Diagnose, choose and start, as far as the stack is free for it."""
        reference = stack_of(incident, self._runbooks.all(), self._default())
        said, run = self._stacks.holder(reference)
        if incident.waits:
            if not said:
                self._requeue(incident, "the stack is free again: it is diagnosed again")
        elif incident.id not in self._asked:
            self._asked.add(incident.id)
            self._name_culprit(incident, reference)
        elif run is not None and self._stacks.breaks(run):
            self._put_off(incident, said, run)
        elif incident.diagnosed is None:
            found = self._stacks.diagnosis(reference, self._runbooks.all(), self._after.get(incident.id, 0.0))
            if found is not None:
                self._incidents.add(incident, found)
        elif incident.chosen is None:
            self._choose(incident, reference, said, run)
        elif incident.may_start and said:
            self._put_off(incident, said, run)
        elif incident.may_start:
            self._runs.order(incident, incident.chosen)

    def _name_culprit(self, incident: Incident, reference: str) -> None:
        """Where a run of ours causes the outage, note that: nothing is started before that run has ended."""
        culprit = self._stacks.culprit(reference, incident.began_at) if incident.put_off is None else None
        if culprit is not None:
            why = f"the run {culprit.run} ({culprit.title}) breaks or loads the stack on purpose"
            self._incidents.add(incident, PutOff(why=why, run=culprit.run, ours=True))

    def _choose(self, incident: Incident, reference: str, said: str, run: RunStarted | None) -> None:
        """Choose the runbook; where another incident has the same cause already, its run answers this one too."""
        runbooks = self._runbooks.all()
        chosen = choose(incident, runbooks, self._default())
        leader = self._leader(incident, chosen, starting=chosen.automatic)
        other = None if chosen.seen else self._stacks.repairer(reference, incident.began_at)
        if said and not chosen.seen:
            self._put_off(incident, said, run)  # what a diagnosis in the middle of a run does not show may be there
        elif why := _not_needed(incident, chosen, other):
            recovered = {"run": other.run, "runbook": other.name} if other is not None else {}
            self._incidents.add(incident, Dropped(why=why, **recovered))
        elif leader is not None:
            self._incidents.add(incident, chosen)
            fits = answers(incident, runbooks, chosen.runbook)
            self._incidents.add(incident, Joined(incident=leader.id, fits=fits))
        else:
            self._incidents.add(incident, chosen)

    def _join_started(self, incident: Incident, chosen: Chosen) -> None:
        """Where the same cause starts a run for another incident, no approval is needed any more."""
        leader = self._leader(incident, chosen, starting=True)
        if leader is not None:
            fits = answers(incident, self._runbooks.all(), chosen.runbook)
            self._incidents.add(incident, Joined(incident=leader.id, fits=fits))

    def _leader(self, incident: Incident, chosen: Chosen, *, starting: bool) -> Incident | None:
        """The open incident that the same runbook answers on the same stack, and whose run has not ended.

        Args:
            incident: The incident that would follow it.
            chosen: Its runbook.
            starting: Only one whose run needs no approval, or has it: what starts by itself waits for none.
        """
        for other in self._incidents.all():
            if other.id == incident.id or not chosen.runbook or other.chosen is None:
                continue
            over = other.closed or other.ended or other.declined or other.dropped or other.joined
            same = (other.chosen.runbook, other.chosen.stack) == (chosen.runbook, chosen.stack)
            if same and not over and (not starting or other.may_start or other.ordered is not None):
                return other
        return None

    def _put_off(self, incident: Incident, said: str, run: RunStarted | None) -> None:
        what = f"{run.run} ({run.title})" if run is not None else said
        self._incidents.add(
            incident, PutOff(why=f"the stack is held by {what}", run=run.run if run is not None else "")
        )

    def _requeue(self, incident: Incident, why: str) -> None:
        self._after[incident.id] = time.monotonic()
        self._incidents.add(incident, Requeued(why=why))

    def _default(self) -> str:
        """The stack of what names none; empty where there are several, and none of them is said."""
        try:
            return self._stack or default_stack()
        except UsageError:
            return ""

    # --- after a run ---

    def _mirror(self, incident: Incident, leader: Incident) -> None:
        """Take over what became of the incident with the same cause."""
        ended = leader.ended
        if ended is not None and leader.recovered and incident.joined is not None:
            if incident.joined.fits or not incident.firing:
                self._incidents.add(incident, ended)
            elif age_of(ended) > AGAIN_S:
                self._requeue(incident, f"{ended.run} passed, and this alert still fires")
        elif ended is not None:
            self._incidents.add(incident, ended)
        elif leader.declined is not None:
            self._incidents.add(incident, Declined(by=leader.declined.by))
        elif leader.dropped is not None:
            self._incidents.add(incident, Dropped(why=leader.dropped.why))
        elif not incident.firing and leader.ordered is None:
            self._incidents.add(incident, Closed(why="every alert is resolved; nothing was started"))
        elif leader.closed is not None and leader.ordered is None:
            self._requeue(incident, f"{leader.id} is closed, and nothing was started")

    def _end_silent(self, incident: Incident) -> None:
        """Close an incident that its sender has forgotten, as one that restarts may, if its stack is healthy."""
        reference = stack_of(incident, self._runbooks.all(), self._default())
        if time.monotonic() > self._after.get(incident.id, 0.0) + AGAIN_S:
            found = self._stacks.diagnosis(reference, self._runbooks.all())
            if found is None:
                return
            self._after[incident.id] = time.monotonic()
            if found.healthy:
                why = f"nothing was heard of its alerts for {span(incident.silent_s)}, and {found.stack} is healthy"
                self._incidents.add(incident, Closed(why=why))

    def _settle(self, incident: Incident, ended: Ended) -> None:
        """Close an incident whose run has ended, as soon as nothing fires and something says that it is well."""
        if incident.firing and incident.silent_s < SILENT_S:
            return
        if incident.recovered:
            what = "nothing was heard of its alerts since" if incident.firing else "every alert is resolved"
            self._incidents.add(incident, Closed(why=f"its run passed, and {what}"))
            return
        reference = incident.chosen.stack if incident.chosen is not None else self._default()
        other = self._stacks.repairer(reference, ended.at, ended.run)
        closed = closing(incident, ended, other)
        if closed is None and time.monotonic() > self._after.get(incident.id, 0.0) + AGAIN_S:
            found = self._stacks.diagnosis(reference, self._runbooks.all())
            if found is None:
                return
            self._after[incident.id] = time.monotonic()
            closed = Closed(why="a diagnosis found the stack healthy; no run recovered it") if found.healthy else None
        if closed is not None:
            self._incidents.add(incident, closed)


def _not_needed(incident: Incident, chosen: Chosen, other: RunStarted | None) -> str:
    """Why nothing needs to be started any more; empty when something does, or when that cannot be said.

    Args:
        incident: The incident.
        chosen: The runbook that would answer it.
        other: The run that has recovered the stack since the outage began.
    """
    diagnosed, put_off = incident.diagnosed, incident.put_off
    before = f"{other.run} has recovered it" if other is not None else put_off.why if put_off is not None else ""
    if diagnosed is None or chosen.seen or not before:
        return ""
    if diagnosed.healthy:
        return f"{diagnosed.stack} is healthy again, and nothing was started: {before}"
    if chosen.runbook in diagnosed.ruled_out:
        return f"the symptoms of {chosen.runbook} are gone: {before}"
    return ""
