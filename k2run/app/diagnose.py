"""Says how the services of a stack do, what is wrong with it, and which runbook recovers it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.actions.catalogue import Catalogue
from k2run.app.launch import open_stack, runbook_roots
from k2run.app.leftover_faults import warn_of_broken
from k2run.engine.safeguards import StopRequest
from k2run.engine.store import Store
from k2run.errors import K2runError, UsageError
from k2run.evidence.wording import clean, count, percent, span
from k2run.language.loader import load_runbook
from k2run.language.model import Kind
from k2run.language.quantities import Duration
from k2run.recovery.diagnosis import Diagnosis, Suspect, Verdict, Why
from k2run.recovery.looks import watch
from k2run.recovery.symptoms import Presence, Sighting, look_along
from k2run.stack import lifecycle
from k2run.stack.causes import causes_of
from k2run.terminal.safe_stream import complain, say, say_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from k2run.language.model import Runbook
    from k2run.language.vocabulary import Vocabulary
    from k2run.stack.lifecycle import Look
    from k2run.stack.stack import Stack

MARKS = {Presence.PRESENT: "+", Presence.ABSENT: "-", Presence.UNSEEN: "?", Presence.NOT_APPLICABLE: " "}


class ServiceRow(Struct, frozen=True, kw_only=True):
    """One service.

    Attributes:
        run: How it is run: `process`, `container`, …
        state: What it is doing; `not applicable` where this machine cannot have it.
        works: Whether it runs and is ready; null where it is not applicable or cannot be known.
        pid: Of its process; null without one.
        uptime_s: Seconds since it started.
        detail: What it reports about itself, or why it is not ready.
        why: Causes found in logs, at ports and on disks, each with its source.
        unreached: What runs it gave no answer now, nor did the service: the stack is not known to be healthy.
    """

    service: str
    run: str
    state: str
    works: bool | None
    pid: int | None
    uptime_s: float | None
    restarts: int | None
    detail: str
    why: list[str]
    unreached: bool = False


class PathRow(Struct, frozen=True, kw_only=True):
    """One step of the data path.

    Attributes:
        works: Whether what is expected was seen; null where it could not be seen.
        detail: What was measured, or why nothing could be.
        expected: What should be seen, as written.
    """

    name: str
    works: bool | None
    detail: str
    expected: str


class StackStatus(Struct, frozen=True, kw_only=True):
    """The services of one stack.

    Attributes:
        data_path: What the stack declares as its data path, checked step by step.
    """

    stack: str
    services: list[ServiceRow]
    data_path: list[PathRow] = []

    @property
    def healthy(self) -> bool:
        """Whether everything that can be seen works: services and the data path."""
        works = [row.works for row in self.services]
        unreached = any(row.unreached for row in self.services)
        return False not in works and True in works and not unreached and all(row.works for row in self.data_path)


def status_of(stack: Stack, catalogue: Catalogue) -> StackStatus:
    """Check every service of a stack, and its data path.

    Raises:
        RunbookInvalid: The runbook of the data path has problems.
    """
    rows = [_row(stack, look) for look in lifecycle.status(stack)]
    path = look_along(stack, catalogue, threading.Event())
    return StackStatus(stack=stack.name, services=rows, data_path=[_path_row(one) for one in path])


def _path_row(seen: Sighting) -> PathRow:
    works = True if seen.presence is Presence.PRESENT else False if seen.broken else None
    return PathRow(name=seen.symptom, works=works, detail=seen.evidence, expected=seen.expected)


def _row(stack: Stack, look: Look) -> ServiceRow:
    status, absent = look.status, stack.absent(look.service.name)
    works = look.works
    known = not absent and look.is_known
    return ServiceRow(
        service=look.service.name,
        run=str(look.service.run),
        state="not applicable" if absent else str(status.state),
        works=works if known else None,
        pid=status.pid,
        uptime_s=status.uptime_s,
        restarts=status.restarts,
        detail=absent or (look.probe.detail if look.probe and not look.probe.ready else status.detail),
        why=[] if works or not known else [f"{why.says} ({why.source})" for why in causes_of(stack, look)],
        unreached=look.unreached and not absent,
    )


def show_diagnosis(reference: str, *, json: bool, lasting: str = "") -> bool:
    """Look at a stack and show what is wrong with it.

    Args:
        reference: Name or file of the stack.
        json: As one JSON object.
        lasting: How long the checks are repeated, such as `20s`; once when empty.

    Returns:
        Whether the stack is healthy.

    Raises:
        UsageError: `lasting` is no duration.
    """
    seconds = _seconds(lasting)
    store, catalogue = Store(), Catalogue()
    warn_of_broken(store)
    stack = open_stack(reference, store=store)
    with StopRequest() as signals:
        found = watch(recovery_runbooks(catalogue), stack, catalogue, signals.run, seconds)
    if found.healthy:
        store.note_well(stack.name)
    if json:
        say_json(found)
    else:
        say("\n".join(lines_of(found)))
    return found.healthy


def _seconds(lasting: str) -> float:
    try:
        return float(Duration.parse(lasting)) if lasting else 0.0
    except ValueError as error:
        raise UsageError(f"--for {lasting}: {error}", hint="for example --for 20s") from error


def recovery_runbooks(vocabulary: Vocabulary) -> list[Runbook]:
    """Every recovery runbook that can be found, by its name; an invalid one is skipped."""
    found: dict[str, Runbook] = {}
    for root in runbook_roots():
        for file in sorted((root / "recovery").rglob("*.yaml")):
            try:
                runbook = load_runbook(file, vocabulary)
            except K2runError as invalid:
                complain(f"warning: skipping {file}: {invalid}; `k2run validate {file}`")
                continue
            if runbook.kind is Kind.RECOVERY:
                found.setdefault(runbook.name, runbook)
    return list(found.values())


def lines_of(found: Diagnosis) -> Iterator[str]:
    """The diagnosis for people."""
    yield headline(found)
    for flap in found.flapping:
        seen = f"there in {flap.ill} of {flap.looks} looks, changed {flap.changes} times"
        yield f"flapping: {flap.name} ({flap.kind}): {seen}"
    for number, suspect in enumerate(found.matches, start=1):
        yield from _match(number, suspect)
    yield from _path_told(found)
    yield from _unsaid(found.having(Verdict.UNSEEN), "could not be seen, so neither found nor ruled out:")
    yield from causes_told(found.causes)
    if found.ailing and not found.matches:
        yield "\nno recovery runbook matches; unhealthy services:"
        for one in found.ailing:
            yield f"  {one.service:<14} {one.state:<10} {clean(one.detail)}"
        yield f"  `k2run logs {found.ailing[0].service}` shows more"
    if found.unreached:
        yield "\nservices that gave no answer now; they may be healthy or not:"
        yield from (f"  {clean(one)}" for one in found.unreached)
    if found.not_seen:
        yield "\nservices that cannot be seen (give them a `ready:` in the stack file):"
        yield from (f"  {clean(one)}" for one in found.not_seen)
    yield from _unsaid(found.having(Verdict.CANNOT_SAY), "undecided on this stack; these checks gave no answer:")
    yield from _ruled_out(found)


def _path_told(found: Diagnosis) -> Iterator[str]:
    """The data path, and where it is not confirmed to work."""
    if found.broken_path:
        yield "\nthe data path is not confirmed to work:"
    elif found.data_path:
        yield "\nthe data path works:"
    for one in found.broken_path or found.data_path:
        asked = f"  [{clean(one.expected)}]" if one.expected else ""
        mark = "✓" if one.presence is Presence.PRESENT else "✗" if one.broken else "?"
        yield f"   {mark} {clean(one.symptom)}: {clean(one.evidence)}{asked}"


def _unsaid(suspects: Iterable[Suspect], heading: str) -> Iterator[str]:
    """Failures that could not be decided, each with the checks that gave no answer."""
    for number, suspect in enumerate(suspects):
        if not number:
            yield f"\n{heading}"
        yield f"  {suspect.runbook:<24} {clean(suspect.title)}"
        for one in suspect.unsaid:
            asked = f"  [{clean(one.expected)}]" if one.expected else ""
            yield f"   ? {clean(one.symptom)}: {clean(one.evidence)}{asked}"


def causes_told(causes: Iterable[Why]) -> Iterator[str]:
    """The causes, one line each, with all services that they affect."""
    told: dict[tuple[str, str, str], list[str]] = {}
    for why in causes:
        told.setdefault((why.kind, why.says, why.source), []).append(why.service)
    if told:
        yield "\nrecorded causes:"
    for (kind, says, source), services in told.items():
        yield f"  {', '.join(services)}: {kind} ({source}): {clean(says)}"


def checked(found: Diagnosis) -> str:
    """What was checked and what was not: `41 symptoms checked 3 times in 20.1s; 15 do not apply to this stack`."""
    times = f" {found.looks} times" if found.looks > 1 else ""
    said = [f"{count(found.probes, 'symptom')} checked{times} in {span(found.seconds)}"]
    if found.unseen:
        said.append(f"{found.unseen} could not be seen")
    if found.not_applicable:
        verb = "does" if found.not_applicable == 1 else "do"
        said.append(f"{found.not_applicable} {verb} not apply to this stack")
    return "; ".join(said)


def headline(found: Diagnosis) -> str:
    """The diagnosis in one sentence, for people."""
    looked = checked(found)
    if found.healthy and found.blind:
        return f"{found.stack}: what can be seen is healthy; {found.blind} cannot be seen (listed below); {looked}"
    if found.healthy:
        return f"{found.stack} is healthy; {looked}"
    if found.broken_path and not found.matches:
        return f"{found.stack}: no failure was recognised, but the data path is not confirmed to work; {looked}"
    if not (found.seen or found.probes):
        return f"{found.stack}: nothing of it can be seen, so its health is unknown; {looked}"
    if not found.matches:
        return f"{found.stack}: no failure was recognised, and not everything could be confirmed to work; {looked}"
    return f"{found.stack}: {count(len(found.matches), 'failure')} recognised; {looked}"


def evidence_of(suspect: Suspect) -> Iterator[str]:
    """What speaks for a failure, for people."""
    return _sightings(one for one in suspect.sightings if one.presence is Presence.PRESENT and not one.precondition)


def unconfirmed(suspect: Suspect) -> Iterator[str]:
    """What does not speak for a failure, for people."""
    return _sightings(one for one in suspect.sightings if one.presence is not Presence.PRESENT)


def _match(number: int, suspect: Suspect) -> Iterator[str]:
    yield f"\n{number}. {clean(suspect.title)}  ({percent(suspect.share)} of its symptoms, weighed)"
    yield from _sightings(one for one in suspect.sightings if not one.precondition)
    within = f"; promised within {span(suspect.rto)}" if suspect.rto else ""
    yield f"   recover with: k2run recover {suspect.runbook}{within}"


def _sightings(sightings: Iterable[Sighting]) -> Iterator[str]:
    for one in sightings:
        if one.presence is not Presence.NOT_APPLICABLE:
            asked = f"  [{clean(one.expected)}]" if one.expected else ""
            yield f"   {MARKS[one.presence]} {clean(one.symptom)}: {clean(one.evidence)}{asked}"


def _ruled_out(found: Diagnosis) -> Iterator[str]:
    out = found.having(Verdict.RULED_OUT)
    if out:
        yield "\nruled out: " + ", ".join(suspect.runbook for suspect in out)
    absent = found.having(Verdict.NOT_APPLICABLE)
    if absent:
        yield "not on this stack: " + ", ".join(suspect.runbook for suspect in absent)
    if found.foreign:
        yield f"for other platforms: {found.foreign} recover{'y' if found.foreign == 1 else 'ies'}"
