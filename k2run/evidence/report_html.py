"""report.html: one page with the record of every step. No script, no font, no picture from elsewhere."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from k2run.evidence.drawings import measurements, timeline
from k2run.evidence.html import NOTHING, Child, Html, escape, join, row, table, tag
from k2run.evidence.overview import (
    AGAINST_LAST,
    badge,
    bound_badge,
    header,
    join_note,
    journal_link,
    last_time,
    objectives,
    score,
    verdict_box,
    went_wrong,
)
from k2run.evidence.step_view import MoreTurns, listed
from k2run.evidence.view import open_ended, verdict
from k2run.evidence.wording import NOT_DONE, Standing, against, count, moment, points, span, standing
from k2run.language.quantities import encode_quantity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from k2run.engine.events import AnyEvent, StepFinished
    from k2run.evidence.step_view import SectionView, StepView, UndoView
    from k2run.evidence.view import RunView

SHOWN_RESULT = 4_000
"""Characters of a result that the page quotes; the journal has it whole."""
SHOWN_LINE = 600
SHOWN_LINES = 2_000
_encode = msgspec.json.Encoder(enc_hook=encode_quantity).encode
STYLE = Path(__file__).parent / "report.css"
_ANCHORS = {AGAINST_LAST: "last-time", "What went wrong": "wrong", "Faults and undos": "undos"}


def steps(view: RunView) -> Html:
    """Every step of every section."""
    sections = [_section(section) for section in view.sections.values() if section.steps]
    return tag("section", tag("h2", "Steps"), *sections, id="steps")


def _section(section: SectionView) -> Html:
    ended = [step.finished for step in section.steps if step.finished is not None]
    expected = ("Expected",) if any(each.expected for each in ended) else ()
    pointed = ("Points",) if any(each.maximum is not None for each in ended) else ()
    heads = ("Outcome", "Step", "Measured", *expected, "Time", *pointed, "Journal")
    finished = section.finished
    time = f"{against(finished.seconds, finished.within, finished.objective)} " if finished is not None else ""
    title = tag(
        "h3",
        section.name,
        " ",
        tag("span", time, badge(standing(finished.outcome)) if finished is not None else "not reached", class_="quiet"),
    )
    shown = (step for step in section.in_order() if not (step.is_block and step.standing is Standing.PASSED))
    rows = [_more(heads, step) if isinstance(step, MoreTurns) else _step(heads, step) for step in listed(shown)]
    return join((title, table(f"Steps of {section.name}", heads, rows, class_="steps cards")))


def _more(heads: Sequence[str], turns: MoreTurns) -> Html:
    lines = tag("span", f"lines {turns.first} to {turns.last} of journal.jsonl", class_="quiet")
    cells = (badge(Standing.PASSED), turns.says, *[NOTHING] * (len(heads) - 3), lines)
    return row(heads, cells, number_of_head=1)


def _step(heads: Sequence[str], step: StepView) -> Html:
    finished = step.finished
    if finished is None:
        word = tag("span", "not reached", class_="quiet") if step.standing is Standing.WAITING else badge(step.standing)
        return row(heads, (word, _named(step), *[NOTHING] * (len(heads) - 2)), number_of_head=1)
    cells = (
        badge(step.standing),
        _named(step),
        _measured(finished),
        *((tag("code", finished.expected) if finished.expected else NOTHING,) if "Expected" in heads else ()),
        _time(finished) if step.standing not in NOT_DONE else NOTHING,
        *((_points(finished),) if "Points" in heads else ()),
        journal_link(finished.seq),
    )
    return row(heads, cells, number_of_head=1)


def _named(step: StepView) -> Html:
    """Name and action, and, folded away, what was asked and what came back."""
    severity = step.finished.severity if step.finished is not None else "critical"
    weight = tag("span", f" {severity}", class_="quiet") if severity != "critical" else NOTHING
    return Html(f"<span>{escape(step.name)}</span><br/>{_action(step.action)}{weight}{_evidence(step)}")


@cache
def _action(name: str) -> Html:
    return tag("code", name, class_="quiet") if name else NOTHING


def _evidence(step: StepView) -> str:
    """What went in and what came out; a page has thousands of these, so they are not made tag by tag."""
    started, finished = step.started, step.finished
    parts: list[tuple[str, Any]] = []
    if started is not None and started.args:
        parts.append(("arguments", started.args))
    if finished is not None and finished.result is not None:
        parts.append(("result", finished.result))
    if finished is not None and finished.figures:
        parts.append(("figures", finished.figures))
    if not parts:
        return ""
    words = ", ".join([name for name, _ in parts])
    blocks = [f'<div><p class="quiet">{name}</p><pre>{escape(_json(value))}</pre></div>' for name, value in parts]
    return f"<details><summary>{words}</summary>{''.join(blocks)}</details>"


def _json(value: Any) -> str:
    text = msgspec.json.format(_encode(value), indent=2).decode()
    if len(text) <= SHOWN_RESULT:
        return text
    return f"{text[:SHOWN_RESULT]}\n… {len(text) - SHOWN_RESULT:,} more characters in the journal"


def _measured(finished: StepFinished) -> Html:
    """The measured value, and under it why that was not enough."""
    value = tag("span", finished.headline) if finished.headline else NOTHING
    if not finished.message and not finished.hint and finished.attempts <= 1:
        return value
    tries = f"{finished.attempts} attempts" if finished.attempts > 1 else ""
    notes = [note for note in (finished.message, f"Hint: {finished.hint}" if finished.hint else "", tries) if note]
    return join((value, *(tag("p", note, class_="note") for note in notes)))


def _time(finished: StepFinished) -> Html:
    missed = finished.objective is not None and finished.objective != "met"
    time = against(finished.seconds, finished.within, finished.objective)
    return join((tag("span", time), *((tag("br"), bound_badge(finished.objective)) if missed else ())))


def _points(finished: StepFinished) -> Html:
    if finished.maximum is None:
        return NOTHING
    if finished.points is None:
        return tag("span", f"not judged ({points(finished.maximum)})", class_="quiet")
    return tag("span", f"{points(finished.points)} of {points(finished.maximum)}")


# --- undos, people, remarks -------------------------------------------------------------------------------------------


def undos(view: RunView) -> Html:
    """The faults, and how they were undone."""
    if not view.undos:
        return NOTHING
    heads = ("Undo", "Injected by", "Outcome", "Undone by", "Time", "Journal")
    return tag(
        "section",
        tag("h2", "Faults and undos"),
        table("Undos", heads, [_undo(view, heads, undo) for undo in view.undos.values()]),
        id="undos",
    )


def _undo(view: RunView, heads: Sequence[str], undo: UndoView) -> Html:
    step = view.step(undo.planned.step)
    finished = undo.finished
    broken_by = step.name if step is not None else undo.planned.step
    if finished is None:
        pending = tag("span", "✗ still pending", class_="badge bad")
        return row(heads, (undo.planned.says, broken_by, pending, NOTHING, NOTHING, journal_link(undo.planned.seq)))
    by_step = view.step(finished.by)
    return row(
        heads,
        (
            undo.planned.says,
            broken_by,
            join(
                (
                    badge(standing(finished.outcome)),
                    tag("p", finished.message, class_="note") if finished.message else None,
                )
            ),
            by_step.name if by_step is not None else finished.by,
            span(finished.seconds) if finished.seconds else NOTHING,
            join((journal_link(undo.planned.seq), " ", journal_link(finished.seq))),
        ),
    )


def people(view: RunView) -> Html:
    """What was asked, and what was answered."""
    asked = [step for step in view.leaves() if step.asked is not None]
    if not asked:
        return NOTHING
    heads = ("Question", "Answer", "By", "Journal")
    return tag(
        "section",
        tag("h2", "Operators"),
        table("Questions", heads, [_question(heads, step) for step in asked]),
        id="operators",
    )


def _question(heads: Sequence[str], step: StepView) -> Html:
    asked, answered = step.asked, step.answered
    assert asked is not None  # noqa: S101 - the caller has looked
    answer = answered.answer if answered is not None else tag("span", "no answer", class_="quiet")
    by = (answered.by or "no operator: the declared default") if answered is not None else NOTHING
    return row(heads, (asked.question, answer, by, journal_link((answered or asked).seq)))


def remarks(view: RunView) -> Html:
    """What the engine had to say, and what it did to the stack."""
    heads = ("When", "Remark", "Journal")
    rows = [
        (
            change.seq,
            change.t,
            f"stack {change.verb}: {', '.join(change.services) or 'nothing'} in {span(change.seconds)}",
            "",
        )
        for change in view.stack_changes
    ]
    rows += [
        (resumed.seq, resumed.t, f"resumed; {count(resumed.finished_steps, 'step')} done before", "")
        for resumed in view.resumed
    ]
    rows += [
        (note.seq, note.t, f"{note.level}: {note.message}" if note.level != "info" else note.message, note.hint)
        for note in view.notes
    ]
    if not rows:
        return NOTHING
    made = [
        row(heads, (span(t), join_note(text, hint), journal_link(seq)), number_of_head=1)
        for seq, t, text, hint in sorted(rows)
    ]
    return tag("section", tag("h2", "Remarks"), table("Remarks of the engine", heads, made), id="remarks")


def environment(view: RunView) -> Html:
    """What the run depended on."""
    started = view.started
    if started is None:
        return NOTHING
    facts: list[tuple[str, Child]] = [
        ("Runbook digest", started.digest),
        ("Stack file", started.stack_file),
        ("Attended", "yes" if started.attended else "no (no operator)"),
        ("Started", moment(started.at)),
        *((f"Input {name}", _short(value)) for name, value in started.inputs.items()),
        *((f"Option {name}", _short(value)) for name, value in started.options.items()),
        *((f"Version of {name}", version) for name, version in started.versions.items()),
        *((name, value) for name, value in started.environment.items()),
    ]
    heads = ("What", "Value")
    rows = [row(heads, (name, tag("code", value))) for name, value in facts if value]
    return tag(
        "section", tag("h2", "Environment"), table("Environment", heads, rows, class_="facts cards"), id="environment"
    )


def _short(value: Any) -> str:
    return value if isinstance(value, str) else _encode(value).decode()


# --- the journal ------------------------------------------------------------------------------------------------------


def journal(view: RunView) -> Html:
    """The journal's lines that the page links to."""
    events = cited(view)
    lines = [_line(event) for event in events[:SHOWN_LINES]]
    more = f" The first {SHOWN_LINES:,} of {len(events):,}." if len(events) > SHOWN_LINES else ""
    return tag(
        "section",
        tag("h2", "Journal"),
        tag(
            "details",
            tag("summary", f"{count(len(lines), 'line')} of journal.jsonl that this page quotes"),
            tag("ol", *lines),
        ),
        tag("p", f"The numbers are line numbers of journal.jsonl beside this page.{more}", class_="quiet"),
        id="journal",
        class_="journal",
    )


def _line(event: AnyEvent) -> Html:
    text = _encode(event).decode()
    shown = text if len(text) <= SHOWN_LINE else f"{text[:SHOWN_LINE]}…"
    return Html(f'<li id="e{event.seq}"><code>{escape(shown)}</code></li>')


def cited(view: RunView) -> list[AnyEvent]:
    """The events that the page links to, in the journal's order."""
    events: list[AnyEvent | None] = [view.started, view.scored, view.finished]
    events += [*view.resumed, *view.stack_changes, *view.faults, *view.clocks, *view.objectives, *view.notes]
    for section in view.sections.values():
        for step in listed(section.steps):
            if not isinstance(step, MoreTurns):
                events += [step.finished or step.started, step.answered or step.asked]
    for undo in view.undos.values():
        events += [undo.planned, undo.finished]
    unique = {event.seq: event for event in events if event is not None}
    return [unique[seq] for seq in sorted(unique)]


_PARTS = {
    "Score": score,
    "Objectives": objectives,
    "What went wrong": went_wrong,
    "Timeline": timeline,
    "Measurements": measurements,
    "Steps": steps,
    "Faults and undos": undos,
    "Operators": people,
    "Remarks": remarks,
    "Environment": environment,
    "Journal": journal,
}


def report_html(view: RunView, last: RunView | None = None) -> str:
    """The report of a run, finished or broken off; a rehearsal is compared with `last`, the one before it."""
    made = {name: part for name, part in ((name, make(view)) for name, make in _PARTS.items()) if part}
    if last is not None:
        made = {AGAINST_LAST: last_time(view, last), **made}
    links = [tag("a", name, href=f"#{_ANCHORS.get(name, name.lower())}") for name in made]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", _title(view)),
        tag("style", Html(STYLE.read_text(encoding="utf-8"))),
    )
    whole = (
        f'<!doctype html>\n<html lang="en">{head}<body>{header(view)}<main>{verdict_box(view)}',
        tag("nav", *links, aria_label="On this page"),
        *made.values(),  # put together once: copying a large page at every level costs more than making it
        f"</main>{tag('footer', _foot(view))}</body></html>\n",
    )
    return "".join(whole)


def _title(view: RunView) -> str:
    name = view.started.title or view.started.name if view.started is not None else "k2run"
    word, _ = verdict(view, view.finished) if view.finished is not None else open_ended(view)
    return f"{word}: {name}"


def _foot(view: RunView) -> str:
    version = view.started.versions.get("k2run", "") if view.started is not None else ""
    return f"Made by k2run {version} from journal.jsonl; every figure names the line it comes from.".replace("  ", " ")
