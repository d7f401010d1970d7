"""An incident: one event for each line of its record, and what they come to when folded one by one."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

if TYPE_CHECKING:
    from collections.abc import Iterable


class Entry(Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    """Base of the events of an incident; `at` is UTC, ISO 8601."""

    at: str = ""


class Opened(Entry, frozen=True, kw_only=True, tag="opened"):
    """An alert came that belongs to no open incident.

    Attributes:
        began: When the outage began, as far as the alerts say: UTC, ISO 8601; empty when they do not.
    """

    incident: str
    key: str
    title: str
    began: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Alerted(Entry, frozen=True, kw_only=True, tag="alerted"):
    """An alert of the incident fires, or is resolved."""

    alert: str
    status: str
    title: str = ""
    labels: dict[str, str] = {}


class Resolved(Entry, frozen=True, kw_only=True, tag="resolved"):
    """Every alert is resolved while the run continues; whether it recovered anything is said by its end alone."""


class Diagnosed(Entry, frozen=True, kw_only=True, tag="diagnosed"):
    """What the stack's symptoms say.

    Attributes:
        lines: The diagnosis for people.
        matches: Runbooks whose symptoms are present, the most likely first.
        absent: Runbooks that are about something which this stack has not.
        ruled_out: Runbooks whose symptoms were seen and are absent.
        healthy: All services are healthy, and all symptoms were seen and are absent.
        causes: What is wrong, in a line for each match, by its runbook; under "" what no runbook recognises.
        evidence: By the same: what speaks for it, in a few lines.
    """

    stack: str
    lines: list[str] = []
    matches: list[str] = []
    absent: list[str] = []
    ruled_out: list[str] = []
    healthy: bool = False
    causes: dict[str, str] = {}
    evidence: dict[str, list[str]] = {}


class Chosen(Entry, frozen=True, kw_only=True, tag="chosen"):
    """The runbook that answers; `runbook` is empty when none does.

    Attributes:
        seen: Its symptoms are present.
    """

    runbook: str = ""
    path: str = ""
    stack: str = ""
    inputs: dict[str, Any] = {}
    automatic: bool = False
    seen: bool = False
    why: str = ""


class Approved(Entry, frozen=True, kw_only=True, tag="approved"):
    """An approver wants the runbook to be started."""

    by: str
    runbook: str = ""


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
    """The stack is held: nothing is started until it is free, and then it is diagnosed again.

    Attributes:
        run: The run that holds it.
        ours: That run breaks or loads the stack on purpose, and was under way when the outage began.
    """

    why: str
    run: str = ""
    ours: bool = False


class Requeued(Entry, frozen=True, kw_only=True, tag="requeued"):
    """What was known is outdated: the stack is diagnosed again, and the runbook is chosen again."""

    why: str


class Joined(Entry, frozen=True, kw_only=True, tag="joined"):
    """Another incident has the same cause: its run answers both.

    Attributes:
        fits: The runbook names the alerts of this one too; otherwise only their end shows that its run was the answer.
    """

    incident: str
    fits: bool = False


class Dropped(Entry, frozen=True, kw_only=True, tag="dropped"):
    """Nothing needs a start any more.

    Attributes:
        run: The run that recovered it meanwhile, where there is one.
        runbook: Of that run.
    """

    why: str
    run: str = ""
    runbook: str = ""


class Ended(Entry, frozen=True, kw_only=True, tag="ended"):
    """The run has ended; `run` is empty when it never began.

    Attributes:
        cost: What the outage cost, as far as the run measured it.
        unchanged: The run has changed nothing, and found everything well: something else has recovered it.
    """

    run: str = ""
    verdict: str = ""
    exit_code: int | None = None
    cost: str = ""
    unchanged: bool = False


class Closed(Entry, frozen=True, kw_only=True, tag="closed"):
    """The incident has ended.

    Attributes:
        run: The run that recovered it, where that is not the incident's own.
        runbook: Of that run.
    """

    why: str
    run: str = ""
    runbook: str = ""


AnyEntry = (
    Opened
    | Alerted
    | Resolved
    | Diagnosed
    | Chosen
    | Approved
    | Declined
    | Ordered
    | Began
    | PutOff
    | Requeued
    | Joined
    | Dropped
    | Ended
    | Closed
)


class Incident(Struct):
    """An incident so far; `fold` is its only writer. `put_off` is kept when it no longer `waits` for the stack."""

    opened: Opened
    alerts: dict[str, Alerted] = field(default_factory=dict)
    deliveries: int = 0
    diagnosed: Diagnosed | None = None
    chosen: Chosen | None = None
    approved: Approved | None = None
    declined: Declined | None = None
    ordered: Ordered | None = None
    put_off: PutOff | None = None
    waits: bool = False
    joined: Joined | None = None
    dropped: Dropped | None = None
    began: Began | None = None
    ended: Ended | None = None
    closed: Closed | None = None

    @property
    def id(self) -> str:
        """Its name."""
        return self.opened.incident

    @property
    def began_at(self) -> str:
        """When the outage began, as far as that is known; else when the first alert came."""
        return self.opened.began or self.opened.at

    @property
    def age_s(self) -> float:
        """Seconds since it was opened, or for which it was open."""
        ended = seconds_of(self.closed.at) if self.closed is not None else time.time()
        return max(0.0, ended - seconds_of(self.opened.at))

    @property
    def silent_s(self) -> float:
        """Seconds since the last notice of one of its alerts."""
        last = max((alert.at for alert in self.alerts.values()), default=self.opened.at)
        return max(0.0, time.time() - seconds_of(last)) if last else 0.0

    @property
    def cause(self) -> str:
        """What is wrong, in a line: the failure that its runbook recovers from, else the first that was recognised."""
        causes = self.diagnosed.causes if self.diagnosed is not None else {}
        runbook = self.chosen.runbook if self.chosen is not None else ""
        return causes.get(runbook) or next(iter(causes.values()), "")

    @property
    def evidence(self) -> list[str]:
        """What speaks for the cause, in a few lines."""
        if self.diagnosed is None:
            return []
        runbook = self.chosen.runbook if self.chosen is not None else ""
        known = self.diagnosed.evidence
        return known.get(runbook) or next(iter(known.values()), [])

    @property
    def firing(self) -> list[Alerted]:
        """The alerts that still fire."""
        return [alert for alert in self.alerts.values() if alert.status == "firing"]

    @property
    def waits_for_approval(self) -> bool:
        """Whether the start of the runbook needs approval."""
        chosen = self.chosen
        if chosen is None or not chosen.runbook or chosen.automatic or self.is_approved or self.joined is not None:
            return False
        return not (self.declined or self.dropped or self.ordered or self.closed)

    @property
    def is_approved(self) -> bool:
        """Whether the runbook that is chosen is the one that an approver wants."""
        approved, chosen = self.approved, self.chosen
        return approved is not None and chosen is not None and approved.runbook in {"", chosen.runbook}

    @property
    def may_start(self) -> bool:
        """Whether the runbook is to be started now."""
        chosen = self.chosen
        if chosen is None or not chosen.runbook or self.ordered or self.dropped or self.joined or self.closed:
            return False
        return chosen.automatic or self.is_approved

    @property
    def is_left_to_people(self) -> bool:
        """Whether a person is to decide what happens next."""
        return self.chosen is not None and not self.may_start and not self.waits

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
    def recovered(self) -> bool:
        """Whether its run has proven that what failed is well again."""
        return self.ended is not None and self.ended.exit_code == 0

    @property
    def state(self) -> str:  # noqa: PLR0911 - one word for each
        """How it stands, in a word or two."""
        if self.closed is not None:
            return "closed"
        if self.ended is not None:
            return "not recovered" if self.failed else "run passed"
        if self.ordered is not None:
            return "running"
        if self.joined is not None:
            return "joined"
        if self.declined is not None:
            return "declined"
        if self.dropped is not None:
            return "not needed"
        if self.waits_for_approval:
            return "approval needed"
        return "queued" if self.waits else "open"

    def fold(self, entry: AnyEntry) -> None:  # noqa: C901, PLR0912 - one case for each event
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
                self.ordered, self.put_off, self.waits = None, entry, True
            case Requeued():
                self.diagnosed, self.chosen, self.joined, self.waits = None, None, None, False
            case Joined():
                self.joined = entry
            case Dropped():
                self.dropped = entry
            case Ended():
                self.ended = entry
            case Closed():
                self.closed = entry
            case Opened() | Resolved():
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


def seconds_of(at: str) -> float:
    """The moment of an entry, in seconds since 1970."""
    return datetime.fromisoformat(at).timestamp()
