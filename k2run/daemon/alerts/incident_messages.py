"""Tells people of incidents: by messages when one opens, waits or ends, and at the terminal when asked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from k2run.daemon.alerts.incident import seconds_of
from k2run.daemon.alerts.incident_store import IncidentStore
from k2run.daemon.channels import Moment, Occasion, usable_settings
from k2run.daemon.messenger import GIVE_UP_S, LOG, Outbox
from k2run.engine.store import Store
from k2run.evidence.wording import clean, span
from k2run.files import account_name
from k2run.terminal.safe_stream import say, say_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k2run.daemon.alerts.incident import Chosen, Ended, Incident

LINES = 6
"""Alerts in a message."""
PATIENCE_S = 15.0
"""Seconds for which the opening of an incident waits for the diagnosis, to tell the cause."""


class Messages:
    """Puts the moments of all incidents into an outbox, each of them once.

    Args:
        outbox: Sends them; its log knows what an earlier server has sent.
        link: Where `k2run serve` answers; empty for no links.
    """

    def __init__(self, outbox: Outbox, link: str = "") -> None:
        self._outbox = outbox
        self._link = link.rstrip("/")
        self._told: set[str] = set()

    def tell(self, incidents: Sequence[Incident]) -> None:
        """Tell what has not been told yet and is still news; returns at once."""
        for incident in incidents:
            for at, moment in moments_of(incident, self._link):
                if moment.key not in self._told:
                    self._told.add(moment.key)
                    if _age(at) < GIVE_UP_S:
                        self._outbox.put(moment)


def open_messages(store: Store) -> Messages | None:
    """The messages of the settings; None without recipients. Invalid settings are a warning."""
    settings = usable_settings()
    if not settings.notifications:
        return None
    folder = store.home / "serve"
    folder.mkdir(parents=True, exist_ok=True)
    return Messages(Outbox(settings.notifications, folder / LOG), settings.link)


def moments_of(incident: Incident, link: str = "") -> Iterator[tuple[str, Moment]]:
    """What an incident has given to tell so far, each with its time (UTC, ISO 8601): opened, approval, outcome."""
    write = _Writer(incident, link)
    if _is_told(incident):
        yield incident.opened.at, write.opened()
    chosen, dropped, ended, closed = incident.chosen, incident.dropped, incident.ended, incident.closed
    if incident.waits_for_approval and chosen is not None:
        yield chosen.at, write.approval(chosen)
    if chosen is not None and not chosen.runbook and closed is None:
        yield chosen.at, write.alone(chosen)
    elif ended is not None and ended.unchanged:
        yield ended.at, write.over(ended.at, f"{_runbook(incident)} changed nothing, and its steady state holds")
    elif ended is not None and incident.recovered:
        yield ended.at, write.recovered(ended.at, ended.run, _runbook(incident), ended.cost)
    elif dropped is not None:
        recovered = write.recovered(dropped.at, dropped.run, dropped.runbook, "") if dropped.run else None
        yield dropped.at, recovered or write.over(dropped.at, dropped.why)
    elif ended is not None:
        yield ended.at, write.failed(ended)
    elif closed is not None:
        yield closed.at, write.over(closed.at, closed.why)
    if closed is not None and closed.run:
        yield closed.at, write.recovered(closed.at, closed.run, closed.runbook, "")


def _is_told(incident: Incident) -> bool:
    """Whether the opening can be told: the cause is known, or it takes too long to find it."""
    known = incident.chosen or incident.put_off or incident.closed
    return known is not None or _age(incident.opened.at) > PATIENCE_S


def _runbook(incident: Incident) -> str:
    return incident.chosen.runbook if incident.chosen is not None else ""


class _Writer:
    """Writes the messages of an incident."""

    def __init__(self, incident: Incident, link: str) -> None:
        self._incident = incident
        self._link = link

    def opened(self) -> Moment:
        """The incident is open, and why."""
        incident, put_off = self._incident, self._incident.put_off
        if put_off is not None and put_off.ours:
            title = f"Caused by a run of ours: {incident.opened.title}"
            next_step = "nothing: no recovery is started; the stack is diagnosed when the run has ended"
            return self._moment(Occasion.INCIDENT, title, put_off.why, next_step)
        title = ": ".join(filter(None, (f"Incident: {incident.opened.title}", self._incident.cause)))
        return self._moment(Occasion.INCIDENT, title, self._seen() or self._alerts(), self._next())

    def approval(self, chosen: Chosen) -> Moment:
        """A start needs a yes."""
        title = f"{chosen.runbook} waits for an approval: {self._incident.cause or self._incident.opened.title}"
        cause = "\n".join(filter(None, (self._seen(), f"Chosen because {chosen.why}")))
        return self._moment(Occasion.APPROVAL, title, cause, f"`k2run incidents --approve {self._incident.id}`")

    def alone(self, chosen: Chosen) -> Moment:
        """No runbook answers."""
        title = f"Nothing recovers this by itself: {self._incident.cause or self._incident.opened.title}"
        cause = "\n".join(filter(None, (self._seen(), chosen.why)))
        return self._moment(Occasion.FAILURE, title, cause, "a person is needed: `k2run diagnose` shows more")

    def failed(self, ended: Ended) -> Moment:
        """The run has ended, and nothing is recovered."""
        title = (
            f"{_runbook(self._incident)} did not recover this: {self._incident.cause or self._incident.opened.title}"
        )
        show = f"`k2run report {ended.run}`" if ended.run else f"`k2run incidents` shows {self._incident.id}"
        next_step = f"a person is needed: {show}, `k2run diagnose`"
        return self._moment(Occasion.FAILURE, title, f"The run ended: {ended.verdict}", next_step)

    def recovered(self, at: str, run: str, runbook: str, cost: str) -> Moment:
        """A run has proven that what failed is well again."""
        incident = self._incident
        title = f"Recovered after {self._lasted(at)} by {runbook}: {self._incident.cause or incident.opened.title}"
        proof = f"Proven by the run {run}"
        if incident.failed:
            proof += f"; {_runbook(incident)} had not recovered it"
        return self._moment(Occasion.RECOVERED, title, "\n".join(filter(None, (proof, cost and f"Cost: {cost}"))))

    def over(self, at: str, why: str) -> Moment:
        """It has ended, and no run has proven anything."""
        title = f"Ended after {self._lasted(at)} without a recovery: {self._incident.opened.title}"
        return self._moment(Occasion.ENDED, title, why)

    def _next(self) -> str:
        """What is to be done about an incident that is open."""
        incident, chosen = self._incident, self._incident.chosen
        if incident.joined is not None:
            return f"nothing: it has the same cause as {incident.joined.incident}, whose run answers both"
        if incident.put_off is not None and incident.waits:
            return f"nothing: {incident.put_off.why}; the stack is diagnosed again when it is free"
        if chosen is not None and chosen.automatic:
            return f"nothing: {chosen.runbook} is started"
        if incident.waits_for_approval and chosen is not None:
            return f"{chosen.runbook} waits for an approval: `k2run incidents --approve {incident.id}`"
        return f"`k2run incidents` shows how {incident.id} stands"

    def _alerts(self) -> str:
        titles = [alert.title or alert.alert for alert in self._incident.alerts.values()]
        more = [f"and {len(titles) - LINES} more"] if len(titles) > LINES else []
        return "\n".join([*titles[:LINES], *more])

    def _seen(self) -> str:
        """The cause first, then what speaks for it; where nothing was recognised, what the diagnosis says of that."""
        diagnosed = self._incident.diagnosed
        found = [self._incident.cause, *self._incident.evidence]
        if not self._incident.cause and diagnosed is not None:
            found = diagnosed.lines[:1]
        return "\n".join(filter(None, found))

    def _lasted(self, at: str) -> str:
        return span(max(0.0, seconds_of(at) - seconds_of(self._incident.began_at)))

    def _moment(self, occasion: Occasion, title: str, cause: str, next_step: str = "") -> Moment:
        incident, chosen, ended = self._incident, self._incident.chosen, self._incident.ended
        again = f" {ended.at}" if ended is not None and occasion is Occasion.FAILURE else ""
        if occasion is Occasion.APPROVAL:  # after a wait for the stack, another runbook may be the answer
            again = f" {_runbook(incident)}"
        return Moment(
            occasion=occasion,
            key=f"{incident.id} {occasion}{again}",
            title=clean(title),
            cause=cause,
            next_step=next_step,
            run=incident.run,
            runbook=chosen.runbook if chosen is not None else "",
            stack=chosen.stack if chosen is not None else "",
            link=f"{self._link}/incidents/{incident.id}" if self._link else "",
        )


def _age(at: str) -> float:
    return time.time() - seconds_of(at)


LAST = 20


def show_incidents(*, all_: bool, json: bool) -> None:
    """List the open incidents, or the last ones with those that are closed."""
    incidents = [one for one in IncidentStore(Store().home).all() if all_ or one.closed is None][-LAST:]
    if json:
        say_json(incidents)
        return
    if not incidents:
        say("no incident is open")
    for incident in incidents:
        say(f"{incident.id}  {incident.state}  {clean(incident.opened.title)}")
        for line in _details(incident):
            say(f"    {line}")


def approve_incident(reference: str) -> None:
    """Say, in the name of who sits here, that an incident's runbook may be started."""
    incident = IncidentStore(Store().home).approve(reference, account_name())
    runbook = incident.chosen.runbook if incident.chosen else ""
    say(f"{incident.id}: {runbook} may be started; the server (`k2run serve`) starts it")


def decline_incident(reference: str) -> None:
    """Say, in the name of who sits here, that an incident's runbook is not to be started."""
    incident = IncidentStore(Store().home).decline(reference, account_name())
    runbook = incident.chosen.runbook if incident.chosen else ""
    say(f"{incident.id}: {runbook} will not be started")


def _details(incident: Incident) -> list[str]:
    alerts = f"{len(incident.firing)} of {len(incident.alerts)} alerts fire"
    lines = [f"{alerts}, {incident.deliveries} notices since {incident.opened.at[:19]}Z"]
    chosen = incident.chosen
    if chosen is not None and chosen.runbook:
        lines.append(f"runbook {chosen.runbook} on {chosen.stack}: {clean(chosen.why)}")
    elif chosen is not None:
        lines.append(clean(chosen.why))
    if incident.waits_for_approval:
        lines.append(f"start it with: k2run incidents --approve {incident.id}")
    if incident.dropped is not None:
        lines.append(f"nothing is started: {clean(incident.dropped.why)}")
    elif incident.waits and incident.put_off is not None:
        lines.append(f"waits: {clean(incident.put_off.why)}")
    elif incident.joined is not None:
        lines.append(f"same cause as {incident.joined.incident}, whose run answers both")
    if incident.ended is not None:
        lines.append(f"run {incident.ended.run or '(none)'}: {clean(incident.ended.verdict)}")
    elif incident.run:
        lines.append(f"run {incident.run} goes on")
    if incident.declined is not None:
        lines.append(f"declined by {clean(incident.declined.by)}")
    return lines
