"""Takes every incident to its next step: diagnose, choose the runbook and the stack, start it, note how it ended."""

from __future__ import annotations

import re
import threading
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

from k2run.actions.catalogue import Catalogue
from k2run.app.diagnose import recovery_runbooks
from k2run.app.launch import DEFAULT_STACK, default_stack, runbook_roots
from k2run.daemon.alerts.followed import FollowedRuns, StackWatch, age_of, closing
from k2run.daemon.alerts.incident import Chosen, Closed, Declined, Dropped, Ended, Joined, PutOff, Requeued
from k2run.errors import K2runError, UsageError
from k2run.evidence.wording import span
from k2run.language.expressions import render
from k2run.language.model import Start

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from k2run.daemon.alerts.incident import Diagnosed, Incident
    from k2run.daemon.alerts.incident_messages import Messages
    from k2run.daemon.alerts.incident_store import IncidentStore
    from k2run.engine.events import RunStarted
    from k2run.engine.store import Store
    from k2run.language.model import AlertRule, Runbook

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

        One that is `starting` needs no approval, or has it: what starts by itself waits for none.
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
        found = self._healthy_again(incident, reference)
        if found is not None:
            why = f"nothing was heard of its alerts for {span(incident.silent_s)}, and {found.stack} is healthy"
            self._incidents.add(incident, Closed(why=why))

    def _healthy_again(self, incident: Incident, reference: str) -> Diagnosed | None:
        """A new diagnosis that found the stack healthy; at most one every `AGAIN_S` is made for an incident."""
        if time.monotonic() <= self._after.get(incident.id, 0.0) + AGAIN_S:
            return None
        found = self._stacks.diagnosis(reference, self._runbooks.all())
        if found is not None:
            self._after[incident.id] = time.monotonic()
        return found if found is not None and found.healthy else None

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
        if closed is None and self._healthy_again(incident, reference) is not None:
            closed = Closed(why="a diagnosis found the stack healthy; no run recovered it")
        if closed is not None:
            self._incidents.add(incident, closed)


def _not_needed(incident: Incident, chosen: Chosen, other: RunStarted | None) -> str:
    """Why nothing needs to be started any more; empty when something does, or when that cannot be said.

    `other` is the run that has recovered the stack since the outage began.
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


class KnownRunbooks:
    """All recovery runbooks that can be found; they are read again only when a file has changed."""

    def __init__(self) -> None:
        self._marks: dict[Path, tuple[int, int]] | None = None
        self._found: list[Runbook] = []

    def all(self) -> list[Runbook]:
        """The runbooks as their files are now."""
        marks = {}
        for root in runbook_roots():
            for file in (root / "recovery").rglob("*.yaml"):
                with suppress(OSError):
                    seen = file.stat()
                    marks[file] = (seen.st_mtime_ns, seen.st_size)
        if marks != self._marks:
            self._found, self._marks = recovery_runbooks(Catalogue()), marks
        return self._found


def fits(rule: AlertRule, labels: Mapping[str, str]) -> bool:
    """Whether every label that a rule names is there and matches as a whole."""
    return all(name in labels and re.fullmatch(pattern, labels[name]) for name, pattern in rule.labels.items())


def choose(incident: Incident, runbooks: Sequence[Runbook], stack: str) -> Chosen:
    """The runbook for an incident.

    Among those whose `alerts` fit, one whose symptoms are present goes before others, then the one that names more
    labels; one about something that the stack has not is none of them. A failure that the diagnosis recognises goes
    before runbooks that only fit by their labels. Nothing is started without approval unless its symptoms are present
    and its own rule says so.

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
    named = next((runbook for name in matches for runbook in runbooks if runbook.name == name), None)
    best = min(candidates, key=lambda found: _rank(found[0], found[1], matches), default=None)
    if best is not None and (best[0].name in matches or named is None):
        return _chosen(incident, *best, stack, seen=best[0].name in matches)
    if named is not None:
        why = "its symptoms are present"
        return Chosen(runbook=named.name, path=named.path, stack=_own(named) or stack, seen=True, why=why)
    if fitting:
        names = ", ".join(dict.fromkeys(runbook.name for runbook, _, _ in fitting))
        return Chosen(why=f"{names}: not applicable on this stack; no failure was recognised")
    return Chosen(why="no runbook answers these alerts, and no failure was recognised")


def answers(incident: Incident, runbooks: Sequence[Runbook], name: str) -> bool:
    """Whether a runbook names an alert of the incident."""
    rules = (rule for runbook in runbooks if runbook.name == name for rule in runbook.alerts)
    return any(fits(rule, labels) for rule in rules for labels in _label_sets(incident))


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


def _chosen(  # noqa: PLR0913 - what a choice rests on
    incident: Incident, runbook: Runbook, rule: AlertRule, labels: dict[str, str], stack: str, *, seen: bool
) -> Chosen:
    why = "its alerts fit" + (", and its symptoms are present" if seen else "")
    stack = rule.stack or _own(runbook) or stack
    automatic = rule.start is Start.AUTOMATIC and bool(stack) and seen
    if rule.start is Start.AUTOMATIC and not seen:
        why += ", but its symptoms were not seen" if runbook.symptoms else ", but it declares no symptoms"
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
        seen=seen,
        why=why,
    )
