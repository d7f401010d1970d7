"""A diagnosis: what symptoms say of every failure that there is a recovery for, and which one is repaired first."""

from __future__ import annotations

import re
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.engine.outline import steps_within
from k2run.errors import K2runError
from k2run.language.expressions import roles_in
from k2run.recovery.symptoms import Presence, Sighting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from k2run.actions.catalogue import Catalogue
    from k2run.language.model import Runbook, Step
    from k2run.stack.stack import Stack

_STARTS = {"service.start", "service.resume", "service.restart", "settings.restore"}


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
        waiting: How many of those are not down themselves, so that this repair alone may let them work again.
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
    waiting: int = 0

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
        unreached: Services that the stack says how to see, and of which nothing was seen now, and why.
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
    unreached: list[str] = []
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
        unsure = self.having(Verdict.UNSEEN) or self.unreached
        ill = self.matches or self.ailing or unsure or self.broken_path
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


def rank(suspect: Suspect) -> tuple[int, int, int, float, float, str]:
    """Matches first; among them the one that repairs, or lets work again, most of the stack; then the best evidence."""
    matches, repaired = suspect.verdict is Verdict.MATCHES, len(suspect.requires)
    again = -(repaired + suspect.waiting) if matches else 0
    needed = -(repaired + suspect.needed_by) if matches else 0
    return _ORDER.index(suspect.verdict), again, needed, -suspect.weight, -suspect.share, suspect.runbook


class Order:
    """Orders the repairs of one stack.

    A recovery waits for another when it works with what the other one repairs: the proof that rows arrive asks the
    API, so an API that is down comes before a stream that is down. What a recovery starts by itself it does not wait
    for. Two that would wait for each other keep the order of their likelihood. One that repairs no service frees what
    all of them need, a disk or a port, and waits for none.
    """

    def __init__(self, runbooks: Sequence[Runbook], stack: Stack, catalogue: Catalogue) -> None:
        self._stack = stack
        self._catalogue = catalogue
        self._runbooks = {runbook.name: runbook for runbook in runbooks}

    def first(self, suspects: Sequence[Suspect]) -> Suspect | None:
        """The failure to repair first: the most likely one that waits for no other; None when there is none.

        Args:
            suspects: What is wrong, the most likely first.
        """
        for suspect in suspects:
            runbook = self._runbooks[suspect.runbook]
            if not runbook.requires:
                return suspect
            others = [self._runbooks[other.runbook] for other in suspects if other is not suspect]
            if not any(self._needs(runbook, other) and not self._needs(other, runbook) for other in others):
                return suspect
        return suspects[0] if suspects else None

    def _needs(self, runbook: Runbook, other: Runbook) -> bool:
        """Whether a recovery works with something that the other one repairs."""
        return bool(self.works_with(runbook) & ({*other.requires} - {*runbook.requires}))

    def works_with(self, runbook: Runbook) -> set[str]:
        """The services that the steps of a recovery work with, but for those that it starts."""
        steps = [step for section in runbook.sections for step in steps_within(section.steps)]
        started = {step.args.get("service") for step in steps if step.action in _STARTS}
        return {name for step in steps for name in self._touched(step)} - started

    def _touched(self, step: Step) -> Iterator[str]:
        """Services that a step names, and those at the address of a connection that its action needs."""
        named = step.args.get("service")
        if isinstance(named, str):
            yield named
        for role in roles_in(step.args):
            with suppress(K2runError):  # its own steps will say so
                yield from filter(None, [getattr(self._stack.roles.get(role), "service", "")])
        action = self._catalogue.find(step.action)
        for kind in action.connections if action is not None else ():
            ports = self._ports(kind.key)
            yield from (name for name, service in self._stack.services.items() if ports & service.reached_at)

    def _ports(self, connection: str) -> set[int]:
        """The ports in the settings of a connection; none where they cannot be read: its own actions will say so."""
        try:
            settings = str(self._stack.settings(connection) or "")
        except K2runError:
            return set()
        return {int(port) for port in re.findall(r":(\d+)", settings)}
