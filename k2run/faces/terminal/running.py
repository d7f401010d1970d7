"""What is going on right now: the few lines at the foot of the terminal that the live display draws again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.evidence.wording import Standing, clean, counted, span
from k2run.faces.terminal.lines import EMPTY, FILLED, UNFILLED, Line, Part, Tone, cells, cut, left, right
from k2run.faces.terminal.story import FAULT_MARK, MARGIN, TIME_WIDTH, UNDO_MARK, fill

if TYPE_CHECKING:
    from k2run.evidence.view import RunView, SectionView, StepView
    from k2run.faces.terminal.story import Story

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SHOWN = 8
"""Running steps shown at once; a parallel section may have hundreds."""
BAR = 16
CLOSE = 0.8
"""Share of a budget after which its clock draws attention."""


def running(story: Story, now: float, frame: int) -> list[Line]:
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
    section = _current(view)
    if not lines:
        lines.append(_line(story, spinner, Tone.PLAIN, "" if section else _between(view)))
    following = (
        next((step for step in section.leaves() if step.standing is Standing.WAITING), None) if section else None
    )
    if following is not None:
        lines.append(_line(story, "·", Tone.QUIET, f"next: {clean(following.name)}"))
    return [*lines, EMPTY, *_faults(story, now), _progress(story, section, now)]


def _between(view: RunView) -> str:
    """What the engine does when no section runs."""
    if any(section.started for section in view.sections.values()):
        return "finishing"
    return f"bringing up {view.started.stack}" if view.started is not None and not view.stack_changes else "starting"


def _current(view: RunView) -> SectionView | None:
    return next((each for each in reversed(view.sections.values()) if each.started and not each.finished), None)


def _undoing(view: RunView) -> list[str]:
    return [clean(undo.planned.says) for undo in view.undos.values() if undo.started and not undo.finished]


def _step(story: Story, step: StepView, now: float, spinner: str) -> Line:
    """A step that is being done: its last measured value, its elapsed time against its objective or limit."""
    spent = max(0.0, now - (step.began or 0.0))
    started, tried = step.started, step.tried
    limit = started.within or started.timeout if started is not None else None
    time, tone = _clock(spent, started.within if started is not None else None)
    room = story.width - story.name_width - TIME_WIDTH - 2 * MARGIN - 2
    if step.asked is not None and step.answered is None:
        cell = [Part("waits for a person", Tone.WARN)]
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
    """Elapsed time against a budget; it draws attention when the budget is nearly gone, and says when it is."""
    shown = f"{spent:.1f}s" if spent < 60 else span(spent)  # noqa: PLR2004 - steady tenths up to a minute
    if not budget:
        return shown, Tone.QUIET
    if spent > budget:
        return f"{shown} > {span(budget)}", Tone.BAD
    return f"{shown} of {span(budget)}", Tone.WARN if spent > CLOSE * budget else Tone.QUIET


def _line(story: Story, mark: str, tone: Tone, text: str) -> Line:
    return (Part("  "), Part(mark, tone), Part(" "), Part(cut(text, story.width - 2 * MARGIN), tone))


def _faults(story: Story, now: float) -> list[Line]:
    """What is broken on purpose at this moment, and for how long."""
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


def _progress(story: Story, section: SectionView | None, now: float) -> Line:
    """How far the run is, what has gone wrong so far, and both clocks."""
    view = story.view
    standings = view.standings()
    total = sum(standings.values())
    done = total - standings[Standing.WAITING] - standings[Standing.RUNNING]
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
