"""Tells people of incidents: that one is open, waits for approval, was not recovered, or has ended."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from k2run.daemon.notify.config import read_settings
from k2run.daemon.notify.moment import Moment, Occasion
from k2run.daemon.notify.outbox import GIVE_UP_S, LOG, Outbox
from k2run.errors import K2runError
from k2run.language.quantities import Duration
from k2run.terminal.safe_stream import complain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k2run.daemon.alerts.incident import Incident
    from k2run.engine.store import Store

LINES = 6
"""Lines of a diagnosis in a message."""


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
    try:
        settings = read_settings()
    except K2runError as error:
        complain(f"warning: no notifications will be sent:  {error}")
        return None
    if not settings.notifications:
        return None
    folder = store.home / "serve"
    folder.mkdir(parents=True, exist_ok=True)
    return Messages(Outbox(settings.notifications, folder / LOG), settings.link)


def moments_of(incident: Incident, link: str = "") -> Iterator[tuple[str, Moment]]:
    """What an incident has given to tell so far, each with its time (UTC, ISO 8601)."""
    title, chosen, ended, closed = incident.opened.title, incident.chosen, incident.ended, incident.closed
    yield incident.opened.at, _moment(incident, link, Occasion.INCIDENT, f"Incident: {title}", _alerts(incident))
    if incident.waits_for_approval and chosen is not None:
        asks = f"{chosen.runbook} waits for an approval: {title}"
        yield chosen.at, _moment(incident, link, Occasion.APPROVAL, asks, _seen(incident))
    if chosen is not None and not chosen.runbook:
        alone = f"Nothing recovers this by itself: {title}"
        yield chosen.at, _moment(incident, link, Occasion.FAILURE, alone, f"{chosen.why}\n{_seen(incident)}")
    if ended is not None and chosen is not None and incident.failed:
        failed = f"{chosen.runbook} did not recover this: {title}"
        yield ended.at, _moment(incident, link, Occasion.FAILURE, failed, ended.verdict)
    if closed is not None:
        lasted = Duration(round(_seconds(closed.at) - _seconds(incident.opened.at)))
        over = f"Recovered after {lasted}: {title}"
        yield closed.at, _moment(incident, link, Occasion.RECOVERED, over, ended.verdict if ended else "")


def _moment(incident: Incident, link: str, occasion: Occasion, title: str, cause: str) -> Moment:
    chosen, ended = incident.chosen, incident.ended
    again = f" {ended.at}" if ended is not None and occasion is Occasion.FAILURE else ""
    return Moment(
        occasion=occasion,
        key=f"{incident.id} {occasion}{again}",
        title=title,
        cause=cause,
        run=incident.run,
        runbook=chosen.runbook if chosen is not None else "",
        stack=chosen.stack if chosen is not None else "",
        link=f"{link}/incidents/{incident.id}" if link else "",
    )


def _alerts(incident: Incident) -> str:
    return "\n".join(alert.title or alert.alert for alert in list(incident.alerts.values())[:LINES])


def _seen(incident: Incident) -> str:
    return "\n".join(incident.diagnosed.lines[:LINES]) if incident.diagnosed is not None else ""


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).astimezone(UTC).timestamp()


def _age(at: str) -> float:
    return time.time() - _seconds(at)
