"""What happens in an incident, one event for each line of its record."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


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
