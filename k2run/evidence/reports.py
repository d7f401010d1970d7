"""Write the reports of a run beside its journal: report.html, report.md, junit.xml; append runs to Iceberg tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from k2run.engine.events import NO_LENGTH, Bound, Outcome
from k2run.engine.journal import read_journal
from k2run.engine.store import running
from k2run.errors import OperatorError
from k2run.evidence.compare import last_rehearsal
from k2run.evidence.html import Html, tag
from k2run.evidence.report_html import report_html
from k2run.evidence.report_markdown import report_markdown
from k2run.evidence.view import RunView, open_ended, view_of
from k2run.evidence.wording import Standing
from k2run.files import drafted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pyiceberg.table import Table

    from k2run.actions.deadline import Deadline
    from k2run.adapters.iceberg.catalog import Iceberg
    from k2run.engine.events import Objected
    from k2run.evidence.history import History
    from k2run.evidence.step_view import SectionView, StepView, UndoView


def report_junit(view: RunView) -> str:
    """The report of a run, finished or broken off."""
    name = view.started.name if view.started is not None else "k2run"
    suites = [_section(view, name, section) for section in view.sections.values() if section.steps]
    promised = [each for each in view.objectives if not each.step]  # those of steps speak through their steps
    if promised:
        suites.append(_suite(view, "Objectives", [_objective(name, each) for each in promised]))
    if view.undos:
        suites.append(_suite(view, "Undos", [_undo(name, undo) for undo in view.undos.values()]))
    suites.append(_suite(view, "Run", [_verdict(view, name)], seconds=view.seconds))
    whole = tag("testsuites", *suites, name=name, time=f"{view.seconds:.3f}", **_totals(suites))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{whole}\n'


def _suite(view: RunView, name: str, cases: Sequence[Html], seconds: float = 0.0) -> Html:
    started = view.started
    stamp = started.at[:19] if started is not None else None
    return tag("testsuite", *cases, name=name, time=f"{seconds:.3f}", timestamp=stamp, **_totals(cases))


def _totals(parts: Sequence[Html]) -> dict[str, str]:
    """How many cases there are of each kind; what is quoted in them is escaped, so a tag is a tag."""
    text = "".join(parts)
    signs = {"tests": "<testcase ", "failures": "<failure ", "errors": "<error ", "skipped": "<skipped "}
    return {name: str(text.count(sign)) for name, sign in signs.items()}


def _section(view: RunView, name: str, section: SectionView) -> Html:
    cases = [_step(view, name, section, step) for step in section.leaves()]
    return _suite(view, section.name, cases, seconds=section.finished.seconds if section.finished is not None else 0.0)


def _case(class_name: str, name: str, *body: Html, seconds: float = 0.0) -> Html:
    return tag("testcase", *body, classname=class_name, name=name, time=f"{seconds:.3f}")


def _step(view: RunView, name: str, section: SectionView, step: StepView) -> Html:
    seconds = step.finished.seconds if step.finished is not None else 0.0
    return _case(f"{name}.{section.name}", step.name, *_step_body(view, step), seconds=seconds)


def _step_body(view: RunView, step: StepView) -> Iterator[Html]:
    finished = step.finished
    if finished is None:
        word = "not reached" if step.standing is Standing.WAITING else "not finished"
        yield tag("skipped", message=word)
        return
    detail = "\n".join(part for part in (finished.message, f"hint: {finished.hint}" if finished.hint else "") if part)
    lines = [
        f"{label}: {value}"
        for label, value in (("measured", finished.headline), ("expected", finished.expected))
        if value
    ]
    match step.standing:
        case Standing.FAILED if not view.rescued(step):
            yield tag("failure", detail, message=finished.message, type=step.action)
        case Standing.UNKNOWN | Standing.INTERRUPTED if not view.rescued(step) and finished.severity == "critical":
            yield tag("error", detail, message=finished.message or step.standing.value, type=step.standing.value)
        case Standing.PASSED:
            if finished.objective is Bound.MISSED:
                lines.append(f"objective missed: {finished.seconds:.3f}s, within {finished.within}s")
        case _:
            word = "rescued" if view.rescued(step) else step.standing.lower()
            yield tag("skipped", message=f"{word}: {finished.message}" if finished.message else word)
    if lines:
        yield tag("system-out", "\n".join(lines))


def _objective(name: str, each: Objected) -> Html:
    body = {
        Bound.MET: Html(),
        Bound.MISSED: tag(
            "failure", f"{each.objective}: {each.value}", message=f"missed: {each.value}", type="objective"
        ),
        Bound.NOT_MEASURED: tag("error", each.value, message="not measured", type="objective"),
    }
    if each.value in NO_LENGTH:
        return _case(f"{name}.Objectives", each.objective, tag("skipped", message=each.value))
    return _case(f"{name}.Objectives", each.objective, body[each.bound])


def _undo(name: str, undo: UndoView) -> Html:
    if not undo.pending:
        return _case(f"{name}.Undos", undo.planned.says)
    message = undo.finished.message if undo.finished is not None else "not undone"
    return _case(
        f"{name}.Undos", undo.planned.says, tag("failure", message, message=f"still broken: {message}", type="undo")
    )


def _verdict(view: RunView, name: str) -> Html:
    finished = view.finished
    if finished is None:
        return _case(f"{name}.Run", "verdict", tag("error", message=open_ended(view)[1], type="unfinished"))
    if finished.outcome is Outcome.PASSED:
        return _case(f"{name}.Run", "verdict", tag("system-out", finished.verdict), seconds=finished.seconds)
    reasons = "\n".join(finished.reasons)
    if finished.outcome is Outcome.NOT_APPLICABLE:
        return _case(f"{name}.Run", "verdict", tag("skipped", reasons, message=finished.verdict))
    failure = tag("failure", reasons, message=finished.verdict, type=finished.outcome.value)
    return _case(f"{name}.Run", "verdict", failure, seconds=finished.seconds)


REPORTS: dict[str, Callable[[RunView, RunView | None], str]] = {
    "report.html": report_html,
    "report.md": report_markdown,
}
JUNIT = "junit.xml"


def write_reports(folder: Path, *, junit: bool = False) -> list[Path]:
    """Make the reports from the journal in a run's folder, with `junit` also one for a server that builds and tests.

    Returns:
        The files, the one for people first.

    Raises:
        UsageError: There is no journal, or it cannot be read.
        OperatorError: A report cannot be written.
    """
    view = view_of(read_journal(folder))
    view.alive = view.finished is None and folder.name in running(folder.parent.parent)
    last = last_rehearsal(folder, view)
    made = {name: render(view, last) for name, render in REPORTS.items()}
    if junit:
        made[JUNIT] = report_junit(view)
    return [_write(folder / name, text) for name, text in made.items()]


def _write(path: Path, text: str) -> Path:
    """Replace a report as a whole: a reader never meets half of one."""
    try:
        with drafted(path) as draft:
            draft.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OperatorError(
            f"{path} cannot be written: {error.strerror or error}",
            hint="the journal is complete: free some space, then run `k2run report`",
        ) from error
    return path


PUBLISHED = ("measures", "runs")
"""What is published; a run is complete once its row in `runs` is there, so that comes last."""


def publish(history: History, iceberg: Iceberg, namespace: str, deadline: Deadline) -> dict[str, int]:
    """Append the runs that are not there yet, to tables that are made when missing; those that did not end come later.

    Returns:
        How many rows were new, by the name of their table.

    Raises:
        ResponderError: The catalog cannot be reached, or refuses.
    """
    from k2run.adapters.iceberg.catalog import judged, open_catalog  # reading needs no catalog

    catalog = open_catalog(iceberg, deadline)
    rows: dict[str, int] = {}
    with judged(iceberg, f"publish to {namespace}"):
        catalog.create_namespace_if_not_exists(namespace)
        for name in PUBLISHED:
            deadline.remaining()
            everything = history.arrow(name)
            table = catalog.create_table_if_not_exists(f"{namespace}.{name}", schema=everything.schema)
            rows[f"{namespace}.{name}"] = _append(table, everything)
    return rows


def _append(table: Table, everything: Any) -> int:
    """Append the rows of runs that the table does not have; returns how many."""
    import pyarrow.compute as pc

    there = pc.unique(table.scan(selected_fields=("run",)).to_arrow()["run"])
    new = everything.filter(pc.invert(pc.is_in(everything["run"], value_set=there)))
    if new.num_rows:
        table.append(new)
    return int(new.num_rows)
