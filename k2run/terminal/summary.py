"""The end of a run on a terminal: score, objectives, what failed, what is still broken; the verdict comes last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.engine.events import Bound, Outcome
from k2run.evidence.view import score_says, tally, tone_of, trouble, verdict
from k2run.evidence.wording import MARKS, Standing, against, clean, points
from k2run.terminal.lines import EMPTY, FILLED, TONES, UNFILLED, Line, Part, Tone, cells, cut, left, right, wrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.engine.events import Objected, RunFinished, Scored, ScoreLine
    from k2run.evidence.step_view import StepView
    from k2run.evidence.view import RunView

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
