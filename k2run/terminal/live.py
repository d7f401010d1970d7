"""The live display: finished steps scroll by, what is in progress is below; and its recording, as SVG or asciicast."""

from __future__ import annotations

import io
import json
import re
import termios
import time
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.text import Text

from k2run.engine.events import FaultStruck, StepFinished, UndoFinished
from k2run.evidence.wording import Standing, clean, counted, span
from k2run.terminal.face import ThreadedFace
from k2run.terminal.lines import EMPTY, FILLED, UNFILLED, Line, Part, Tone, cells, cut, left, right
from k2run.terminal.transcript import FAULT_MARK, MARGIN, TIME_WIDTH, UNDO_MARK, Transcript, fill

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from rich.live import Live

    from k2run.engine.events import AnyEvent
    from k2run.evidence.step_view import SectionView, StepView
    from k2run.evidence.view import RunView

_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"

# The sixteen colours of the terminal's own theme: readable on light and dark grounds alike.
STYLES: dict[Tone, str] = {
    Tone.PLAIN: "",
    Tone.QUIET: "dim",
    Tone.STRONG: "bold",
    Tone.GOOD: "green",
    Tone.BAD: "bold red",
    Tone.WARN: "yellow",
    Tone.BADGE_GOOD: "bold reverse green",
    Tone.BADGE_BAD: "bold reverse red",
    Tone.BADGE_WARN: "bold reverse yellow",
}
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SHOWN = 8
"""Running steps shown at once; a parallel section may have hundreds."""
BAR = 16
CLOSE = 0.8
"""Share of a budget after which its clock is highlighted."""
_LOCAL_MODES = 3
"""Place of the local modes among what `termios.tcgetattr` returns."""
PERIOD = 0.125
"""Seconds between two drawings."""


def dressed(lines: Iterable[Line]) -> Text:
    """The lines as one text with styles; nothing in them is read as markup."""
    return Text("\n", no_wrap=True, overflow="crop", end="").join(
        Text.assemble(*((part.text, STYLES[part.tone]) for part in line)) for line in lines
    )


def console_on(stream: TextIO) -> Console:
    """A console that leaves text alone; it respects NO_COLOR."""
    return Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=False)


def running(story: Transcript, now: float, frame: int) -> list[Line]:
    """The lines for this moment.

    Args:
        story: The run so far.
        now: Seconds since the run started.
        frame: Number of the drawing; turns the spinners.
    """
    view = story.view
    if view.started is None or view.finished is not None:
        return []
    spinner = SPINNER[frame % len(SPINNER)]
    steps = view.running()
    lines = [_step(story, step, now, spinner) for step in steps[:SHOWN]]
    if len(steps) > SHOWN:
        lines.append((Part(f"  and {len(steps) - SHOWN} more at the same time", Tone.QUIET),))
    lines += [_line(story, spinner, Tone.PLAIN, f"undoing: {undo}") for undo in _undoing(view)]
    section, following = view.current(), view.following()
    if not lines:
        lines.append(_line(story, spinner, Tone.PLAIN, "" if section else _between(view)))
    if following is not None:
        lines.append(_line(story, "·", Tone.QUIET, f"next: {clean(following.name)}"))
    return [*lines, EMPTY, *_faults(story, now), _progress(story, section, now)]


def _between(view: RunView) -> str:
    """What the engine does when no section runs."""
    if any(section.started for section in view.sections.values()):
        return "finishing"
    return f"bringing up {view.started.stack}" if view.started is not None and not view.stack_changes else "starting"


def _undoing(view: RunView) -> list[str]:
    return [clean(undo.planned.says) for undo in view.undos.values() if undo.started and not undo.finished]


def _step(story: Transcript, step: StepView, now: float, spinner: str) -> Line:
    """A running step: its last measured value, and its elapsed time against its objective or limit."""
    spent = max(0.0, now - (step.began or 0.0))
    started, tried = step.started, step.tried
    limit = started.within or started.timeout if started is not None else None
    time, tone = _clock(spent, started.within if started is not None else None)
    room = story.width - story.name_width - TIME_WIDTH - 2 * MARGIN - 2
    if step.asked is not None and step.answered is None:
        cell = [Part("waiting for an operator", Tone.WARN)]
    elif tried is not None:
        cell = [Part(clean(tried.headline or tried.message)), Part(f"  try {tried.attempt + 1}", Tone.QUIET)]
    elif limit is not None and started is not None and started.within is None and spent > limit / 2:
        cell = [Part(f"gives up after {span(limit)}", Tone.QUIET)]
    else:
        cell = []
    return (
        Part("  " * (1 + step.depth)),
        Part(spinner, Tone.STRONG),
        Part(" "),
        Part(left(clean(step.name), story.name_width - 2 * step.depth), Tone.STRONG),
        Part("  "),
        *fill(cell, room),
        Part(right(time, TIME_WIDTH), tone),
    )


def _clock(spent: float, budget: float | None) -> tuple[str, Tone]:
    """Elapsed time against a budget; highlighted when the budget is nearly used up, and marked when it is."""
    shown = f"{spent:.1f}s" if spent < 60 else span(spent)  # noqa: PLR2004 - steady tenths up to a minute
    if not budget:
        return shown, Tone.QUIET
    if spent > budget:
        return f"{shown} > {span(budget)}", Tone.BAD
    return f"{shown} of {span(budget)}", Tone.WARN if spent > CLOSE * budget else Tone.QUIET


def _line(story: Transcript, mark: str, tone: Tone, text: str) -> Line:
    return (Part("  "), Part(mark, tone), Part(" "), Part(cut(text, story.width - 2 * MARGIN), tone))


def _faults(story: Transcript, now: float) -> list[Line]:
    """The faults in place at this moment, and for how long."""
    pending = [clean(undo.planned.says) for undo in story.view.pending_undos()]
    lines: list[Line] = []
    if pending:
        text = cut(f"fault in place, will be undone: {', '.join(pending)}", story.width - 2 * MARGIN)
        lines.append((Part("  "), Part(FAULT_MARK, Tone.WARN), Part(f" {text}")))
    since = story.view.recovering_since()
    if since is not None:
        rto = story.view.started.rto if story.view.started is not None else None
        time, tone = _clock(max(0.0, now - since), rto)
        lines.append((Part("  "), Part(UNDO_MARK, tone), Part(" since the fault "), Part(time, tone)))
    return lines


def _progress(story: Transcript, section: SectionView | None, now: float) -> Line:
    """Progress of the run, what has gone wrong so far, and both clocks."""
    view = story.view
    standings = view.standings()
    done, total = view.progress()
    filled = BAR * done // total if total else 0
    trouble = counted(
        [each for each in standings.elements() if each in {Standing.FAILED, Standing.UNKNOWN, Standing.WARNING}]
    )
    clocks: list[Part] = []
    if section is not None and section.started is not None and section.within:
        time, tone = _clock(now - section.started.t, section.within)
        clocks = [Part("section ", Tone.QUIET), Part(time, tone), Part("  ")]
    time, tone = _clock(now, view.started.within if view.started is not None else None)
    clocks += [Part("run ", Tone.QUIET), Part(time, tone)]
    start = [
        Part("  "),
        Part(FILLED * filled, Tone.GOOD),
        Part(UNFILLED * (BAR - filled), Tone.QUIET),
        Part(f" {done} of {total}"),
        Part(f"  {trouble}" if trouble else "", Tone.BAD if standings[Standing.FAILED] else Tone.WARN),
    ]
    room = story.width - sum(cells(part.text) for part in clocks) - 1
    return (*fill(start, room), Part(" "), *clocks)


class QuietKeys:
    """Keeps a terminal from echoing control keys.

    Args:
        stream: The terminal; on anything else, nothing is done.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._echoed = False

    def begin(self) -> None:
        """Stop the echo."""
        self._echoed = self._set(echo=False)

    def end(self) -> None:
        """Restore it, if it was on before."""
        if self._echoed:
            self._set(echo=True)
            self._echoed = False

    def _set(self, *, echo: bool) -> bool:
        """Change the echo; returns how it was."""
        try:
            number = self._stream.fileno()
            modes = termios.tcgetattr(number)
            before = bool(modes[_LOCAL_MODES] & termios.ECHOCTL)
            modes[_LOCAL_MODES] = (
                modes[_LOCAL_MODES] | termios.ECHOCTL if echo else modes[_LOCAL_MODES] & ~termios.ECHOCTL
            )
            termios.tcsetattr(number, termios.TCSANOW, modes)
        except (OSError, ValueError, termios.error):
            return False
        return before


class LiveFace(ThreadedFace):
    """For people who watch a run on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(PERIOD)
        self._stream = stream
        self._earlier: list[AnyEvent] = []
        self._seen = (0.0, time.monotonic())
        self._story: Transcript | None = None
        self._live: Live | None = None
        self._frame = 0
        self._gone = False
        self._quiet = QuietKeys(stream)

    def remember(self, event: AnyEvent) -> None:
        """Keep the event for the story's view."""
        self._earlier.append(event)

    def show(self, event: AnyEvent) -> None:
        """Put the event into the queue of what is to be drawn."""
        self._seen = (event.t, time.monotonic())
        super().show(event)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Clear the moving part; what has happened so far is shown first."""
        with super().paused():
            if self._live is not None:
                self._live.stop()
                self._live = None
                self._quiet.end()
            yield

    def draw(self) -> None:
        """Write what is new, then draw the moving part; nothing more once the terminal is gone."""
        if self._gone:
            return
        try:
            self._draw_on(self._live or self._open())
        except (OSError, ValueError):
            self._gone = True

    def _open(self) -> Live:
        from rich.live import Live

        console = console_on(self._stream)
        self._live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._live.start()
        self._quiet.begin()
        return self._live

    def _draw_on(self, live: Live) -> None:
        story = self._fit(live.console)
        told = [line for event in self.take() for line in story.tell(event)]
        if told:
            live.console.print(dressed(told), no_wrap=True, crop=True)
        self._frame += 1
        at, since = self._seen
        live.update(dressed(running(story, at + time.monotonic() - since, self._frame)), refresh=True)

    def _fit(self, console: Console) -> Transcript:
        """The lines for a terminal as wide as it is now."""
        if self._story is None:
            self._story = Transcript(console.width)
            self._story.recall(self._earlier)
        self._story.width = max(self._story.narrowest, console.width)
        return self._story


def picture(events: Iterable[AnyEvent], width: int = 100, *, title: str = "", unfolded: Collection[str] = ()) -> str:
    """Draw the run.

    Args:
        events: The run's journal.
        width: Columns of the terminal.
        title: In the window's title bar; the command that started the run, when empty.
        unfolded: Names of the sections whose steps are shown; of the others one line is. When empty, all are.

    Returns:
        A self-contained SVG document.
    """
    story = Transcript(width)
    lines = list(_told(story, events, unfolded))
    started = story.view.started
    shown = title or (f"invoke run {started.runbook}" if started is not None else "k2run")
    console = Console(
        file=io.StringIO(),
        record=True,
        width=story.width,
        force_terminal=True,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(dressed(lines), no_wrap=True, crop=True)
    drawn = console.export_svg(title=shown, unique_id="k2run")
    return _FONT_FACE.sub("", drawn).replace("Fira Code, monospace", _FONTS)


def _told(story: Transcript, events: Iterable[AnyEvent], unfolded: Collection[str]) -> Iterator[Line]:
    """The lines of the story, without the steps of folded sections."""
    for event in events:
        lines = story.tell(event)
        section = story.view.sections.get(story.section)
        folded = bool(unfolded) and section is not None and section.name not in unfolded
        if not (folded and isinstance(event, StepFinished | FaultStruck | UndoFinished)):
            yield from lines


WIDTH, HEIGHT = 100, 40
LONGEST_PAUSE = 3.0
"""Seconds; the longest pause in playback."""


def cast(events: Iterable[AnyEvent], width: int = WIDTH) -> str:
    """The run as an asciicast: a header line, then one line per piece of output with its time.

    Args:
        events: The run's journal.
        width: Columns of the terminal.
    """
    story = Transcript(width)
    pieces = [(event, _output(story.tell(event), width)) for event in events]
    first = pieces[0][0] if pieces else None
    title = story.view.started.title if story.view.started is not None else "k2run"
    begun = int(datetime.fromisoformat(first.at).timestamp()) if first is not None and first.at else 0
    head = {
        "version": 2,
        "width": width,
        "height": HEIGHT,
        "timestamp": begun,
        "title": title,
        "idle_time_limit": LONGEST_PAUSE,
    }
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in (head, *_timed(pieces)))


def _timed(pieces: Iterable[tuple[AnyEvent, str]]) -> Iterator[tuple[float, str, str]]:
    for event, output in pieces:
        if output:
            yield round(event.t, 3), "o", output


def _output(lines: Iterable[Line], width: int) -> str:
    """What the terminal gets: text with the codes of its colours."""
    shown = list(lines)
    if not shown:
        return ""
    console = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system="standard", legacy_windows=False
    )
    with console.capture() as captured:
        console.print(dressed(shown), no_wrap=True, crop=True)
    return captured.get().replace("\n", "\r\n")
