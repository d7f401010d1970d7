"""A window of looks: what comes and goes is seen by looking more than once, and named as flapping."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Self

from k2run.recovery.diagnosis import Diagnosis, Flap, Suspect, Verdict, Word, arranged, diagnose
from k2run.recovery.symptoms import Presence

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from k2run.actions.catalogue import Catalogue
    from k2run.language.model import Runbook
    from k2run.recovery.diagnosis import Ailing, Why
    from k2run.recovery.symptoms import Sighting
    from k2run.stack.stack import Stack

PAUSE_S = 0.5
"""Seconds between two looks."""
BLIND_S = 5.0
"""Seconds in which a stack that nothing can be said of is checked again: what has just started shows nothing yet."""
LATE_S = 1.0
"""Seconds by which this process may wake up late; beyond, its figures are too old to be judged: it is starved."""
TWICE = 2
"""Changes between ill and well: a failure that begins or ends changes once, one that flaps changes on."""


def watch(  # noqa: PLR0913 - what `diagnose` needs, and for how long
    runbooks: Sequence[Runbook],
    stack: Stack,
    catalogue: Catalogue,
    stop: threading.Event,
    seconds: float,
    *,
    until_ill: bool = False,
) -> Diagnosis:
    """Look at a stack again and again; the diagnosis has all that was seen in any of the looks.

    Args:
        runbooks: The recovery runbooks.
        stack: What to look at.
        catalogue: The actions of their symptoms.
        stop: Set when the looking is to end.
        seconds: For how long; there is one look at least.
        until_ill: Whether the first look that finds something is the last.

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
    """One diagnosis out of several, one after the other.

    Args:
        looks: At least one.
        seconds: How long they took together.
    """
    last = looks[-1]
    if len(looks) == 1:
        return last
    return Diagnosis(
        stack=last.stack,
        suspects=arranged(_suspects(looks)),
        ailing=list({one.service: one for look in looks for one in look.ailing}.values()),
        probes=last.probes,
        unseen=last.unseen,
        not_applicable=last.not_applicable,
        foreign=last.foreign,
        seen=last.seen,
        not_seen=last.not_seen,
        data_path=_data_path(looks),
        seconds=seconds,
        causes=_causes(looks),
        looks=len(looks),
        flapping=list(_flapping(looks)),
    )


def _suspects(looks: Sequence[Diagnosis]) -> Iterator[Suspect]:
    """Each failure as it was seen last when it was recognised; else as it could not be seen; else as it is now."""
    seen: dict[str, list[Suspect]] = {}
    for look in looks:
        for suspect in look.suspects:
            seen.setdefault(suspect.runbook, []).append(suspect)
    for every in seen.values():
        matching = [suspect for suspect in every if suspect.verdict is Verdict.MATCHES]
        yield matching[-1] if matching else every[-1]


def _data_path(looks: Sequence[Diagnosis]) -> list[Sighting]:
    """Each step of the data path as it was seen last when it did not work; else as it is now."""
    worst: dict[str, Sighting] = {}
    for one in (one for look in looks for one in look.data_path):
        if one.presence is not Presence.PRESENT or one.symptom not in worst:
            worst[one.symptom] = one
    return list(worst.values())


def _causes(looks: Sequence[Diagnosis]) -> list[Why]:
    return list(dict.fromkeys(why for look in looks for why in look.causes))


def _flapping(looks: Sequence[Diagnosis]) -> Iterator[Flap]:
    """Failures and services that were ill, well and ill again, or the other way round."""
    failures = [{suspect.runbook for suspect in look.matches} for look in looks]
    services = [_names(look.ailing) for look in looks]
    for kind, ill in (("failure", failures), ("service", services)):
        for name in sorted(set().union(*ill)):
            states = [name in one for one in ill]
            changes = sum(before != after for before, after in pairwise(states))
            if changes >= TWICE:
                yield Flap(name=name, kind=kind, ill=sum(states), looks=len(looks), changes=changes)


def _names(ailing: Iterable[Ailing]) -> set[str]:
    return {one.service for one in ailing}
