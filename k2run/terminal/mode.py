"""What shows a run on a stream: one line per finished step, JSON lines for programs, or the live display."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, TextIO

import msgspec

from k2run.engine.events import (
    ClockStopped,
    FaultStruck,
    Noted,
    Outcome,
    RunFinished,
    RunResumed,
    RunStarted,
    SectionFinished,
    SectionStarted,
    StackChanged,
    StepFinished,
    StepStarted,
    StepTried,
    UndoFinished,
    UndoPlanned,
)
from k2run.evidence.view import RunView
from k2run.evidence.wording import (
    NOT_DONE,
    Standing,
    against,
    clean,
    count,
    counted,
    moment,
    span,
    standing,
    standing_of,
    timed,
)
from k2run.language.quantities import encode_quantity
from k2run.terminal.face import Face, ThreadedFace
from k2run.terminal.lines import left, right, text_of
from k2run.terminal.safe_stream import SafeStream
from k2run.terminal.transcript import closing

if TYPE_CHECKING:
    from k2run.engine.events import AnyEvent

WIDTH = 120
WORD = 11
NAME = 40
TIME = 13
LABEL = 8
PERIOD = 0.2
"""Seconds between two looks at what has happened."""
HEARTBEAT = 15.0
"""Seconds after which a step that is still retrying says so, to show that it is not hung."""

_TROUBLE = {Standing.FAILED, Standing.UNKNOWN, Standing.WARNING, Standing.IGNORED, Standing.INTERRUPTED}


class PlainFace(ThreadedFace):
    """For people who read a log."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(PERIOD)
        self._outlet = SafeStream(stream)
        self._view = RunView()
        self._said: dict[str, float] = {}

    def remember(self, event: AnyEvent) -> None:
        """Fold the event into the view that the closing lines are made from."""
        self._view.fold(event)

    def draw(self) -> None:
        """Write the lines for the new events."""
        lines = []
        for event in self.take():
            self._view.fold(event)
            lines += self._lines(event)
        self._outlet.write(*lines)

    def _lines(self, event: AnyEvent) -> list[str]:  # noqa: PLR0911 - one case per kind of event
        match event:
            case StepStarted():
                return []
            case StepFinished():
                return self._step(event)
            case RunStarted():
                return self._opening(event)
            case RunResumed():
                opening = self._opening(self._view.started) if self._view.started is not None else []
                return [*opening, _line(event.at, "resumed", f"{count(event.finished_steps, 'step')} done before")]
            case SectionStarted() if self._view.sections[event.section].finished is None:
                budget = f", within {span(event.within)}" if event.within else ""
                return [_line(event.at, "section", clean(event.name) + budget)]
            case SectionFinished():
                return self._foot(event)
            case StepTried():
                return self._heartbeat(event)
            case RunFinished():
                return [text_of(line) for line in closing(self._view, WIDTH)]
            case _:
                return _remark(event)

    def _opening(self, event: RunStarted) -> list[str]:
        facts = [
            event.kind,
            clean(event.name),
            f"run {event.run}",
            moment(event.at),
            *([clean(event.owner)] if event.owner else []),
        ]
        budget = f", within {span(event.within)}" if event.within else ""
        return [f"{clean(event.title or event.name)}, on {event.stack}{budget}", "; ".join(facts)]

    def _step(self, event: StepFinished) -> list[str]:
        stands = standing_of(event)
        time = "" if stands in NOT_DONE else against(event.seconds, event.within, event.objective)
        measured = clean(event.headline)
        why = _why(event) if stands in _TROUBLE else []
        if not measured and not why:
            measured = clean(event.message)
        expected = f"[{clean(event.expected)}]" if event.expected else ""
        step = self._view.step(event.step)
        name = left(clean(step.name if step is not None else event.name), NAME)
        return [
            _line(event.at, stands, "  ".join(part for part in (right(time, TIME), name, measured, expected) if part)),
            *why,
        ]

    def _foot(self, event: SectionFinished) -> list[str]:
        section = self._view.sections[event.section]
        if section.finished is not event:
            return []
        shown = counted([step.standing for step in section.leaves()]) or standing(event.outcome)
        late = ", over its budget" if event.within is not None and event.seconds > event.within else ""
        time = against(event.seconds, event.within, event.objective)
        return [_line(event.at, "", f"{clean(event.name)}: {shown}, {time}{late}")]

    def _heartbeat(self, event: StepTried) -> list[str]:
        """A sign of life from a retrying step, now and then."""
        step = self._view.step(event.step)
        began = step.began if step is not None else None
        if step is None or began is None or event.t - self._said.get(event.step, began) < HEARTBEAT:
            return []
        self._said[event.step] = event.t
        found = clean(event.headline or event.message)
        return [
            _line(event.at, "trying", f"{right(span(event.t - began), TIME)}  {left(clean(step.name), NAME)}  {found}")
        ]


def _remark(event: AnyEvent) -> list[str]:  # noqa: PLR0911 - one case per kind of event
    """Lines for events that concern more than one step."""
    match event:
        case StackChanged():
            services = f" {', '.join(event.services)}" if event.services else ""
            return [_line(event.at, "stack", f"{event.verb}{services} in {span(event.seconds)}")]
        case UndoPlanned():
            return [_line(event.at, "undo ready", clean(event.says))]
        case FaultStruck():
            return [_line(event.at, "fault", clean(event.name))]
        case UndoFinished():
            done = event.outcome is Outcome.PASSED
            by = "" if event.by == "engine" else f" ({event.by})"
            return [
                _line(event.at, "undone" if done else "UNDO FAILED", clean(event.says) + by),
                *_detail("cause", event.message),
            ]
        case ClockStopped():
            bound = f", {against(event.seconds, event.within, event.objective)}" if event.within else ""
            return [
                _line(event.at, event.clock, timed(event.seconds, event.error) + bound),
                *_detail("cause", event.message),
            ]
        case Noted():
            return [
                _line(event.at, "note" if event.level == "info" else event.level, clean(event.message)),
                *_detail("hint", event.hint),
            ]
        case _:
            return []


def _line(at: str, word: str, rest: str) -> str:
    return f"{at[11:19]} {left(word, WORD)} {rest}".rstrip()


def _why(event: StepFinished) -> list[str]:
    recovery = f"k2run run {event.recovery}" if event.recovery else ""
    return [*_detail("cause", event.message), *_detail("hint", event.hint), *_detail("recover", recovery)]


def _detail(label: str, text: str) -> list[str]:
    """A labelled remark; never wrapped, so that a search finds it whole."""
    return [f"{' ' * (9 + WORD)} {left(label, LABEL)}  {clean(text)}"] if text else []


Mode = Literal["auto", "live", "plain", "json"]


def open_face(mode: Mode, stream: TextIO) -> Face:
    """The face for a stream.

    Args:
        mode: `auto` is live on a terminal that can move its cursor, and plain everywhere else.
        stream: Where it writes.
    """
    if mode == "json":
        return JsonFace(stream)
    if mode == "live" or (mode == "auto" and _can_redraw(stream)):
        from k2run.terminal.live import LiveFace

        return LiveFace(stream)
    return PlainFace(stream)


def _can_redraw(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}


class JsonFace(Face):
    """For programs."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._outlet = SafeStream(stream)
        self._encoder = msgspec.json.Encoder(enc_hook=encode_quantity)

    def show(self, event: AnyEvent) -> None:
        """Write the event."""
        self._outlet.write(self._encoder.encode(event).decode())

    def remember(self, event: AnyEvent) -> None:
        """Nothing: each line stands for itself."""
