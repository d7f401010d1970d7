"""Looks at a stack and names what is wrong: once, until it has settled, or for a window in which it may flap."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Self

from msgspec.structs import replace

from k2run.language.model import Kind
from k2run.recovery.diagnosis import Ailing, Diagnosis, Flap, Order, Suspect, Verdict, Why, Word, arranged
from k2run.recovery.symptoms import LOOK_S, Presence, Sighting, believed, look, look_along
from k2run.stack import lifecycle
from k2run.stack.backend import State
from k2run.stack.causes import EFFECTS, causes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from k2run.actions.catalogue import Catalogue
    from k2run.language.model import Runbook
    from k2run.stack.lifecycle import Look
    from k2run.stack.stack import Stack

ENOUGH = 0.5
"""The least share of its symptoms, weighed, that must be present for a failure to be named."""

SETTLE_S = 15.0
"""Seconds after a recovery in which what was started begins to show itself."""
PAUSE_S = 0.5
"""Seconds between two looks."""
BLIND_S = 5.0
"""Seconds in which a stack that nothing can be said of is checked again: what has just started shows nothing yet."""
LATE_S = 1.0
"""Seconds by which this process may wake up late; beyond, its figures are too old to be judged: it is starved."""
TWICE = 2
"""Changes between ill and well: a failure that begins or ends changes once, one that flaps changes on."""


def diagnose(
    runbooks: Sequence[Runbook], stack: Stack, catalogue: Catalogue, stop: threading.Event | None = None
) -> Diagnosis:
    """Look at a stack and name what is wrong with it.

    Runbooks that are no recoveries, and those without symptoms, are passed over.

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
            waiting=len(_dependents(stack, runbook.requires) - (down if runbook.requires else set())),
        )
        for runbook in known
    ]
    answered, unseen = _counted(suspects)
    return Diagnosis(
        stack=stack.name,
        suspects=arranged(suspects),
        ailing=[_ailing(seen) for seen in looks if seen.is_known and not seen.works],
        probes=answered,
        unseen=unseen,
        not_applicable=len(sightings) - answered - unseen,
        seconds=round(time.monotonic() - began, 3),
        causes=_causes(stack, looks, [one for one in suspects if one.verdict is Verdict.MATCHES]),
        data_path=path.result(),
        seen=sum(seen.is_known for seen in looks),
        not_seen=[_blind(one) for one in looks if not one.is_known and not one.unreached],
        unreached=[_blind(one) for one in looks if one.unreached],
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

    With `before`, the same failure as a diagnosis saw it, they keep the weights that they have among others.

    Raises:
        Interrupted: It was asked to end.
    """
    weights = {one.step: one.weight for one in before.sightings} if before is not None else {}
    seen = look([runbook], stack, catalogue, stop)
    return _suspect(runbook, stack, [replace(one, weight=weights.get(one.step, one.weight)) for one in seen])


def diagnose_settled(
    runbooks: Sequence[Runbook],
    stack: Stack,
    catalogue: Catalogue,
    stop: threading.Event,
    tell: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Diagnose after a recovery: what was just started cannot be seen at once, so look until something can be said.

    A service whose engine or host gives no answer is not waited for. `tell` hears, once, that it takes longer.

    Raises:
        Interrupted: It was asked to end.
    """
    ends = time.monotonic() + SETTLE_S
    while True:
        found = diagnose(runbooks, stack, catalogue, stop)
        if found.healthy or found.matches or found.unreached or time.monotonic() > ends:
            return found
        if tell is not None:
            tell(f"no failure can be named yet: looking again for up to {SETTLE_S:g}s")
            tell = None
        stop.wait(PAUSE_S)


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
        needed_by=len(_dependents(stack, runbook.requires)),
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


def _dependents(stack: Stack, requires: Sequence[str]) -> set[str]:
    """The services that need those that a runbook repairs, directly or not; of one that repairs no one service: all."""
    if not requires:
        return set(stack.services)
    repaired = set(requires)
    return {name for name in stack.services if repaired & set(stack.needed([name]))} - repaired


def _causes(stack: Stack, looks: Sequence[Look], matches: Sequence[Suspect]) -> list[Why]:
    """Why services fail: those that are not healthy, and those with a recognised failure."""
    concerned = {name for suspect in matches for name in suspect.requires}
    looks = [seen for seen in looks if seen.is_known and (not seen.works or seen.service.name in concerned)]
    with ThreadPoolExecutor(max(1, len(looks))) as threads:
        found = threads.map(lambda seen: (seen.service.name, causes_of(stack, seen)), looks)
        whys = [
            Why(service=name, kind=cause.kind.value, says=cause.says, source=cause.source)
            for name, causes in found
            for cause in causes
        ]
    return sorted(whys, key=lambda why: why.kind in EFFECTS)


def _blind(seen: Look) -> str:
    return f"{seen.service.name}: {seen.status.detail}"


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


def watch(  # noqa: PLR0913 - what `diagnose` needs, and for how long
    runbooks: Sequence[Runbook],
    stack: Stack,
    catalogue: Catalogue,
    stop: threading.Event,
    seconds: float,
    *,
    until_ill: bool = False,
) -> Diagnosis:
    """Look at a stack for a window, as `watching` does; the diagnosis has all that was seen in any of the looks.

    With `until_ill` the first look that finds something is the last.

    Raises:
        Interrupted: It was asked to end.
    """
    for found in watching(runbooks, stack, catalogue, stop, seconds):
        if until_ill and found.word is Word.UNHEALTHY:
            break
    return found


def watching(
    runbooks: Sequence[Runbook], stack: Stack, catalogue: Catalogue, stop: threading.Event, seconds: float
) -> Iterator[Diagnosis]:
    """What was seen so far, after each look of a window; at least one.

    Args:
        runbooks: The recovery runbooks.
        stack: What to look at.
        catalogue: The actions of their symptoms.
        stop: Set when the looking is to end.
        seconds: For how long; a last look that cannot say anything is repeated for a few seconds.

    Raises:
        Interrupted: It was asked to end.
    """
    began = time.monotonic()
    looks: list[Diagnosis] = []
    while not looks or time.monotonic() - began + looks[-1].seconds < seconds:
        if looks:
            stop.wait(PAUSE_S)
        looks.append(_look(runbooks, stack, catalogue, stop))
        yield together(looks, round(time.monotonic() - began, 3))
    patient_until = time.monotonic() + BLIND_S
    while _is_open(looks[-1]) and time.monotonic() < patient_until:
        stop.wait(PAUSE_S)
        looks[-1] = _look(runbooks, stack, catalogue, stop)
        yield together(looks, round(time.monotonic() - began, 3))


def _look(runbooks: Sequence[Runbook], stack: Stack, catalogue: Catalogue, stop: threading.Event) -> Diagnosis:
    """One look; what was found while this process was starved is looked for once more."""
    with Heartbeat() as beat:
        found = diagnose(runbooks, stack, catalogue, stop)
    if found.word is Word.UNHEALTHY and beat.worst_s > LATE_S:
        found = diagnose(runbooks, stack, catalogue, stop)
    return found


class Heartbeat:
    """How late this process wakes up, for want of a processor, while the block runs.

    Attributes:
        worst_s: The longest delay so far, in seconds.
    """

    _EVERY_S = 0.1

    def __init__(self) -> None:
        self.worst_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        due = time.monotonic() + self._EVERY_S
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            self.worst_s = max(self.worst_s, time.monotonic() - due)
            due = time.monotonic() + self._EVERY_S


def _is_open(look: Diagnosis) -> bool:
    """Whether nothing was found, and something that the stack can show was not seen."""
    return look.word is Word.CANNOT_SAY and bool(look.having(Verdict.UNSEEN) or look.broken_path)


def together(looks: Sequence[Diagnosis], seconds: float) -> Diagnosis:
    """One diagnosis out of one or several, one after the other, which took so many seconds together."""
    last = looks[-1]
    if len(looks) == 1:
        return last
    return replace(
        last,
        suspects=arranged(_suspects(looks)),
        ailing=list({one.service: one for found in looks for one in found.ailing}.values()),
        data_path=_data_path_in(looks),
        seconds=seconds,
        causes=list(dict.fromkeys(why for found in looks for why in found.causes)),
        looks=len(looks),
        flapping=list(_flapping(looks)),
    )


def _suspects(looks: Sequence[Diagnosis]) -> Iterator[Suspect]:
    """Each failure as it was seen last when it was recognised; else as it could not be seen; else as it is now."""
    seen: dict[str, list[Suspect]] = {}
    for found in looks:
        for suspect in found.suspects:
            seen.setdefault(suspect.runbook, []).append(suspect)
    for every in seen.values():
        matching = [suspect for suspect in every if suspect.verdict is Verdict.MATCHES]
        yield matching[-1] if matching else every[-1]


def _data_path_in(looks: Sequence[Diagnosis]) -> list[Sighting]:
    """Each step of the data path as it was seen last when it did not work; else as it is now."""
    worst: dict[str, Sighting] = {}
    for one in (one for found in looks for one in found.data_path):
        if one.presence is not Presence.PRESENT or one.symptom not in worst:
            worst[one.symptom] = one
    return list(worst.values())


def _flapping(looks: Sequence[Diagnosis]) -> Iterator[Flap]:
    """Failures and services that were ill, well and ill again, or the other way round."""
    failures = [{suspect.runbook for suspect in found.matches} for found in looks]
    services = [{one.service for one in found.ailing} for found in looks]
    for kind, ill in (("failure", failures), ("service", services)):
        for name in sorted(set().union(*ill)):
            states = [name in one for one in ill]
            changes = sum(before != after for before, after in pairwise(states))
            if changes >= TWICE:
                yield Flap(name=name, kind=kind, ill=sum(states), looks=len(looks), changes=changes)
