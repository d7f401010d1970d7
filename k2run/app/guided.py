"""Guided mode: one step on the screen, what it will do, what is expected, how much time is left; a key decides."""

from __future__ import annotations

import errno
import re
import select
import sys
import threading
import time
from typing import TYPE_CHECKING, TextIO

from msgspec.structs import replace

from k2run.engine.events import ClockStopped, Noted, RunFinished, StepFinished, StepStarted, UndoFinished
from k2run.engine.outline import STEADY_AFTER
from k2run.engine.prompts import Decision, Guide, Move, Planned
from k2run.evidence.view import RunView
from k2run.evidence.wording import MARKS, clean, span, standing, standing_of, timed
from k2run.files import account_name
from k2run.recovery.account import REPAIRED
from k2run.terminal.face import Face, forget_what_was_typed
from k2run.terminal.lines import text_of
from k2run.terminal.transcript import closing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k2run.engine.events import AnyEvent, Outcome
    from k2run.recovery.repairs import Waiting

WIDTH = 100
POLL_S = 0.2
LABEL = 10
_CLEAR = "\x1b[2J\x1b[H"
_AGAIN = "\x1b7\x1b[1A\r\x1b[2K{line}\x1b8"
_KEYS = {"": Move.NEXT, "s": Move.SKIP, "r": Move.REDO, "a": Move.ABORT}
_MEANING = {
    "": "Enter  do the step that is shown; after one that did not pass: continue",
    "s": "s      leave the step out",
    "r": "r      do the last step again",
    "n": "n TEXT keep a note, at once",
    "a": "a      end the run",
}
_RECOVERED = {"rto": "recovered", REPAIRED: "repaired"}
_NO_TEXT = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|O.|.)?|[\x00-\x1f\x7f]")
"""What arrows, Escape and function keys send."""


class GuidedFace(Face):
    """Shows a guided run: how the last step ended, then the next one.

    Args:
        writes: The terminal.
        opening: Shown above the first step: the reason for this run.
        others: Failures to recover from after this one.

    Attributes:
        ending: Set when the run ends; it does not wait for the terminal any more.
    """

    def __init__(self, writes: TextIO, opening: Sequence[str] = (), others: Sequence[Waiting] = ()) -> None:
        super().__init__()
        self.view = RunView()
        self.last = list(opening)
        self.others = others
        self.ending = threading.Event()
        self._writes = writes

    def remember(self, event: AnyEvent) -> None:
        """Fold the event into the view."""
        self.view.fold(event)

    def show(self, event: AnyEvent) -> None:
        """Show what has happened; it stays above the next step."""
        self.view.fold(event)
        lines = list(_told(event))
        if isinstance(event, RunFinished):
            lines = [text_of(line) for line in closing(self.view, WIDTH)]
        if lines:
            self.last = [*(self.last if not isinstance(event, StepFinished) else []), *lines][-4:]
            self.say("\n".join(lines) + "\n")

    def say(self, text: str) -> None:
        """Write, as it is.

        Raises:
            OSError: The terminal is gone; or it is stopped (Ctrl-S) and the run has to end.
        """
        while self.on_terminal and not select.select([], [self._writes], [], POLL_S)[1]:
            if self.ending.is_set():
                raise OSError(errno.EAGAIN, "the terminal takes nothing")
        self._writes.write(text)
        self._writes.flush()

    @property
    def on_terminal(self) -> bool:
        """Whether the cursor can be moved."""
        return self._writes.isatty()

    def turn_page(self) -> None:
        """Begin a new screen, with the latest messages at its top."""
        if self.on_terminal:
            self.say(_CLEAR + "".join(f"{line}\n" for line in self.last))


class TerminalGuide(Guide):
    """The operator who guides the run from the terminal.

    Args:
        face: Shows what happens between the questions.
        reads: Where the keys come from.
    """

    def __init__(self, face: GuidedFace, reads: TextIO | None = None) -> None:
        self._face = face
        self._reads = reads or sys.stdin
        self._shown = 0
        self._noting = False

    def before(self, planned: Planned, stop: threading.Event) -> Decision:
        """Show the step and ask; manual steps ask themselves, and checks of the recovery run without a question."""
        self._face.ending = stop
        if planned.path.startswith(STEADY_AFTER):
            return Decision()
        if not self._noting:
            self._shown += 1
            self._face.turn_page()
            self._face.say("\n".join(self._page(planned)) + "\n")
        if planned.action.startswith("manual."):
            return Decision()
        redo = {"r": "r redo the last"} if planned.can_redo else {}
        return self._ask(planned, {"": "Enter run", "s": "s skip", **redo}, stop)

    def after(self, planned: Planned, outcome: Outcome, stop: threading.Event) -> Decision:
        """Ask what to do about a step that did not pass."""
        if not self._noting:
            self._face.say(f"\n   {clean(planned.name)}: {standing(outcome)}\n")
        return self._ask(planned, {"": "Enter continue", "r": "r redo"}, stop)

    def _page(self, planned: Planned) -> Iterator[str]:
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
        for other in self._face.others:
            yield _row("then", f"{clean(other.name)}, {_time_left(time.monotonic() - other.known, other.rto)}")

    def _ask(self, planned: Planned, keys: dict[str, str], stop: threading.Event) -> Decision:
        """Read a key that decides, or a note; once the terminal is gone, the run ends."""
        self._noting = False
        try:
            return self._heard(planned, {**keys, "n": "n TEXT note", "a": "a abort"}, stop)
        except (OSError, ValueError, EOFError):
            return Decision(move=Move.ABORT, by="the loss of its terminal")

    def _heard(self, planned: Planned, keys: dict[str, str], stop: threading.Event) -> Decision:
        """The key that was typed, asked for until it is one of those offered."""
        began, by = time.monotonic(), account_name()
        forget_what_was_typed(self._reads)
        offer = f"\n   {' · '.join([*keys.values(), '? help'])}\n   {self._end()}\n"
        self._face.say(offer)
        while True:
            typed = self._typed(planned, began, stop)
            if typed is None:
                return Decision(move=Move.ABORT, by=by)
            written = _NO_TEXT.sub("", typed).strip()
            key, _, note = written.partition(" ")
            if key == "n" and note:
                self._noting = True
                return Decision(move=Move.NOTE, by=by, notes=(note.strip(),))
            if key in keys and key != "n" and not note and (key or typed == written):
                return Decision(move=_KEYS[key], by=by)
            means = [f"   {_MEANING[key]}" for key in keys] if key == "?" else ["   press one of these keys:"]
            self._face.say("\n".join(means) + offer)

    def _end(self) -> str:
        """What ending the run now would do."""
        pending = self._face.view.pending_undos()
        if not pending:
            return "Ctrl-C or `a` ends here; completed steps are not undone"
        return (
            f"Ctrl-C or `a` undoes what this run broke, then ends: {'; '.join(clean(p.planned.says) for p in pending)}"
        )

    def _typed(self, planned: Planned, began: float, stop: threading.Event) -> str | None:
        """A line from the keyboard, the clock running above it; None when the run ends.

        Raises:
            EOFError: The input is closed.
        """
        if self._face.view.clocks:  # the recovery has ended: its clock has stopped
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
        if not typed:
            raise EOFError
        return typed.rstrip("\r\n")


def _clock(planned: Planned, waited: float) -> str:
    return f"   elapsed {_time_left(planned.elapsed + waited, planned.rto)}"


def _time_left(spent: float, promised: float | None) -> str:
    """Such as `26s of 1m 30s, 1m 4s left`."""
    if promised is None:
        return span(round(spent))
    left = promised - spent
    rest = f"{span(round(left))} left" if left > 0 else f"{span(round(-left))} over"
    return f"{span(round(spent))} of {span(promised)}, {rest}"


def _row(label: str, text: str) -> str:
    return f"   {label.ljust(LABEL)}{text}"


def _stopped(event: ClockStopped) -> str:
    """Such as `recovered in 26s of 1m 30s`."""
    if event.message:
        return f"not recovered after {span(event.seconds)}: {clean(event.message)}"
    if event.clock not in _RECOVERED:
        return f"{event.clock} {timed(event.seconds, event.error)}"
    of = "" if event.within is None else f" of {span(event.within)}"
    late = event.within is not None and event.seconds > event.within
    return f"{_RECOVERED[event.clock]} in {timed(event.seconds, event.error)}{of}" + (", too late" if late else "")


def _told(event: AnyEvent) -> Iterator[str]:
    """The lines for an event in guided mode."""
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
            yield f"   {_stopped(event)}"
        case Noted():
            yield f"   {'noted' if event.level == 'info' else event.level}  {clean(event.message)}"
        case _:
            return
