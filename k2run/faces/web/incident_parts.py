"""Draws the pages of incidents in parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from k2run.errors import UsageError
from k2run.faces.alerts.incident import (
    Alerted,
    AnyEntry,
    Approved,
    Began,
    Chosen,
    Closed,
    Declined,
    Diagnosed,
    Ended,
    Opened,
    Ordered,
    PutOff,
)
from k2run.faces.web.pictures import draw
from k2run.faces.web.runs import ID
from k2run.faces.web.watched import Drawn, age_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k2run.faces.alerts.incident import Incident
    from k2run.faces.web.runs import Brief
    from k2run.faces.web.site import Site

CLOSED = 60
"""Closed incidents on the page of all."""
TOLD = 40
"""Lines of what happened in one."""
PARTS = ("incident", "answer", "alerts", "seen", "told")
TONES = {"open": "warn", "approval needed": "warn", "running": "live", "declined": "quiet", "closed": "good"}


def tone_of(incident: Incident) -> str:
    """The tone of an incident's state."""
    return TONES.get(incident.state, "bad" if incident.failed else "warn")


def open_incidents(site: Site) -> list[tuple[Incident, str]]:
    """The incidents that are not over, newest first, each with the tone of its state."""
    return [(one, tone_of(one)) for one in reversed(site.book.all()) if one.closed is None]


def find(site: Site, name: str) -> Incident:
    """An incident by its whole id; nothing else is looked up by what a browser sends.

    Raises:
        UsageError: There is no such incident.
    """
    if ID.fullmatch(name):
        for found in site.book.all():
            if found.id == name:
                return found
    raise UsageError("there is no such incident", hint="the page of all incidents lists them")


def draw_all(site: Site) -> Drawn:
    """The page of all incidents."""
    found = site.book.all()
    over = [one for one in reversed(found) if one.closed is not None]
    values = {"open": open_incidents(site), "closed": over[:CLOSED], "total": len(over), "age_of": age_of}
    return Drawn(now=0.0, state="ended", parts={"p-incidents": draw("parts/incidents.html", **values)})


def draw_one(site: Site, name: str, csrf: str = "") -> Drawn:
    """The page of an incident.

    Args:
        site: The site.
        name: The incident.
        csrf: The reader's, for the forms; parts that are sent to everybody have none, the page's script puts it in.
    """
    found = find(site, name)
    values = {
        "incident": found,
        "tone": tone_of(found),
        "now": age_of(found),
        "live": found.closed is None,
        "runbook": Path(found.chosen.path).stem if found.chosen is not None and found.chosen.path else "",
        "run": _run_of(site, found),
        "told": list(told(site.book.entries(found)))[-TOLD:],
        "csrf": csrf,
    }
    parts = {f"p-{part}": draw(f"parts/{part}.html", **values) for part in PARTS}
    return Drawn(now=round(age_of(found), 3), state="running" if found.closed is None else "ended", parts=parts)


def _run_of(site: Site, found: Incident) -> Brief | None:
    try:
        return site.runs.brief(site.runs.folder(found.run)) if found.run else None
    except UsageError:  # its folder was deleted
        return None


def told(entries: Sequence[AnyEntry]) -> Iterator[tuple[str, str]]:
    """What has happened in an incident, each with its time; notices that repeat one another are one."""
    firing: dict[str, str] = {}
    for entry in entries:
        if isinstance(entry, Alerted):
            if firing.get(entry.alert) == entry.status:
                continue
            firing[entry.alert] = entry.status
        yield entry.at, _says(entry)


def _says(entry: AnyEntry) -> str:  # noqa: C901, PLR0911 - one line for each event
    match entry:
        case Opened():
            return "opened"
        case Alerted():
            return f"{'fires' if entry.status == 'firing' else entry.status}: {entry.title or entry.alert}"
        case Diagnosed():
            return f"{entry.stack} diagnosed: {', '.join(entry.matches) or 'no failure recognised'}"
        case Chosen():
            return f"{entry.runbook} chosen: {entry.why}" if entry.runbook else entry.why
        case Approved():
            return f"approved by {entry.by}"
        case Declined():
            return f"declined by {entry.by}"
        case Ordered():
            return "run ordered"
        case Began():
            return f"run {entry.run} began"
        case PutOff():
            return f"put off: {entry.why}"
        case Ended():
            return f"run ended: {entry.verdict}"
        case Closed():
            return f"closed: {entry.why}"
