"""Shows incidents on the terminal, and approves what they want to start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.account import account_name
from k2run.daemon.alerts.store import IncidentStore
from k2run.engine.store import Store
from k2run.evidence.wording import clean
from k2run.terminal.safe_stream import say, say_json

if TYPE_CHECKING:
    from k2run.daemon.alerts.incident import Incident

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
