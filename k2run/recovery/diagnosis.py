"""Names the failure of a stack: every recovery runbook is a suspect, and its symptoms speak for or against it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.language.model import Kind
from k2run.recovery.symptoms import LOOK_S, Presence, Sighting, look
from k2run.stack import lifecycle
from k2run.stack.backend import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.actions.catalogue import Catalogue
    from k2run.language.model import Runbook
    from k2run.stack.lifecycle import Look
    from k2run.stack.loading import Stack

ENOUGH = 0.5
"""The least share of its symptoms, weighed, that must be present for a failure to be named."""

SETTLE_S = 15.0
"""Seconds after a recovery in which what was started begins to show itself."""
SETTLE_PERIOD_S = 0.5


class Verdict(StrEnum):
    """What the symptoms say about one failure."""

    MATCHES = "matches"
    RULED_OUT = "ruled_out"  # a decisive symptom is absent, or none is present
    UNSEEN = "unseen"  # what would decide could not be looked at
    NOT_APPLICABLE = "not_applicable"  # this stack has nothing that could fail so


class Suspect(Struct, frozen=True, kw_only=True):
    """One recovery runbook and what its symptoms say.

    Attributes:
        share: Weight of the symptoms that are present over the weight of all that apply, 0 to 1.
        weight: Weight of the symptoms that are present: how specific the evidence is.
        needed_by: How many services need the one that this runbook repairs; what others need is repaired first.
        rto: Its recovery time objective, in seconds.
    """

    runbook: str
    title: str
    path: str
    verdict: Verdict
    share: float
    weight: float
    needed_by: int
    rto: float | None
    sightings: list[Sighting]


class Ailing(Struct, frozen=True, kw_only=True):
    """A service that does not do its work, whatever the symptoms say."""

    service: str
    state: str
    detail: str


class Diagnosis(Struct, frozen=True, kw_only=True):
    """What is wrong with a stack.

    Attributes:
        suspects: All recovery runbooks: those that match first, in the order in which they should be recovered from.
        ailing: Services that do not do their work.
        probes: How many symptoms were looked at.
        seconds: How long it took.
    """

    stack: str
    suspects: list[Suspect]
    ailing: list[Ailing]
    probes: int
    seconds: float

    @property
    def matches(self) -> list[Suspect]:
        """The failures that were recognised, the one to recover from first at the front."""
        return self.having(Verdict.MATCHES)

    @property
    def healthy(self) -> bool:
        """Nothing was recognised, and every service does its work."""
        return not self.matches and not self.ailing and not self.having(Verdict.UNSEEN)

    def having(self, verdict: Verdict) -> list[Suspect]:
        """The suspects of whom that is said."""
        return [suspect for suspect in self.suspects if suspect.verdict is verdict]


def diagnose(
    runbooks: Sequence[Runbook], stack: Stack, catalogue: Catalogue, stop: threading.Event | None = None
) -> Diagnosis:
    """Look at a stack and name what is wrong with it.

    Args:
        runbooks: The recovery runbooks; others, and those without symptoms, are passed over.
        stack: What to look at.
        catalogue: The actions of their symptoms.
        stop: Set when the looking is to end.

    Raises:
        Interrupted: It was asked to end.
    """
    began = time.monotonic()
    known = [runbook for runbook in runbooks if runbook.kind is Kind.RECOVERY and runbook.symptoms]
    with ThreadPoolExecutor(1) as beside:
        looked = beside.submit(lifecycle.status, stack, patience=LOOK_S)
        sightings = look(known, stack, catalogue, stop or threading.Event())
        ailing = [_ailing(seen) for seen in looked.result() if not _works(seen) and not stack.absent(seen.service.name)]
    suspects = [
        _suspect(runbook, stack, [one for one in sightings if one.runbook == runbook.name]) for runbook in known
    ]
    return Diagnosis(
        stack=stack.name,
        suspects=sorted(suspects, key=_rank),
        ailing=ailing,
        probes=len(sightings),
        seconds=round(time.monotonic() - began, 3),
    )


def suspicion(runbook: Runbook, stack: Stack, catalogue: Catalogue, stop: threading.Event) -> Suspect:
    """Look at the symptoms of one failure alone.

    Raises:
        Interrupted: It was asked to end.
    """
    return _suspect(runbook, stack, look([runbook], stack, catalogue, stop))


def diagnose_settled(
    runbooks: Sequence[Runbook], stack: Stack, catalogue: Catalogue, stop: threading.Event
) -> Diagnosis:
    """Diagnose after a recovery: what was just started cannot be seen at once, so look until something can be said.

    Raises:
        Interrupted: It was asked to end.
    """
    ends = time.monotonic() + SETTLE_S
    while True:
        found = diagnose(runbooks, stack, catalogue, stop)
        if found.healthy or found.matches or time.monotonic() > ends:
            return found
        stop.wait(SETTLE_PERIOD_S)


_ORDER = [Verdict.MATCHES, Verdict.UNSEEN, Verdict.RULED_OUT, Verdict.NOT_APPLICABLE]


def _rank(suspect: Suspect) -> tuple[int, int, float, float, str]:
    """Matches first; among them the one that most of the stack depends on, then the best evidence."""
    needed = -suspect.needed_by if suspect.verdict is Verdict.MATCHES else 0
    return _ORDER.index(suspect.verdict), needed, -suspect.weight, -suspect.share, suspect.runbook


def _suspect(runbook: Runbook, stack: Stack, sightings: list[Sighting]) -> Suspect:
    applying = [one for one in sightings if one.presence is not Presence.NOT_APPLICABLE]
    present = sum(one.weight for one in applying if one.presence is Presence.PRESENT)
    total = sum(one.weight for one in applying)
    share = present / total if total else 0.0
    missing = any(stack.absent(name) for name in runbook.requires)
    return Suspect(
        runbook=runbook.name,
        title=runbook.title,
        path=runbook.path,
        verdict=Verdict.NOT_APPLICABLE if missing or not applying else _verdict(applying, share),
        share=round(share, 3),
        weight=round(present, 3),
        needed_by=_dependents(stack, runbook.requires),
        rto=None if runbook.objective.rto is None else float(runbook.objective.rto),
        sightings=sightings,
    )


def _verdict(sightings: list[Sighting], share: float) -> Verdict:
    decisive = [one for one in sightings if one.decisive]
    if any(one.presence is Presence.ABSENT for one in decisive):
        return Verdict.RULED_OUT
    if any(one.presence is Presence.UNSEEN for one in decisive):
        return Verdict.UNSEEN
    return Verdict.MATCHES if share >= ENOUGH else Verdict.RULED_OUT


def _dependents(stack: Stack, requires: Sequence[str]) -> int:
    """How many services need those that a runbook repairs, directly or not; one that repairs no one service: all."""
    if not requires:
        return len(stack.services)
    needed = set(requires)
    while True:
        more = {name for name, service in stack.services.items() if needed & set(service.needs)} - needed
        if not more:
            return len(needed) - len(set(requires))
        needed |= more


def _works(seen: Look) -> bool:
    if seen.status.state is State.ABSENT:  # external, and without a probe: nobody can say
        return True
    return seen.status.state is State.RUNNING and (seen.probe is None or seen.probe.ready)


def _ailing(seen: Look) -> Ailing:
    detail = seen.probe.detail if seen.probe is not None and not seen.probe.ready else seen.status.detail
    return Ailing(service=seen.service.name, state=seen.status.state.value, detail=detail)
