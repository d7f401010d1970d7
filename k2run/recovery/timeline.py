"""The timeline of a recovery for its postmortem, written from the journal alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from k2run.recovery.repairs import REPAIRED
from k2run.recovery.symptoms import Presence

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from k2run.engine.events import AnyEvent
    from k2run.recovery.diagnosis import Suspect, Why

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
    """Markdown: what was seen, what was done and by whom, when, and what is still to be written by a person.

    Args:
        events: The journal of the recovery.
        suspect: What the diagnosis said, when there was one.
        causes: Why services failed, as it is written in their logs, at their ports, on the disk.
    """
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
