"""Describes a run in lines, as it happens, and its end: score, objectives, what failed; the verdict comes last.

Long because the live display, its picture, plain lines and guided mode take the words for a run from this page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from k2run.engine.events import (
    Bound,
    ClockStopped,
    Noted,
    Outcome,
    RunFinished,
    RunResumed,
    RunStarted,
    SectionFinished,
    SectionStarted,
    StackChanged,
    StepFinished,
    UndoFinished,
)
from k2run.evidence.view import RunView, score_says, tally, tone_of, trouble, verdict
from k2run.evidence.wording import (
    MARKS,
    NOT_DONE,
    Standing,
    against,
    clean,
    count,
    counted,
    points,
    span,
    standing,
    timed,
)
from k2run.terminal.lines import EMPTY, FILLED, TONES, UNFILLED, Line, Part, Tone, cells, cut, left, right, wrap

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from k2run.engine.events import AnyEvent, Objected, Scored, ScoreLine
    from k2run.evidence.step_view import StepView

BAR = 20
CAUSE_LINES = 2
LISTED = 10
"""Entries of a list before it says how many more there are: the report has them all."""

_BOUNDS = {
    Bound.MET: ("✓", "met", Tone.GOOD),
    Bound.MISSED: ("✗", "MISSED", Tone.BAD),
    Bound.NOT_MEASURED: ("?", "not measured", Tone.WARN),
}
_BADGES = {"good": Tone.BADGE_GOOD, "warn": Tone.BADGE_WARN, "bad": Tone.BADGE_BAD}
_LIGHTS = {"green": Tone.GOOD, "yellow": Tone.WARN, "red": Tone.BAD}


def closing(view: RunView, width: int) -> list[Line]:
    """Everything after the last step; the verdict comes last, where people look."""
    lines: list[Line] = []
    if view.scored is not None:
        lines += [EMPTY, *_score(view.scored, width)]
    if view.objectives:
        lines += _objectives(view.objectives, width)
    lines += _trouble(view, width)
    if view.scored is not None:
        lines += _names("For a person", view.scored.for_a_person, Standing.NOT_CONFIRMED, width)
        lines += _names("Not applicable on this stack", view.scored.not_applicable, Standing.NOT_APPLICABLE, width)
        if view.scored.go is False:
            lines += _list(
                "For a go",
                [(Part(f"{n}. "), Part(clean(text))) for n, text in enumerate(view.scored.missing, 1)],
                width,
            )
    if view.finished is not None:
        lines += _broken(view.finished, width)
        lines += _verdict(view, view.finished, width)
    return [_cut_all(line, width) for line in lines]


def _score(scored: Scored, width: int) -> list[Line]:
    widest = min(max((cells(line.title) for line in scored.lines), default=0), width - BAR - 24)
    tones = {"Score": Tone.STRONG, "Band": _LIGHTS.get(scored.light, Tone.PLAIN)}
    said: list[Line] = []
    for label, text in score_says(scored):
        first, *more = wrap(clean(text), width - widest - 4) or [""]
        tone = tones.get(label, Tone.PLAIN)
        said.append((Part("  "), Part(left(label, widest), Tone.STRONG), Part("  "), Part(first, tone)))
        said += [(Part(" " * (widest + 4)), Part(line, tone)) for line in more]
    return [(Part("Score", Tone.STRONG),), *(_score_line(line, widest) for line in scored.lines), *said]


def _score_line(line: ScoreLine, widest: int) -> Line:
    title = Part(left(clean(line.title), widest))
    if not line.judged:
        return (Part("  "), title, Part("  "), Part(f"not judged, {points(line.points)} points left out", Tone.QUIET))
    full = line.earned >= line.judged
    partly = "" if line.judged >= line.points else f"  {points(line.points - line.judged)} not judged"
    filled = int(BAR * line.earned / line.judged)
    return (
        Part("  "),
        title,
        Part("  "),
        Part(FILLED * filled, Tone.GOOD if full else Tone.WARN if line.earned else Tone.BAD),
        Part(UNFILLED * (BAR - filled), Tone.QUIET),
        Part(f"  {right(points(line.earned), 4)} of {points(line.judged)}"),
        Part(partly, Tone.QUIET),
    )


def _objectives(objectives: Sequence[Objected], width: int) -> list[Line]:
    widest = min(max(cells(clean(each.objective)) for each in objectives), width // 2)
    lines: list[Line] = [EMPTY, (Part("Objectives", Tone.STRONG),)]
    for each in objectives:
        mark, word, tone = _BOUNDS[each.bound]
        value = "" if each.bound is Bound.NOT_MEASURED and not each.step else clean(each.value) + "  "
        parts = [Part(left(clean(each.objective), widest)), Part("  "), Part(value), Part(word, tone)]
        lines.append((Part("  "), Part(mark, tone), Part(" "), *_cut_all(parts, width - 4)))
    return lines


def _trouble(view: RunView, width: int) -> list[Line]:
    """The failed steps, worst first, each with its cause: on a long run they have scrolled away."""
    steps = trouble(view)
    if not steps:
        return []
    lines: list[Line] = [EMPTY, (Part(f"What went wrong ({len(steps)})", Tone.STRONG),)]
    for step in steps[:LISTED]:
        lines += _trouble_lines(view, step, width)
    return lines if len(steps) <= LISTED else [*lines, _more(len(steps) - LISTED)]


def _trouble_lines(view: RunView, step: StepView, width: int) -> list[Line]:
    word = "rescued" if view.rescued(step) else step.standing.value
    where = f"  {word}, in {clean(view.sections[step.section].name)}"
    head = _cut_all([Part(clean(step.name)), Part(where, Tone.QUIET)], width - 4)
    cause = wrap(clean(step.finished.message), width - 4) if step.finished is not None else []
    if len(cause) > CAUSE_LINES:
        cause = [*cause[: CAUSE_LINES - 1], cut(" ".join(cause[CAUSE_LINES - 1 :]), width - 4)]
    return [
        (Part("  "), Part(MARKS[step.standing], TONES[step.standing]), Part(" "), *head),
        *((Part("    "), Part(line, Tone.QUIET)) for line in cause),
    ]


def _more(number: int) -> Line:
    return (Part(f"    and {number} more, in the report", Tone.QUIET),)


def _names(title: str, names: Sequence[str], stands: Standing, width: int) -> list[Line]:
    return _list(
        title, [(Part(f"{MARKS[stands]} ", TONES[stands]), Part(clean(name), Tone.PLAIN)) for name in names], width
    )


def _list(title: str, entries: Sequence[Line], width: int) -> list[Line]:
    if not entries:
        return []
    number = f" ({len(entries)})" if len(entries) > 1 else ""
    shown = [(Part("  "), *_cut_all(entry, width - 2)) for entry in entries[:LISTED]]
    if len(entries) > LISTED:
        shown.append(_more(len(entries) - LISTED))
    return [EMPTY, (Part(f"{title}{number}", Tone.STRONG),), *shown]


def _broken(finished: RunFinished, width: int) -> list[Line]:
    """What an operator must know first: the stack is not in the state it was in before."""
    if not finished.pending_undos:
        return []
    entries: list[Line] = [(Part("✗ ", Tone.BAD), Part(clean(says))) for says in finished.pending_undos]
    return [*_list("STILL BROKEN", entries, width), (Part("  k2run undo", Tone.STRONG), Part("  puts it back"))]


def _verdict(view: RunView, finished: RunFinished, width: int) -> list[Line]:
    word, rest = verdict(view, finished)
    badge = _BADGES[tone_of(finished)]
    wrapped = wrap(clean(rest), width - cells(word) - 4) or [""]
    within = view.started.within if view.started is not None else None
    facts = f"{tally(view)}; {against(finished.seconds, within)}"
    return [
        EMPTY,
        (Part(f" {word} ", badge), Part(f"  {wrapped[0]}", Tone.STRONG)),
        *((Part(" " * (cells(word) + 4)), Part(line, Tone.STRONG)) for line in wrapped[1:]),
        (Part(facts, Tone.QUIET),),
        *_way_on(view, finished),
    ]


def _way_on(view: RunView, finished: RunFinished) -> list[Line]:
    if finished.outcome is not Outcome.INTERRUPTED or view.started is None:
        return []
    return [(Part(f"k2run resume {view.started.run}", Tone.STRONG), Part("  continues where it stopped"))]


def _cut_all(parts: Sequence[Part], width: int) -> Line:
    """The parts side by side, cut where the line ends."""
    shown: list[Part] = []
    for part in parts:
        text = cut(part.text, width)
        shown.append(Part(text, part.tone))
        width -= cells(text)
        if text != part.text or width <= 0:
            break
    return tuple(shown)


NOT_REACHED = "not reached"
"""The beginning of the message of a step that did not run because an earlier one failed."""
FAULT_MARK = "↯"
UNDO_MARK = "↺"
TIME_WIDTH = 13
"""Columns of `1m30s ≤ 12m`, the widest of the common times, and two to spare."""
MARGIN = GAP = 2
REASON = 28
"""Columns that are enough to hint at why a step was not done."""
MEASURED_PARTS = 2
"""Of the parts of a cell, those before the expectation: the word and the measured value."""
SHORTEST_NAME = 24
SHORTEST_EXPECTATION = 16
"""An expectation cut to less than this says nothing: it is left out, and stands in the report."""
LABEL = 7

_WITH_CAUSE = frozenset({Standing.FAILED, Standing.WARNING, Standing.IGNORED, Standing.UNKNOWN, Standing.INTERRUPTED})
_NOTE_MARKS = {"info": ("·", Tone.QUIET), "warning": ("!", Tone.WARN), "error": ("✗", Tone.BAD)}


class Transcript:
    """Turns events into lines for a terminal of a fixed width."""

    narrowest: ClassVar = 60

    def __init__(self, width: int) -> None:
        self.width = max(width, self.narrowest)
        self.view = RunView()
        self.name_width = SHORTEST_NAME
        self.section = ""
        self._unreached: list[str] = []

    def tell(self, event: AnyEvent) -> list[Line]:  # noqa: C901, PLR0911 - one case per kind of event
        """Take in the next event and return the lines that it adds; often none."""
        self.view.fold(event)
        match event:
            case RunStarted():
                self.name_width = self._widest_name(event)
                return self._opening(event)
            case RunResumed():
                return self._resumption(event)
            case SectionStarted() if self.view.sections[event.section].finished is None:
                return self._heading(event.section, event.within)
            case SectionFinished():
                return self._foot(event)
            case StepFinished():
                return self._step(event)
            case UndoFinished():
                return self._undo(event)
            case ClockStopped():
                return self._clock(event)
            case StackChanged():
                services = f": {', '.join(event.services)}" if event.services else ""
                return [EMPTY, self._remark("·", Tone.QUIET, f"stack {event.verb}{services}", span(event.seconds))]
            case Noted():
                mark, tone = _NOTE_MARKS.get(event.level, _NOTE_MARKS["info"])
                return [self._remark(mark, tone, clean(event.message)), *self.detail("hint", event.hint)]
            case RunFinished():
                return closing(self.view, self.width)
        return []

    def recall(self, events: Iterable[AnyEvent]) -> None:
        """Take in an event without adding lines."""
        for event in events:
            self.view.fold(event)
            if isinstance(event, RunStarted):
                self.name_width = self._widest_name(event)

    # --- the parts ----------------------------------------------------------------------------------------------------

    def _widest_name(self, event: RunStarted) -> int:
        """Names get the room that the longest one needs, but leave more than half of the line for what was measured."""
        names = [cells(clean(step.name)) for section in event.outline for step in section.steps]
        return max(SHORTEST_NAME, min(max(names, default=0), self.width * 2 // 5))

    def _opening(self, event: RunStarted) -> list[Line]:
        title = clean(event.title or event.name)
        on = f"on {event.stack}"
        facts = [event.kind, event.name, *([event.owner] if event.owner else [])]
        steps = sum(len(section.steps) for section in event.outline)
        if steps:
            facts.append(count(steps, "step"))
        if event.within:
            facts.append(f"within {span(event.within)}")
        return [
            EMPTY,
            (Part(left(title, self.width - cells(on) - 2), Tone.STRONG), Part(f"  {on}")),
            (Part(cut(clean(" · ".join(facts)), self.width), Tone.QUIET),),
            (Part(cut(f"run {event.run}", self.width), Tone.QUIET),),
        ]

    def _resumption(self, event: RunResumed) -> list[Line]:
        opening = self._opening(self.view.started) if self.view.started is not None else []
        done = f"resumed; {count(event.finished_steps, 'step')} done before"
        return [*opening, EMPTY, self._remark("·", Tone.QUIET, done)]

    def _heading(self, path: str, within: float | None, note: str = "") -> list[Line]:
        self.section = path
        name = clean(self.view.sections[path].name) + note
        budget = f"within {span(within)}" if within else ""
        return [EMPTY, (Part(left(name, self.width - cells(budget)), Tone.STRONG), Part(budget, Tone.QUIET))]

    def _foot(self, event: SectionFinished) -> list[Line]:
        """One closing line for a section, unless its only step (or an earlier part of the run) has said it all."""
        section = self.view.sections[event.section]
        if section.finished is not event:
            return []
        left_behind = self._left_behind()
        steps = section.leaves()
        late = event.within is not None and event.seconds > event.within
        if len(steps) <= 1 and not late:
            return left_behind
        standings = [step.standing for step in steps if step.standing is not Standing.WAITING]
        shown = counted(standings) or standing(event.outcome)
        time = against(event.seconds, event.within, event.objective)
        words = f"{shown}, over its budget" if late else shown
        return [
            *left_behind,
            (
                Part("  "),
                Part(left(words, self.width - MARGIN - TIME_WIDTH), Tone.QUIET),
                Part(right(time, TIME_WIDTH), Tone.WARN if late else Tone.QUIET),
            ),
        ]

    def _step(self, event: StepFinished) -> list[Line]:
        step = self.view.step(event.step)
        if step is None or (step.is_block and event.outcome is Outcome.PASSED and not event.message):
            return []
        if event.outcome is Outcome.SKIPPED and event.message.startswith(NOT_REACHED):
            self._unreached.append(clean(step.name))
            return []
        lines = [] if event.section == self.section else self._heading(event.section, None, " (continued)")
        return [*lines, *self._left_behind(), self.step_line(step, event), *self._why(step, event)]

    def _left_behind(self) -> list[Line]:
        """One line for all steps that were not reached after a failure, which has been shown already."""
        names, self._unreached = self._unreached, []
        if not names:
            return []
        return [self._remark(MARKS[Standing.SKIPPED], Tone.QUIET, f"{len(names)} not reached: {', '.join(names)}")]

    def step_line(self, step: StepView, event: StepFinished) -> Line:
        """An ended step on one line: mark, name, what was measured beside what was expected, time."""
        tone = TONES[step.standing]
        mark = FAULT_MARK if step.fault is not None and event.outcome is Outcome.PASSED else MARKS[step.standing]
        late = event.within is not None and event.seconds > event.within
        time = "" if step.standing in NOT_DONE else against(event.seconds, event.within, event.objective)
        quiet = tone if tone is Tone.QUIET else Tone.PLAIN
        indent = "  " * (1 + step.depth)
        cell = _cell(step, event)
        room = self.width - len(indent) - 2 - GAP - (len(time) + GAP if time else 0)
        name, name_room = clean(step.name), self._name_room(step, cell, room)
        return (
            Part(indent),
            Part(mark, tone),
            Part(" "),
            Part(left(name, name_room), quiet),
            Part(" " * GAP),
            *fill(cell, room - name_room),
            Part(" " * GAP + time if time else "", Tone.WARN if late else Tone.QUIET),
        )

    def _name_room(self, step: StepView, cell: Sequence[Part], room: int) -> int:
        """Columns for a name: those of all names, or more when a long one and what was measured both fit nevertheless.

        The reason why a step was not done gives way to its name: it is told once more at the end of the run.
        """
        usual = self.name_width - 2 * step.depth
        wanted = cells(clean(step.name))
        measured = sum(cells(part.text) for part in cell[:MEASURED_PARTS])
        if step.standing in NOT_DONE:
            measured = min(measured, REASON)
        return max(usual, wanted) if wanted + measured <= room else usual

    def _why(self, step: StepView, event: StepFinished) -> list[Line]:
        if step.standing in _WITH_CAUSE:
            recovery = f"k2run run {event.recovery}" if event.recovery else ""
            return [
                *self.detail("cause", event.message),
                *self.detail("hint", event.hint),
                *self.detail("recover", recovery),
            ]
        if step.fault is not None:
            promised = [undo.planned.says for undo in self.view.undos.values() if undo.planned.step == event.step]
            return self.detail("undo", ", ".join(promised), tone=Tone.QUIET)
        return []

    def detail(self, label: str, text: str, *, tone: Tone = Tone.PLAIN) -> list[Line]:
        """A labelled remark under a line, wrapped to the width of the terminal; nothing for an empty one."""
        indent = 2 * MARGIN
        lines = wrap(clean(text), self.width - indent - LABEL - 1)
        return [
            (Part(" " * indent), Part(left("" if number else label, LABEL + 1), Tone.QUIET), Part(line, tone))
            for number, line in enumerate(lines)
        ]

    def _undo(self, event: UndoFinished) -> list[Line]:
        says = clean(event.says)
        if event.outcome is not Outcome.PASSED:
            return [self._remark("✗", Tone.BAD, f"UNDO FAILED: {says}"), *self.detail("cause", event.message)]
        by = "" if event.by == "engine" else " (k2run undo)" if event.by == "k2run undo" else " (by the runbook)"
        return [self._remark(UNDO_MARK, Tone.GOOD, f"undone: {says}{by}", span(event.seconds) if event.seconds else "")]

    def _clock(self, event: ClockStopped) -> list[Line]:
        late = event.within is not None and event.seconds > event.within
        met = event.objective is not None and not event.message and not late
        mark, tone = ("✓", Tone.GOOD) if met else ("✗", Tone.BAD) if late or event.message else ("·", Tone.QUIET)
        name = event.clock if event.clock != "rto" else "recovery (rto)" if not event.message else "NOT RECOVERED (rto)"
        time = against(event.seconds, event.within, event.objective)
        return [
            self._remark(mark, tone, f"{name}: {timed(event.seconds, event.error)}", time),
            *self.detail("cause", event.message),
        ]

    def _remark(self, mark: str, tone: Tone, text: str, time: str = "") -> Line:
        room = self.width - 2 * MARGIN - (TIME_WIDTH if time else 0)
        quiet = Tone.QUIET if tone is Tone.QUIET else Tone.PLAIN
        return (
            Part("  "),
            Part(mark, tone),
            Part(" "),
            Part(left(text, room), quiet),
            Part(right(time, TIME_WIDTH if time else 0), Tone.QUIET),
        )


def _cell(step: StepView, event: StepFinished) -> list[Part]:
    """What was measured beside what was expected; anything but a pass starts with its word."""
    stands = step.standing
    measured = clean(event.message if stands in NOT_DONE else event.headline)
    word = "" if stands is Standing.PASSED else f"{stands}  " if measured else stands.value
    quiet = Tone.QUIET if stands in NOT_DONE else Tone.PLAIN
    return [Part(word, TONES[stands]), Part(measured, quiet), Part(_expectation(event), Tone.QUIET)]


def _expectation(event: StepFinished) -> str:
    """What was expected, without the word that every expectation starts with, where it was met."""
    if event.outcome is not Outcome.PASSED or not event.expected:
        return ""
    return f"  {clean(event.expected).replace('result.', '')}"


def fill(parts: Sequence[Part], width: int) -> Line:
    """The parts side by side in exactly `width` columns: the last ones give way first."""
    shown: list[Part] = []
    room = width
    for part in parts:
        if not part.text or room < min(SHORTEST_EXPECTATION, cells(part.text)):
            continue
        text = cut(part.text, room)
        shown.append(Part(text, part.tone))
        room -= cells(text)
    return (*shown, Part(" " * room))
