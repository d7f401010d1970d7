"""An incident as its record tells it: events, folded one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import Iterable


class Entry(Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    """Base of the events of an incident; `at` is UTC, ISO 8601."""

    at: str = ""


class Opened(Entry, frozen=True, kw_only=True, tag="opened"):
    """An alert came that belongs to no open incident."""

    incident: str
    key: str
    title: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Alerted(Entry, frozen=True, kw_only=True, tag="alerted"):
    """An alert of the incident fires, or is resolved."""

    alert: str
    status: str
    title: str = ""
    labels: dict[str, str] = {}


class Diagnosed(Entry, frozen=True, kw_only=True, tag="diagnosed"):
    """What the stack's symptoms say.

    Attributes:
        lines: The diagnosis for people.
        matches: Runbooks whose symptoms are present, the most likely first.
        absent: Runbooks that are about something which this stack has not.
    """

    stack: str
    lines: list[str] = []
    matches: list[str] = []
    absent: list[str] = []


class Chosen(Entry, frozen=True, kw_only=True, tag="chosen"):
    """The runbook that answers; `runbook` is empty when none does."""

    runbook: str = ""
    path: str = ""
    stack: str = ""
    inputs: dict[str, Any] = {}
    automatic: bool = False
    why: str = ""


class Approved(Entry, frozen=True, kw_only=True, tag="approved"):
    """An approver wants the runbook to be started."""

    by: str


class Declined(Entry, frozen=True, kw_only=True, tag="declined"):
    """An approver does not want the runbook to be started."""

    by: str


class Ordered(Entry, frozen=True, kw_only=True, tag="ordered"):
    """The run is being started."""

    by: str


class Began(Entry, frozen=True, kw_only=True, tag="began"):
    """The run has begun its journal."""

    run: str


class PutOff(Entry, frozen=True, kw_only=True, tag="put_off"):
    """The run could not begin yet; it is tried again."""

    why: str


class Ended(Entry, frozen=True, kw_only=True, tag="ended"):
    """The run has ended; `run` is empty when it never began."""

    run: str = ""
    verdict: str = ""
    exit_code: int | None = None


class Closed(Entry, frozen=True, kw_only=True, tag="closed"):
    """The incident has ended."""

    why: str


AnyEntry = Opened | Alerted | Diagnosed | Chosen | Approved | Declined | Ordered | Began | PutOff | Ended | Closed


class Incident(Struct):
    """An incident so far; `fold` is its only writer."""

    opened: Opened
    alerts: dict[str, Alerted] = field(default_factory=dict)
    deliveries: int = 0
    diagnosed: Diagnosed | None = None
    chosen: Chosen | None = None
    approved: Approved | None = None
    declined: Declined | None = None
    ordered: Ordered | None = None
    began: Began | None = None
    ended: Ended | None = None
    closed: Closed | None = None

    @property
    def id(self) -> str:
        """Its name."""
        return self.opened.incident

    @property
    def firing(self) -> list[Alerted]:
        """The alerts that still fire."""
        return [alert for alert in self.alerts.values() if alert.status == "firing"]

    @property
    def waits_for_approval(self) -> bool:
        """Whether the start of the runbook needs approval."""
        chosen = self.chosen
        asked = chosen is not None and bool(chosen.runbook) and not chosen.automatic
        return asked and self.approved is None and self.declined is None and self.closed is None

    @property
    def may_start(self) -> bool:
        """Whether the runbook is to be started now."""
        chosen = self.chosen
        if chosen is None or not chosen.runbook or self.ordered is not None or self.closed is not None:
            return False
        return chosen.automatic or self.approved is not None

    @property
    def run(self) -> str:
        """Its run, from the moment on that there is a journal; empty before."""
        if self.ended is not None and self.ended.run:
            return self.ended.run
        return self.began.run if self.began is not None else ""

    @property
    def failed(self) -> bool:
        """Whether its run has ended and did not pass."""
        return self.ended is not None and self.ended.exit_code != 0

    @property
    def state(self) -> str:
        """How it stands, in a word or two."""
        if self.closed is not None:
            return "closed"
        if self.ended is not None:
            return "not recovered" if self.failed else "run passed"
        if self.ordered is not None:
            return "running"
        if self.declined is not None:
            return "declined"
        return "approval needed" if self.waits_for_approval else "open"

    def fold(self, entry: AnyEntry) -> None:  # noqa: C901 - one case for each event
        """Take in the next event."""
        match entry:
            case Alerted():
                self.alerts[entry.alert] = entry
                self.deliveries += 1
            case Diagnosed():
                self.diagnosed = entry
            case Chosen():
                self.chosen = entry
            case Approved():
                self.approved = entry
            case Declined():
                self.declined = entry
            case Ordered():
                self.ordered, self.began, self.ended = entry, None, None
            case Began():
                self.began = entry
            case PutOff():
                self.ordered = None
            case Ended():
                self.ended = entry
            case Closed():
                self.closed = entry
            case Opened():
                pass


def incident_of(entries: Iterable[AnyEntry]) -> Incident | None:
    """The incident that a record tells; None when the record is empty or does not begin with an opening."""
    found: Incident | None = None
    for entry in entries:
        if found is not None:
            found.fold(entry)
        elif isinstance(entry, Opened):
            found = Incident(entry)
    return found
