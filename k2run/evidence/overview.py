"""The top of the page: verdict, score, objectives, what went wrong."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - msgspec reads the types of fields
from functools import cache
from typing import TYPE_CHECKING

from k2run.engine.events import Bound
from k2run.evidence.compare import against_last, attendance, wished
from k2run.evidence.html import NOTHING, Child, Html, row, table, tag
from k2run.evidence.view import open_ended, score_says, tally, tone_of, trouble, verdict
from k2run.evidence.wording import (
    MARKS,
    NOT_MEASURED,
    Standing,
    against,
    moment,
    points,
    span,
    timed,
)

if TYPE_CHECKING:
    from k2run.engine.events import Objected, RunFinished, Scored, ScoreLine
    from k2run.evidence.step_view import StepView
    from k2run.evidence.view import RunView

_BOUNDS = {
    Bound.MET: ("✓ met", "good"),
    Bound.MISSED: ("✗ missed", "bad"),
    Bound.NOT_MEASURED: ("? not measured", "warn"),
}
TONES = {
    Standing.PASSED: "good",
    Standing.FAILED: "bad",
    Standing.INTERRUPTED: "bad",
    Standing.UNKNOWN: "warn",
    Standing.WARNING: "warn",
    Standing.IGNORED: "warn",
    Standing.NOT_CONFIRMED: "warn",
}
"""The class of a standing in the style sheet; others are quiet."""

AGAINST_LAST = "Compared with the last rehearsal"
_LAST_HEADS = ("What", "This time", "Last time", "Difference")


@cache
def badge(stands: Standing) -> Html:
    """A standing, as a mark and a word."""
    word = "failed" if stands is Standing.FAILED else stands.value
    return tag("span", MARKS[stands], " ", word, class_=f"badge {TONES.get(stands, 'quiet')}")


@cache
def bound_badge(bound: Bound | None) -> Html:
    """Whether an objective was met, as a mark and a word."""
    if bound is None:
        return NOTHING
    word, tone = _BOUNDS[bound]
    return tag("span", word, class_=f"badge {tone}")


def header(view: RunView) -> Html:
    """What was run, where and when."""
    started = view.started
    if started is None:
        return tag("header", tag("h1", "A run that did not start"))
    facts = [
        ("Run", tag("code", started.run)),
        ("Started", moment(started.at)),
        ("Took", span(view.seconds)),
        ("Stack", started.stack),
        ("Owner", started.owner),
        ("Runbook", tag("code", started.runbook)),
    ]
    listed = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts if value]
    return tag(
        "header",
        tag("p", f"{started.kind} runbook", class_="kind"),
        tag("h1", started.title or started.name),
        tag("dl", *listed),
    )


def verdict_box(view: RunView) -> Html:
    """The verdict, what speaks against it, and what is still broken."""
    finished = view.finished
    word, rest = verdict(view, finished) if finished is not None else open_ended(view)
    return tag(
        "section",
        tag("h2", tag("span", word, class_="word"), f" {rest}" if rest else None),
        _reasons(finished) if finished is not None else None,
        tag("p", _counts(view)),
        _still_broken(view.still_broken()),
        class_=f"verdict {tone_of(finished) if finished is not None else 'warn'}",
    )


def _reasons(finished: RunFinished) -> Html:
    """All reasons, where the verdict's sentence had room for only some."""
    if all(reason in finished.verdict for reason in finished.reasons):
        return NOTHING
    return tag("ul", *(tag("li", reason) for reason in finished.reasons))


def _counts(view: RunView) -> Html:
    within = view.started.within if view.started is not None else None
    line = journal_link(view.finished.seq) if view.finished is not None else None
    return tag("span", tally(view), f" · {against(view.seconds, within)} · journal line " if line else None, line)


def _still_broken(says: Sequence[str]) -> Html:
    if not says:
        return NOTHING
    return tag(
        "div",
        tag("h3", "Still broken"),
        tag("ul", *(tag("li", each) for each in says)),
        tag("p", tag("code", "k2run undo"), " puts it back."),
        class_="alarm",
    )


# --- score ------------------------------------------------------------------------------------------------------------


def score(view: RunView) -> Html:
    """The score with its coverage, and what it leaves out."""
    scored = view.scored
    if scored is None:
        return NOTHING
    heads = ("Category", "", "Earned", "Judged", "Weight")
    weight = sum(line.points for line in scored.lines)
    total = row(heads, ("Score", NOTHING, points(scored.score), "of 100", points(weight)))
    return tag(
        "section",
        tag("h2", "Score"),
        tag(
            "p",
            tag("strong", f"{points(scored.score)} of 100", class_="figure"),
            " ",
            journal_link(scored.seq),
        ),
        tag("ul", *(tag("li", tag("strong", label), f" {said}") for label, said in score_says(scored))),
        table(
            "Score by category", heads, [_score_row(heads, line) for line in scored.lines], foot=total, class_="score"
        ),
        _go_list(scored),
        _names("For a person", scored.for_a_person),
        _names("Not applicable on this stack", scored.not_applicable),
        id="score",
    )


def _score_row(heads: Sequence[str], line: ScoreLine) -> Html:
    cells: tuple[Child, ...]
    if line.judged:
        share = line.earned / line.judged
        tone = "good" if share >= 1 else "warn" if share else "bad"
        bar = tag(
            "svg",
            tag("rect", class_="ground", width="100%", height="10"),
            tag("rect", class_=tone, width=f"{100 * share:.1f}%", height="10"),
            aria_hidden="true",
            width="100%",
            height="10",
        )
        cells = (line.title, bar, points(line.earned), f"of {points(line.judged)}", points(line.points))
    else:
        cells = (line.title, NOTHING, tag("span", "not judged", class_="quiet"), NOTHING, points(line.points))
    return row(heads, cells)


def _go_list(scored: Scored) -> Html:
    if scored.go is not False or not scored.missing:
        return NOTHING
    return tag("div", tag("h3", "Needed for a go"), tag("ol", *(tag("li", each) for each in scored.missing)))


def _names(title: str, names: Sequence[str]) -> Html:
    if not names:
        return NOTHING
    return tag("div", tag("h3", f"{title} ({len(names)})"), tag("ul", *(tag("li", name) for name in names)))


# --- objectives and clocks --------------------------------------------------------------------------------------------


def objectives(view: RunView) -> Html:
    """What the run promised, and the clocks that were read."""
    if not view.objectives and not view.clocks:
        return NOTHING
    heads = ("Objective", "Measured", "Met", "Journal")
    rows = [_objective_row(heads, each) for each in view.objectives]
    clock_heads = ("Clock", "Measured", "Objective", "Met", "Journal")
    clock_rows = [
        row(
            clock_heads,
            (
                clock.clock,
                join_note(timed(clock.seconds, clock.error), clock.message),
                f"≤ {span(clock.within)}" if clock.within is not None else NOTHING,
                bound_badge(clock.objective),
                journal_link(clock.seq),
            ),
        )
        for clock in view.clocks
    ]
    return tag(
        "section",
        tag("h2", "Objectives"),
        table("Objectives of the run", heads, rows) if rows else None,
        table("Clocks", clock_heads, clock_rows, class_="spaced cards") if clock_rows else None,
        id="objectives",
    )


def _objective_row(heads: Sequence[str], each: Objected) -> Html:
    value = NOT_MEASURED if each.bound is Bound.NOT_MEASURED else each.value
    note = each.value if each.bound is Bound.NOT_MEASURED and each.value != NOT_MEASURED else ""
    return row(heads, (each.objective, join_note(value, note), bound_badge(each.bound), journal_link(each.seq)))


def join_note(value: str, note: str) -> Html:
    """A value with a remark under it."""
    return tag("span", value, tag("br") if note else None, tag("span", note, class_="quiet") if note else None)


# --- what went wrong --------------------------------------------------------------------------------------------------


def went_wrong(view: RunView) -> Html:
    """Every step that went wrong, with its cause and the next step."""
    steps = trouble(view)
    if not steps:
        return NOTHING
    return tag(
        "section", tag("h2", f"What went wrong ({len(steps)})"), *(_wrong(view, step) for step in steps), id="wrong"
    )


def _wrong(view: RunView, step: StepView) -> Html:
    finished = step.finished
    if finished is None:
        return NOTHING
    section = view.sections[step.section].name
    where = f"{section}, rescued by its block" if view.rescued(step) else section
    return tag(
        "article",
        tag("h3", badge(step.standing), " ", step.name, " ", tag("span", f"in {where}", class_="quiet")),
        why(step),
        class_=f"wrong {TONES.get(step.standing, 'quiet')}",
    )


def why(step: StepView) -> Html:
    """Expectation, cause, hint and recovery of an ended step."""
    finished = step.finished
    if finished is None:
        return NOTHING
    recovery = tag("code", f"k2run run {finished.recovery}") if finished.recovery else NOTHING
    facts: list[tuple[str, Child]] = [
        ("Measured", finished.headline),
        ("Cause", finished.message),
        ("Hint", finished.hint),
        ("Recovery", recovery),
        ("Journal", tag("span", "line ", journal_link(finished.seq))),
    ]
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts if value), class_="why")


# --- a rehearsal and the one before it --------------------------------------------------------------------------------


def last_time(view: RunView, last: RunView | None) -> Html:
    """This rehearsal compared with the last one; nothing without one."""
    if last is None or last.started is None:
        return NOTHING
    rows = [
        row(_LAST_HEADS, (each.name, each.other or "absent", each.one or "absent", each.says), number_of_head=0)
        for each in against_last(view, last)
    ]
    remark = attendance(view, last)
    wishes = wished(last)
    return tag(
        "section",
        tag("h2", AGAINST_LAST),
        tag("p", "Last rehearsal: ", tag("code", last.started.run), f", {moment(last.started.at)}.", class_="quiet"),
        tag("p", remark) if remark else None,
        table("Times of the sections, this time and the last time", _LAST_HEADS, rows, class_="cards"),
        tag("p", "Requested changes: ", tag("strong", "; ".join(wishes))) if wishes else None,
        id="last-time",
    )


def journal_link(seq: int) -> Html:
    """A link to a line of the journal, which the report quotes at its end."""
    return Html(f'<a href="#e{seq}" class="line" title="line {seq} of journal.jsonl">{seq}</a>')
