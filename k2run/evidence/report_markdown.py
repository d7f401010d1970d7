"""report.md: the run for a pull request, a ticket or a wiki."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from k2run.engine.events import Bound
from k2run.evidence.compare import against_last, attendance, wished
from k2run.evidence.step_view import MoreTurns, listed
from k2run.evidence.view import open_ended, score_says, tally, trouble, verdict
from k2run.evidence.wording import (
    MARKS,
    NOT_DONE,
    NOT_MEASURED,
    Standing,
    against,
    clean,
    counted,
    moment,
    points,
    span,
    standing,
    timed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from k2run.engine.events import Scored, ScoreLine, StepFinished
    from k2run.evidence.step_view import SectionView, StepView, UndoView
    from k2run.evidence.view import RunView

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~!&$])")
_BOUNDS = {Bound.MET: "✓ met", Bound.MISSED: "✗ **missed**", Bound.NOT_MEASURED: "? not measured"}


def report_markdown(view: RunView, last: RunView | None = None) -> str:
    """The report of a run, finished or broken off; a rehearsal is compared with `last`, the one before it."""
    parts = [
        *_header(view),
        *_last_time(view, last),
        *_score(view),
        *_objectives(view),
        *_went_wrong(view),
        *_sections(view),
        *_steps(view),
        *_undos(view),
        *_people(view),
        *_remarks(view),
        *_environment(view),
    ]
    return "\n".join([*parts, "", "`#n` is line n of journal.jsonl.", ""])


def text(value: str) -> str:
    """The text with nothing in it that Markdown or HTML would read as a sign."""
    return _SPECIAL.sub(r"\\\1", clean(value))


def code(value: str) -> str:
    """The text as code, whatever it contains; also inside of a table.

    Code cannot escape a backslash, and a table needs one before every pipe: where both meet, it is no code.
    """
    if "\\|" in value:
        return text(value)
    shown = clean(value).replace("|", "\\|")
    if not shown:
        return ""
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", shown)), default=0))
    pad = " " if "`" in shown else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ["", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *(f"| {' | '.join(row)} |" for row in rows)]


def _header(view: RunView) -> Iterator[str]:
    started = view.started
    yield f"# {text(started.title or started.name) if started is not None else 'A run that never started'}"
    yield ""
    yield _verdict(view)
    if view.finished is not None and not all(reason in view.finished.verdict for reason in view.finished.reasons):
        yield ""
        yield from (f"- {text(reason)}" for reason in view.finished.reasons)
    broken = view.still_broken()
    if broken:
        yield f"\n**Still broken** (`k2run undo` puts it back): {text('; '.join(broken))}"
    if started is not None:
        owner = f", owner {text(started.owner)}" if started.owner else ""
        yield f"\n{started.kind} {code(started.name)} on {text(started.stack)}{owner}"
        yield f"\nrun {code(started.run)}, {moment(started.at)}"


def _verdict(view: RunView) -> str:
    within = view.started.within if view.started is not None else None
    if view.finished is None:
        word, why = open_ended(view)
        return f"**{word}**: {why}. {tally(view)}; {span(view.seconds)}."
    word, rest = verdict(view, view.finished)
    sentence = f"**{word}** {text(rest)}".rstrip()
    return f"{sentence}\n\n{tally(view)}; {against(view.seconds, within)} (#{view.finished.seq})"


def _last_time(view: RunView, last: RunView | None) -> Iterator[str]:
    if last is None or last.started is None:
        return
    yield "\n## Compared with the last rehearsal"
    yield f"\nThe last one was {code(last.started.run)}, {moment(last.started.at)}. {attendance(view, last)}".rstrip()
    rows = against_last(view, last)
    cells = [(text(each.name), text(each.other), text(each.one), text(each.says)) for each in rows]
    yield from _table(("What", "This time", "Last time", "Difference"), cells)
    wishes = wished(last)
    if wishes:
        yield f"\nWhat was to be changed: **{text('; '.join(wishes))}**"


def _score(view: RunView) -> Iterator[str]:
    scored = view.scored
    if scored is None:
        return
    yield f"\n## Score\n\n(#{scored.seq})\n"
    yield from (f"- **{label}** {text(said)}" for label, said in score_says(scored))
    yield from _table(("Category", "Earned", "Judged", "Weight"), (_score_row(line) for line in scored.lines))
    yield from _score_lists(scored)


def _score_row(line: ScoreLine) -> tuple[str, str, str, str]:
    if not line.judged:
        return text(line.title), "not judged", "", points(line.points)
    return text(line.title), points(line.earned), f"of {points(line.judged)}", points(line.points)


def _score_lists(scored: Scored) -> Iterator[str]:
    needed = scored.missing if scored.go is False else []
    lists = {"Needed for a go": needed, "For a person": scored.for_a_person, "Not applicable": scored.not_applicable}
    for title, entries in lists.items():
        if entries:
            yield f"\n{title}:\n"
            yield from (f"- {text(entry)}" for entry in entries)


def _objectives(view: RunView) -> Iterator[str]:
    if view.objectives:
        yield "\n## Objectives"
        rows = [
            (
                text(each.objective),
                NOT_MEASURED if each.bound is Bound.NOT_MEASURED else text(each.value),
                _BOUNDS[each.bound],
                f"#{each.seq}",
            )
            for each in view.objectives
        ]
        yield from _table(("Objective", "Measured", "Met", "Journal"), rows)
    if view.clocks:
        clocks = [
            (
                text(clock.clock),
                f"{timed(clock.seconds, clock.error)} {text(clock.message)}".rstrip(),
                f"≤ {span(clock.within)}" if clock.within is not None else "",
                _BOUNDS[clock.objective] if clock.objective is not None else "",
                f"#{clock.seq}",
            )
            for clock in view.clocks
        ]
        yield from _table(("Clock", "Measured", "Objective", "Met", "Journal"), clocks)


def _went_wrong(view: RunView) -> Iterator[str]:
    steps = trouble(view)
    if steps:
        yield f"\n## What went wrong ({len(steps)})\n"
    for step in steps:
        section = view.sections[step.section].name
        rescued = ", rescued" if view.rescued(step) else ""
        yield f"- {MARKS[step.standing]} **{text(step.name)}** ({step.standing.lower()}{rescued}, in {text(section)})"
        if step.finished is not None:
            yield from _why(step.finished)


def _why(finished: StepFinished) -> Iterator[str]:
    facts = {"Measured": finished.headline, "Cause": finished.message, "Hint": finished.hint}
    yield from (f"  - {name}: {text(value)}" for name, value in facts.items() if value)
    if finished.recovery:
        yield f"  - Recovery: {code(f'k2run run {finished.recovery}')}"
    yield f"  - Journal: #{finished.seq}"


def _sections(view: RunView) -> Iterator[str]:
    started = [section for section in view.sections.values() if section.started is not None]
    if not started:
        return
    yield "\n## Sections"
    yield from _table(("Section", "Outcome", "Steps", "Time"), (_section_row(section) for section in started))


def _section_row(section: SectionView) -> tuple[str, str, str, str]:
    finished = section.finished
    counts = counted(step.standing for step in section.leaves())
    if finished is None:
        return text(section.name), "not finished", counts, ""
    time = against(finished.seconds, finished.within, finished.objective)
    return text(section.name), standing(finished.outcome).lower(), counts, time


def _steps(view: RunView) -> Iterator[str]:
    heads = ("Outcome", "Step", "Measured", "Expected", "Time", "Points", "Journal")
    if any(section.steps for section in view.sections.values()):
        yield "\n## Steps"
    for section in view.sections.values():
        if section.steps:
            yield f"\n### {text(section.name)}"
            yield from _table(heads, (_step_row(step) for step in listed(section.in_order())))


def _step_row(step: StepView | MoreTurns) -> tuple[str, ...]:
    if isinstance(step, MoreTurns):
        return f"{MARKS[Standing.PASSED]} passed", step.says, "", "", "", "", f"#{step.first} to #{step.last}"
    finished = step.finished
    name = "&nbsp;&nbsp;" * step.depth + text(step.name)
    if finished is None:
        return ("not reached" if step.standing is Standing.WAITING else "not finished"), name, "", "", "", "", ""
    judged = "not judged" if finished.points is None else points(finished.points)
    return (
        f"{MARKS[step.standing]} {step.standing.lower()}",
        name,
        text(finished.headline or finished.message),
        code(finished.expected),
        "" if step.standing in NOT_DONE else against(finished.seconds, finished.within, finished.objective),
        f"{judged} of {points(finished.maximum)}" if finished.maximum is not None else "",
        f"#{finished.seq}",
    )


def _undos(view: RunView) -> Iterator[str]:
    if view.undos:
        yield "\n## Faults and undos"
        yield from _table(
            ("Undo", "Injected by", "Outcome", "Journal"), (_undo_row(view, undo) for undo in view.undos.values())
        )


def _undo_row(view: RunView, undo: UndoView) -> tuple[str, str, str, str]:
    step = view.step(undo.planned.step)
    finished = undo.finished
    broken_by = text(step.name) if step is not None else code(undo.planned.step)
    if finished is None:
        return text(undo.planned.says), broken_by, "✗ **still pending**", f"#{undo.planned.seq}"
    mark = MARKS[standing(finished.outcome)]
    by = "" if finished.by == "engine" else f" by {text(finished.by)}"
    outcome = f"{mark} {standing(finished.outcome).lower()}{by} {text(finished.message)}".rstrip()
    return text(undo.planned.says), broken_by, outcome, f"#{finished.seq}"


def _people(view: RunView) -> Iterator[str]:
    asked = [(step.asked, step.answered) for step in view.leaves() if step.asked is not None]
    if not asked:
        return
    yield "\n## Operators"
    rows = [
        (
            text(question.question),
            text(answer.answer) if answer is not None else "no answer",
            (text(answer.by) or "no operator: the declared default") if answer is not None else "",
        )
        for question, answer in asked
    ]
    yield from _table(("Question", "Answer", "By"), rows)


def _remarks(view: RunView) -> Iterator[str]:
    if view.notes:
        yield "\n## Remarks\n"
    for note in view.notes:
        hint = f" ({text(note.hint)})" if note.hint else ""
        yield f"- {span(note.t)} {note.level}: {text(note.message)}{hint}"


def _environment(view: RunView) -> Iterator[str]:
    started = view.started
    if started is None:
        return
    facts = {
        "runbook": started.runbook,
        "digest": started.digest,
        "stack file": started.stack_file,
        "attended": "yes" if started.attended else "no",
        **{f"input {name}": str(value) for name, value in started.inputs.items()},
        **{f"version of {name}": version for name, version in started.versions.items()},
        **started.environment,
    }
    yield "\n## Environment"
    yield from _table(("What", "Value"), ((text(name), code(value)) for name, value in facts.items() if value))
