"""A rehearsal compared with the one before it: section times, clocks, and what was to be changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.engine.events import Outcome
from k2run.engine.journal import JOURNAL, read_journal
from k2run.engine.store import began
from k2run.errors import K2runError
from k2run.evidence.compare import Row, change_of
from k2run.evidence.view import view_of
from k2run.evidence.wording import against, timed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from k2run.evidence.view import RunView

REHEARSAL = "rehearsal"


def last_rehearsal(folder: Path, view: RunView) -> RunView | None:
    """The newest rehearsal of the same runbook on the same stack that ended before this one; None for other runs.

    One that was attended as this one is, or was not, comes before a newer one that cannot be compared with it.

    Args:
        folder: The run's folder, among those of the other runs.
        view: The run.
    """
    begun = view.started
    if begun is None or begun.kind != REHEARSAL:
        return None
    earlier = (other for other in folder.parent.glob(f"*-{begun.name}-*") if began(other.name) < began(folder.name))
    newest = None
    for other in sorted(earlier, key=lambda run: began(run.name), reverse=True):
        found = _ended(other)
        before = found.started if found is not None else None
        if before is None or (before.name, before.stack) != (begun.name, begun.stack):
            continue
        if before.attended == begun.attended:
            return found
        newest = newest or found
    return newest


def against_last(view: RunView, last: RunView) -> list[Row]:
    """How long each section took, this time (`other`) and last time (`one`)."""
    return [*_whole(view, last), *_sections(view, last), *_clocks(view, last)]


def wished(last: RunView) -> list[str]:
    """The answers of people at the last rehearsal; defaults taken without an operator do not count."""
    steps = (step for step in last.leaves() if step.action == "manual.input")
    return [step.answered.answer for step in steps if step.answered is not None and step.answered.by]


def attendance(view: RunView, last: RunView) -> str:
    """A warning when only one of two rehearsals was attended; else empty."""
    if view.started is None or last.started is None or view.started.attended == last.started.attended:
        return ""
    with_people = "this time" if view.started.attended else "the last time"
    return f"Attended only {with_people}: the times of sections that wait for an operator cannot be compared."


def _ended(folder: Path) -> RunView | None:
    """A run that was not broken off; None also for what cannot be read."""
    if not (folder / JOURNAL).is_file():
        return None
    try:
        view = view_of(read_journal(folder))
    except K2runError:
        return None
    return view if view.finished is not None and view.finished.outcome is not Outcome.INTERRUPTED else None


def _whole(view: RunView, last: RunView) -> Iterator[Row]:
    if view.finished is None or last.finished is None:
        return
    yield Row(kind="run", name="verdict", one=last.finished.verdict, other=view.finished.verdict)
    yield Row(
        kind="run",
        name="all of it",
        one=against(last.seconds, last.started.within if last.started is not None else None),
        other=against(view.seconds, view.started.within if view.started is not None else None),
        says=change_of(last.seconds, view.seconds),
    )


def _sections(view: RunView, last: RunView) -> Iterator[Row]:
    """Every section of either, by its name."""
    now, then = ({each.name: each.finished for each in one.sections.values()} for one in (view, last))
    for name in {**now, **then}:
        a, b = then.get(name), now.get(name)
        if a is None and b is None:
            continue
        yield Row(
            kind="section",
            name=name,
            one=against(a.seconds, a.within, a.objective) if a is not None else "",
            other=against(b.seconds, b.within, b.objective) if b is not None else "",
            says=change_of(a.seconds, b.seconds) if a is not None and b is not None else "",
        )


def _clocks(view: RunView, last: RunView) -> Iterator[Row]:
    now, then = ({each.clock: each for each in one.clocks} for one in (view, last))
    for name in {**now, **then}:
        a, b = then.get(name), now.get(name)
        yield Row(
            kind="clock",
            name=name.upper() if name == "rto" else name,
            one=timed(a.seconds, a.error) if a is not None else "",
            other=timed(b.seconds, b.error) if b is not None else "",
            says=change_of(a.seconds, b.seconds) if a is not None and b is not None else "",
        )
