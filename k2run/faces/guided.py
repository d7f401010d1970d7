"""Guided mode: one step on the screen, what it will do, what is expected, how much time is left; a key decides."""

from __future__ import annotations

import getpass
import select
import sys
import time
from typing import TYPE_CHECKING, TextIO

from msgspec.structs import replace

from k2run.engine.events import ClockStopped, Noted, RunFinished, StepFinished, StepStarted, UndoFinished
from k2run.engine.guide import Decision, Guide, Move, Planned
from k2run.engine.outline import STEADY_AFTER
from k2run.evidence.view import RunView
from k2run.evidence.wording import MARKS, clean, span, standing, standing_of, timed
from k2run.faces.terminal.closing import closing
from k2run.faces.terminal.face import Face
from k2run.faces.terminal.lines import text_of

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from k2run.engine.events import AnyEvent, Outcome

WIDTH = 100
POLL_S = 0.2
LABEL = 10
_CLEAR = "\x1b[2J\x1b[H"
_AGAIN = "\x1b7\x1b[1A\r\x1b[2K{line}\x1b8"
_KEYS = {"": Move.NEXT, "s": Move.SKIP, "r": Move.REDO, "a": Move.ABORT}


class GuidedFace(Face):
    """Shows a run that is led step by step: how the last step ended, then the next one.

    Args:
        writes: The terminal.
        opening: Stands above the first step: why this run is made.
    """

    def __init__(self, writes: TextIO, opening: Sequence[str] = ()) -> None:
        super().__init__()
        self.view = RunView()
        self.last = list(opening)
        self._writes = writes

    def remember(self, event: AnyEvent) -> None:
        """Fold the event into the view."""
        self.view.fold(event)

    def show(self, event: AnyEvent) -> None:
        """Say what has happened; it stands above the next step too."""
        self.view.fold(event)
        lines = list(_told(event))
        if isinstance(event, RunFinished):
            lines = [text_of(line) for line in closing(self.view, WIDTH)]
        if lines:
            self.last = [*(self.last if not isinstance(event, StepFinished) else []), *lines][-4:]
            self.say("\n".join(lines) + "\n")

    def say(self, text: str) -> None:
        """Write, as it is."""
        self._writes.write(text)
        self._writes.flush()

    @property
    def on_terminal(self) -> bool:
        """Whether the cursor can be moved."""
        return self._writes.isatty()

    def turn_page(self) -> None:
        """Begin a new screen, with what was said last at its top."""
        if self.on_terminal:
            self.say(_CLEAR + "".join(f"{line}\n" for line in self.last))


class TerminalGuide(Guide):
    """The person who leads the run, at the terminal.

    Args:
        face: Shows what happens between the questions.
        reads: Where the keys come from.
    """

    def __init__(self, face: GuidedFace, reads: TextIO | None = None) -> None:
        self._face = face
        self._reads = reads or sys.stdin
        self._shown = 0

    def before(self, planned: Planned, stop: threading.Event) -> Decision:
        """Show the step and ask; a manual step asks by itself, and what only proves the recovery is not asked about."""
        if planned.path.startswith(STEADY_AFTER):
            return Decision()
        self._shown += 1
        self._face.turn_page()
        self._face.say("\n".join(self._page(planned)) + "\n")
        if planned.action.startswith("manual."):
            return Decision()
        offer = [
            "Enter does it",
            "s skip",
            *(["r redo the last"] if planned.can_redo else []),
            "n TEXT note",
            "a abort",
        ]
        return self._ask(planned, offer, stop)

    def after(self, planned: Planned, outcome: Outcome, stop: threading.Event) -> Decision:
        """Ask what to do about a step that did not pass."""
        self._face.say(f"\n   {planned.name}: {standing(outcome)}\n")
        return self._ask(planned, ["Enter goes on", "r redo", "n TEXT note", "a abort"], stop)

    def _page(self, planned: Planned) -> Iterator[str]:
        """The step on one screen."""
        started = self._face.view.started
        title = clean(started.title) if started is not None else ""
        on = f" on {started.stack}" if started is not None else ""
        yield f"\n── {title}{on} ".ljust(WIDTH, "─")
        yield f"   step {self._shown}: {clean(planned.name)}\n"
        yield _row("does", f"{planned.action}: {clean(planned.says)}" if planned.says else planned.action)
        for name, value in planned.args.items():
            yield _row("", f"{name}: {clean(str(value))}")
        if planned.effect != "observes":
            yield _row("effect", f"it {planned.effect} the stack")
        if planned.expected:
            yield _row("expected", clean(planned.expected))
        if planned.within:
            yield _row("within", span(planned.within))
        if planned.hint:
            yield _row("if not", clean(planned.hint))

    def _ask(self, planned: Planned, offer: list[str], stop: threading.Event) -> Decision:
        """A key, after as many notes as somebody likes."""
        notes: list[str] = []
        began = time.monotonic()
        moves = {key: move for key, move in _KEYS.items() if not key or any(each.startswith(key) for each in offer)}
        self._face.say(f"\n   {' · '.join(offer)}\n")
        while True:
            typed = self._typed(planned, began, stop)
            if typed is None:
                return Decision(move=Move.ABORT, by=getpass.getuser(), notes=tuple(notes))
            key, _, note = typed.partition(" ")
            if key == "n" and note:
                notes.append(note.strip())
                self._face.say("   noted\n")
            elif key in moves and not note:
                return Decision(move=moves[key], by=getpass.getuser(), notes=tuple(notes))
            else:
                self._face.say("   one of these keys, please; a note is `n` and its text\n")

    def _typed(self, planned: Planned, began: float, stop: threading.Event) -> str | None:
        """A line from the keyboard, the clock going on above it; None when nobody types any more, or the run ends."""
        if self._face.view.clocks:  # the recovery is over: its clock has stopped
            planned = replace(planned, rto=None)
        shown = _clock(planned, time.monotonic() - began)
        self._face.say(f"{shown}\n   > ")
        while not select.select([self._reads], [], [], POLL_S)[0]:
            if stop.is_set():
                return None
            line = _clock(planned, time.monotonic() - began)
            if line != shown and self._face.on_terminal:
                shown = line
                self._face.say(_AGAIN.format(line=line))
        typed = self._reads.readline()
        return typed.strip() if typed else None


def _clock(planned: Planned, waited: float) -> str:
    spent = planned.elapsed + waited
    if planned.rto is None:
        return f"   elapsed {span(round(spent))}"
    left = planned.rto - spent
    rest = f"{span(round(left))} left" if left > 0 else f"{span(round(-left))} over"
    return f"   elapsed {span(round(spent))} of {span(planned.rto)}, {rest}"


def _row(label: str, text: str) -> str:
    return f"   {label.ljust(LABEL)}{text}"


def _told(event: AnyEvent) -> Iterator[str]:
    """What an event is worth in guided mode."""
    match event:
        case StepStarted() if event.action != "block":
            yield f"   … {clean(event.name)}"
        case StepFinished() if event.action != "block":
            stands = standing_of(event)
            found = clean(event.headline or event.message)
            yield f"   {MARKS[stands]} {stands}  {clean(event.name)}  {span(event.seconds)}  {found}"
            if event.hint:
                yield f"     hint: {clean(event.hint)}"
        case UndoFinished():
            yield f"   ↺ {standing(event.outcome)}  {clean(event.says)}"
        case ClockStopped():
            why = f": {event.message}" if event.message else ""
            yield f"   {event.clock} {timed(event.seconds, event.error)}{why}"
        case Noted():
            yield f"   note  {clean(event.message)}"
        case _:
            return
