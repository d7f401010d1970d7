"""The account of a recovery: what each try came to and whether another is worth it; the timeline for the postmortem."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.engine.events import (
    Answered,
    ClockStopped,
    FaultStruck,
    Noted,
    Objected,
    RunFinished,
    RunResumed,
    RunStarted,
    SectionStarted,
    StackChanged,
    StepFinished,
    UndoFinished,
)
from k2run.engine.journal import read_journal
from k2run.evidence.report_markdown import text
from k2run.evidence.wording import MARKS, moment, span, standing, standing_of, timed
from k2run.recovery.symptoms import Presence

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from k2run.engine.events import AnyEvent
    from k2run.recovery.diagnosis import Diagnosis, Suspect, Why

PAUSES_S = (2.0, 5.0, 10.0, 20.0)
"""Seconds before the second try, the third, and so on: a cause that lasts is given time to end."""
PATIENCE_S = 60.0
"""Seconds for which a recovery without a recovery time objective is tried."""
REPAIRED = "repaired"
"""The clock of a repair that is proven by its own symptoms; `rto` is the one of the whole steady state."""


class Help(StrEnum):
    """What a recovery did for the stack."""

    RECOVERED = "recovered"
    GONE = "changed nothing; its failure is gone"
    UNCONFIRMED = "was not started: its symptoms were not confirmed"
    BACK = "recovered, and its failure is back"
    BETTER = "made it better"
    NOTHING = "changed nothing"
    NONE = "did not help"


class Try(Struct, kw_only=True):
    """One run of a recovery.

    Attributes:
        problems: How much was wrong with the stack before it.
        passed: Whether the run passed.
        changed: Whether a step of it may have changed the stack.
        started: Whether it ran: its symptoms were still there at that moment.
        ended: When, in seconds of the monotonic clock.
        help: What it did; None until the stack was diagnosed after it.
    """

    runbook: str
    problems: int
    passed: bool = False
    changed: bool = False
    started: bool = True
    ended: float = 0.0
    help: Help | None = None

    def judge(self, after: Diagnosis) -> None:
        """Say what it did, from the diagnosis that follows it."""
        still = self.runbook in {suspect.runbook for suspect in after.matches}
        if not self.started:
            self.help = Help.UNCONFIRMED
        elif self.passed and not self.changed:
            self.help = Help.NOTHING if still else Help.GONE
        elif self.passed:
            self.help = Help.BACK if still else Help.RECOVERED
        elif not still or problems_of(after) < self.problems:
            self.help = Help.BETTER
        else:
            self.help = Help.NONE if self.changed else Help.NOTHING


def problems_of(found: Diagnosis) -> int:
    """How much is wrong with a stack."""
    return len(found.matches) + len(found.ailing)


class Tries:
    """The recoveries of one stack so far."""

    def __init__(self) -> None:
        self._all: list[Try] = []

    def begin(self, runbook: str, before: Diagnosis) -> None:
        """A recovery is about to run."""
        self._all.append(Try(runbook=runbook, problems=problems_of(before)))

    def end(self, now: float, *, passed: bool, changed: bool) -> None:
        """The recovery that was begun last has run."""
        last = self._all[-1]
        last.ended, last.passed, last.changed = now, passed, changed

    def leave(self, now: float) -> None:
        """The recovery that was begun last was not started."""
        self.end(now, passed=False, changed=False)
        self._all[-1].started = False

    def judge(self, after: Diagnosis) -> None:
        """The stack was diagnosed: what the recoveries before it did can be said."""
        for one in self._all:
            if one.help is None:
                one.judge(after)

    @property
    def names(self) -> list[str]:
        """The recoveries, each once, in the order of their first try."""
        return list(dict.fromkeys(one.runbook for one in self._all))

    def pause(self, suspect: Suspect, known: float, now: float) -> float | None:
        """Seconds until a recovery is worth another try; None when its objective would be over by then.

        Args:
            suspect: The failure, still recognised after its recovery.
            known: When it was recognised first.
            now: The time, as `known` is read.
        """
        mine = [one for one in self._all if one.runbook == suspect.runbook]
        pause = PAUSES_S[min(len(mine), len(PAUSES_S)) - 1]
        wait = max(0.0, mine[-1].ended + pause - now)
        return wait if now + wait < known + (suspect.rto or PATIENCE_S) else None

    def lines(self) -> Iterator[str]:
        """What each recovery did, for people."""
        for name in self.names:
            mine = [one for one in self._all if one.runbook == name]
            times = f" (tried {len(mine)} times)" if len(mine) > 1 else ""
            said = mine[-1].help
            yield f"  {name}: {said.value if said is not None else 'interrupted'}{times}"


TIMELINE = "timeline.md"
_PROVEN = {
    "rto": "The data path works",
    REPAIRED: "Repaired (its own symptoms are gone, the whole steady state is proven with another failure's)",
    "detect": "Detected",
}


def write_timeline(folder: Path, suspect: Suspect | None = None, causes: Sequence[Why] = ()) -> Path:
    """Write the timeline of a recovery beside its journal; returns its file."""
    path = folder / TIMELINE
    path.write_text(timeline(read_journal(folder), suspect, causes), encoding="utf-8")
    return path


def timeline(events: Sequence[AnyEvent], suspect: Suspect | None = None, causes: Sequence[Why] = ()) -> str:
    """Markdown: what was seen, what was done and by whom, when, and what is still to be written by a person."""
    lines = [
        *_head(events),
        *(_evidence(suspect) if suspect is not None else ()),
        *_whys(causes),
        "## Timeline",
        "",
        "| time (UTC) | elapsed | what | line |",
        "| --- | ---: | --- | ---: |",
        *(_row(event, what) for event in events for what in _told(event)),
        "",
        "The last column is the line of journal.jsonl.",
        "",
        "## For a person to write",
        "",
        "- Impact: who saw what, from when to when",
        "- Cause",
        "- What went well, what did not",
        "- What is changed so that it does not happen again, by whom, until when",
        "",
    ]
    return "\n".join(lines)


def _head(events: Sequence[AnyEvent]) -> Iterator[str]:
    for event in events:
        match event:
            case RunStarted():
                by = f", by {text(event.by)}" if event.by else ""
                how = "with an operator" if event.attended else "unattended"
                yield f"# {text(event.title)}"
                yield ""
                yield f"- Recovery of `{event.stack}`, run `{event.run}`{by} ({how})"
                yield f"- Begun: {moment(event.at)}"
            case ClockStopped():
                bound = f", objective {span(event.within)}: {event.objective}" if event.within else ""
                yield f"- {_proven(event)} after {timed(event.seconds, event.error)}{bound}"
            case RunFinished():
                yield f"- Ended: {moment(event.at)}, {text(event.verdict)}"
                yield ""


def _evidence(suspect: Suspect) -> Iterator[str]:
    yield "## What was seen"
    yield ""
    for one in suspect.sightings:
        if one.presence is not Presence.NOT_APPLICABLE:
            yield f"- {one.presence}: {text(one.symptom)}: {text(one.evidence)}"
    yield ""


def _whys(causes: Sequence[Why]) -> Iterator[str]:
    if causes:
        yield "## Why, as far as it is written"
        yield ""
        for why in causes:
            yield f"- {text(why.service)}: {why.kind}: {text(why.says)} ({text(why.source)})"
        yield ""


def _row(event: AnyEvent, what: str) -> str:
    return f"| {event.at[11:19]} | {span(event.t)} | {what} | #{event.seq} |"


def _proven(event: ClockStopped) -> str:
    """What held when a clock stopped."""
    if event.message:
        return "Not recovered"
    return _PROVEN.get(event.clock, f"The clock {event.clock!r} stopped")


def _told(event: AnyEvent) -> Iterator[str]:  # noqa: C901, PLR0912 - one case per kind of event
    match event:
        case RunStarted():
            yield "begun"
        case RunResumed():
            yield "resumed"
        case SectionStarted():
            yield f"**{text(event.name)}**"
        case StepFinished() if event.action != "block":
            stands = standing_of(event)
            found = text(event.headline or event.message)
            yield f"{MARKS[stands]} {text(event.name)} ({stands}, {span(event.seconds)}) {found}".rstrip()
        case Answered():
            yield f"{text(event.by or 'no operator (the default)')} answered: {text(event.answer)}"
        case Noted():
            yield f"note: {text(event.message)}" + (f" ({text(event.hint)})" if event.hint else "")
        case FaultStruck():
            yield f"fault: {text(event.name)}"
        case UndoFinished():
            yield f"undo, {standing(event.outcome)}: {text(event.says)}"
        case StackChanged():
            yield f"{event.verb} {', '.join(event.services)}"
        case ClockStopped():
            read = f"{event.clock} {timed(event.seconds, event.error)}"
            yield f"**{_proven(event)}: {read}** {text(event.message)}".rstrip()
        case Objected():
            yield f"objective {text(event.objective)}: {text(event.value)}, {event.bound}"
        case RunFinished():
            yield f"**{text(event.verdict)}**"
        case _:
            return
