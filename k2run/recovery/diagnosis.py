"""Names the failure of a stack: every recovery runbook is a suspect, and its symptoms speak for or against it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from k2run.language.model import Kind
from k2run.recovery.order import Order
from k2run.recovery.symptoms import LOOK_S, Presence, Sighting, believed, look, look_along
from k2run.stack import lifecycle
from k2run.stack.backend import State
from k2run.stack.causes import EFFECTS, causes_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from k2run.actions.catalogue import Catalogue
    from k2run.language.model import Runbook
    from k2run.stack.lifecycle import Look
    from k2run.stack.stack import Stack

ENOUGH = 0.5
"""The least share of its symptoms, weighed, that must be present for a failure to be named."""

SETTLE_S = 15.0
"""Seconds after a recovery in which what was started begins to show itself."""
SETTLE_PERIOD_S = 0.5


class Verdict(StrEnum):
    """What the symptoms say about one failure."""

    MATCHES = "matches"
    RULED_OUT = "ruled_out"  # a decisive symptom is absent, or none is present
    UNSEEN = "unseen"  # what would decide could not be checked now
    CANNOT_SAY = "cannot_say"  # what would decide is nothing that this stack shows
    NOT_APPLICABLE = "not_applicable"  # this stack has nothing that could fail so


class Word(StrEnum):
    """A diagnosis in capitals."""

    UNHEALTHY = "UNHEALTHY"
    CANNOT_SAY = "CANNOT SAY"
    AS_FAR_AS_SEEN = "HEALTHY AS FAR AS SEEN"
    HEALTHY = "HEALTHY"


class Suspect(Struct, frozen=True, kw_only=True):
    """One recovery runbook and what its symptoms say.

    Attributes:
        share: Weight of the symptoms that are present over the weight of all that apply, 0 to 1.
        weight: Weight of the symptoms that are present: how specific the evidence is.
        needed_by: How many services need the one that this runbook repairs; what others need is repaired first.
        rto: Its recovery time objective, in seconds.
        requires: The services that it repairs; none for one that frees what all of them need.
        works_with: The services that its recovery works with, beside those that it starts.
        down: One that it repairs has ended, is held or does not answer: no effect of how another one works.
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
    requires: list[str] = []
    works_with: list[str] = []
    down: bool = False

    @property
    def unsaid(self) -> list[Sighting]:
        """What would have to be visible to say whether this is the failure."""
        return [one for one in self.sightings if one.presence in {Presence.UNSEEN, Presence.NOT_APPLICABLE}]

    @property
    def gone(self) -> bool:
        """Whether its symptoms are seen not to be there: a precondition that is missing says nothing of them."""
        if self.verdict is not Verdict.RULED_OUT:
            return self.verdict is Verdict.NOT_APPLICABLE
        given = all(one.presence is Presence.PRESENT for one in self.sightings if one.precondition)
        telling = (one for one in self.sightings if one.decisive and not one.precondition)
        return given or any(one.presence is Presence.ABSENT for one in telling)

    def yields_to(self, other: Suspect) -> bool:
        """Whether the other's service is down, and this recovery works with it while its own services answer.

        Figures of a service that answers may be bad for a moment, and its recovery could not be proven meanwhile.
        """
        answers = bool(self.requires) and not self.down
        return answers and other.down and not {*other.requires}.isdisjoint({*self.works_with} - {*self.requires})


class Ailing(Struct, frozen=True, kw_only=True):
    """A service that is not healthy, whatever the symptoms say."""

    service: str
    state: str
    detail: str


class Why(Struct, frozen=True, kw_only=True):
    """A line that says why a service is not healthy.

    Attributes:
        kind: What it lacks: `disk full`, `port taken`, `locked`, ….
        says: The line, or the fact.
        source: Where it is written.
    """

    service: str
    kind: str
    says: str
    source: str


class Flap(Struct, frozen=True, kw_only=True):
    """Something that flapped while a stack was checked several times.

    Attributes:
        name: The recovery runbook of the failure, or the service.
        kind: `failure` or `service`.
        ill: In how many looks it was there.
        looks: How many looks there were.
        changes: How often it came or went.
    """

    name: str
    kind: str
    ill: int
    looks: int
    changes: int


class Diagnosis(Struct, frozen=True, kw_only=True):
    """What is wrong with a stack.

    Attributes:
        suspects: All recovery runbooks: those that match first, in the order in which they should be recovered from.
        ailing: Services that are not healthy.
        causes: Why services fail, as it is written in logs, at ports, on disks.
        data_path: What the stack declares as its data path, looked at: present is working.
        not_seen: Services that nothing can be said of, and why: `api: no probe`.
        probes: How many symptoms of failures that this stack can have were checked and answered.
        unseen: How many of them could not be seen.
        seen: How many services were seen.
        not_applicable: How many symptoms do not apply to this stack.
        seconds: How long it took.
        looks: How often the stack was checked.
        flapping: What flapped meanwhile.
        foreign: How many recovery runbooks are for other platforms.
    """

    stack: str
    suspects: list[Suspect]
    ailing: list[Ailing]
    probes: int
    unseen: int = 0
    seen: int = 0
    not_applicable: int = 0
    seconds: float
    causes: list[Why] = []
    data_path: list[Sighting] = []
    not_seen: list[str] = []
    looks: int = 1
    flapping: list[Flap] = []
    foreign: int = 0

    @property
    def matches(self) -> list[Suspect]:
        """The failures that were recognised, the one to recover from first at the front."""
        return self.having(Verdict.MATCHES)

    @property
    def healthy(self) -> bool:
        """All that was seen is healthy, and something was: what a stack does not show is said, and not counted."""
        ill = self.matches or self.ailing or self.having(Verdict.UNSEEN) or self.broken_path
        return not ill and bool(self.seen or self.probes)

    @property
    def blind(self) -> int:
        """How many services and failures nothing can be said of on this stack."""
        return len(self.not_seen) + len(self.having(Verdict.CANNOT_SAY))

    @property
    def word(self) -> Word:
        """The diagnosis in one word."""
        broken = any(one.broken for one in self.data_path)
        if self.matches or self.ailing or broken:
            return Word.UNHEALTHY
        if not self.healthy:
            return Word.CANNOT_SAY
        return Word.AS_FAR_AS_SEEN if self.blind else Word.HEALTHY

    @property
    def broken_path(self) -> list[Sighting]:
        """The steps of the data path that are not seen to work."""
        return [one for one in self.data_path if one.presence is not Presence.PRESENT]

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
    stack.learn()
    recoveries = [runbook for runbook in runbooks if runbook.kind is Kind.RECOVERY and runbook.symptoms]
    known = [runbook for runbook in recoveries if is_for(runbook, stack)]
    with ThreadPoolExecutor(2) as beside:
        looked = beside.submit(lifecycle.status, stack, patience=LOOK_S)
        path = beside.submit(look_along, stack, catalogue, stop or threading.Event())
        sightings = believed(look(known, stack, catalogue, stop or threading.Event()), path.result())
        looks = [seen for seen in looked.result() if not stack.absent(seen.service.name)]
    down = {seen.service.name for seen in looks if _is_down(seen)}
    order = Order(known, stack, catalogue)
    suspects = [
        replace(
            _suspect(runbook, stack, [one for one in sightings if one.runbook == runbook.name]),
            works_with=sorted(order.works_with(runbook)),
            down=not down.isdisjoint(runbook.requires),
        )
        for runbook in known
    ]
    answered, unseen = _counted(suspects)
    return Diagnosis(
        stack=stack.name,
        suspects=arranged(suspects),
        ailing=[_ailing(seen) for seen in looks if seen.is_known and not _works(seen)],
        probes=answered,
        unseen=unseen,
        not_applicable=len(sightings) - answered - unseen,
        seconds=round(time.monotonic() - began, 3),
        causes=_causes(stack, looks, [one for one in suspects if one.verdict is Verdict.MATCHES]),
        data_path=path.result(),
        seen=sum(seen.is_known for seen in looks),
        not_seen=[f"{one.service.name}: {one.status.detail}" for one in looks if not one.is_known],
        foreign=len(recoveries) - len(known),
    )


def is_for(runbook: Runbook, stack: Stack) -> bool:
    """Whether a recovery is for stacks such as this one."""
    return runbook.platform in {"", stack.platform}


def _counted(suspects: Sequence[Suspect]) -> tuple[int, int]:
    """How many symptoms of failures that the stack can have were answered, and how many could not be seen."""
    applying = [
        one for suspect in suspects if suspect.verdict is not Verdict.NOT_APPLICABLE for one in suspect.sightings
    ]
    answered = sum(one.presence in {Presence.PRESENT, Presence.ABSENT} for one in applying)
    return answered, sum(one.presence is Presence.UNSEEN for one in applying)


def suspicion(
    runbook: Runbook, stack: Stack, catalogue: Catalogue, stop: threading.Event, before: Suspect | None = None
) -> Suspect:
    """Look at the symptoms of one failure alone.

    Args:
        runbook: Its recovery.
        stack: What to look at.
        catalogue: The actions of its symptoms.
        stop: Set when the looking is to end.
        before: The same failure as a diagnosis saw it: its symptoms keep the weights that they have among others.

    Raises:
        Interrupted: It was asked to end.
    """
    weights = {one.step: one.weight for one in before.sightings} if before is not None else {}
    seen = look([runbook], stack, catalogue, stop)
    return _suspect(runbook, stack, [replace(one, weight=weights.get(one.step, one.weight)) for one in seen])


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


_ORDER = [Verdict.MATCHES, Verdict.UNSEEN, Verdict.CANNOT_SAY, Verdict.RULED_OUT, Verdict.NOT_APPLICABLE]


def arranged(suspects: Iterable[Suspect]) -> list[Suspect]:
    """Suspects by their rank; a match that yields to another comes after it."""
    waiting = sorted(suspects, key=rank)
    found: list[Suspect] = []
    while waiting:
        matches = [one for one in waiting if one.verdict is Verdict.MATCHES]
        free = (one for one in waiting if one not in matches or not any(map(one.yields_to, matches)))
        first = next(free, waiting[0])
        waiting.remove(first)
        found.append(first)
    return found


def rank(suspect: Suspect) -> tuple[int, int, float, float, str]:
    """Matches first; among them the one that repairs, or lets work again, most of the stack; then the best evidence."""
    needed = -suspect.needed_by - len(suspect.requires) if suspect.verdict is Verdict.MATCHES else 0
    return _ORDER.index(suspect.verdict), needed, -suspect.weight, -suspect.share, suspect.runbook


def _suspect(runbook: Runbook, stack: Stack, sightings: list[Sighting]) -> Suspect:
    telling = [one for one in sightings if not one.precondition]
    applying = [one for one in telling if one.presence is not Presence.NOT_APPLICABLE]
    present = sum(one.weight for one in applying if one.presence is Presence.PRESENT)
    total = sum(one.weight for one in applying)
    share = present / total if total else 0.0
    missing = any(stack.absent(name) for name in runbook.requires) or not (applying or runbook.requires)
    return Suspect(
        runbook=runbook.name,
        title=runbook.title,
        path=runbook.path,
        verdict=Verdict.NOT_APPLICABLE if missing else _verdict(sightings, share),
        share=round(share, 3),
        weight=round(present, 3),
        needed_by=_dependents(stack, runbook.requires),
        rto=None if runbook.objective.rto is None else float(runbook.objective.rto),
        sightings=sightings,
        requires=list(runbook.requires),
    )


def _verdict(sightings: list[Sighting], share: float) -> Verdict:
    """What the sightings say: where one of those that decide is not seen, nothing."""
    telling = [one for one in sightings if not one.precondition]
    decisive = [one for one in sightings if one.precondition or one.decisive]
    decisive += [] if any(one.decisive for one in telling) else telling
    found = {one.presence for one in decisive}
    blind = {one.step for one in decisive} - {
        one.step for one in decisive if one.presence is not Presence.NOT_APPLICABLE
    }
    if Presence.ABSENT in {one.presence for one in decisive if one.decisive}:
        return Verdict.RULED_OUT
    if blind:  # looking again could not help, whatever else is not seen just now
        return Verdict.CANNOT_SAY
    if Presence.UNSEEN in found:
        return Verdict.UNSEEN
    decided = any(one.decisive for one in telling)  # all of them are present here; what supports only weighs
    return Verdict.MATCHES if decided or share >= ENOUGH else Verdict.RULED_OUT


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


def _causes(stack: Stack, looks: Sequence[Look], matches: Sequence[Suspect]) -> list[Why]:
    """Why services fail: those that are not healthy, and those with a recognised failure."""
    concerned = {name for suspect in matches for name in suspect.requires}
    looks = [seen for seen in looks if seen.is_known and (not _works(seen) or seen.service.name in concerned)]
    with ThreadPoolExecutor(max(1, len(looks))) as threads:
        found = threads.map(lambda seen: (seen.service.name, causes_of(stack, seen)), looks)
        whys = [
            Why(service=name, kind=cause.kind.value, says=cause.says, source=cause.source)
            for name, causes in found
            for cause in causes
        ]
    return sorted(whys, key=lambda why: why.kind in EFFECTS)


def _works(seen: Look) -> bool:
    return seen.status.state is State.RUNNING and (seen.probe is None or seen.probe.ready)


def _is_down(seen: Look) -> bool:
    """Whether a service has ended, is held or does not answer; one that answers wrongly may suffer from another."""
    if not seen.is_known:
        return False
    return seen.status.state in {State.STOPPED, State.PAUSED, State.ABSENT} or (
        seen.probe is not None and not seen.probe.answered
    )


def _ailing(seen: Look) -> Ailing:
    detail = seen.probe.detail if seen.probe is not None and not seen.probe.ready else seen.status.detail
    return Ailing(service=seen.service.name, state=seen.status.state.value, detail=detail)
