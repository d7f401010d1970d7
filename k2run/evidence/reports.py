"""Writes the reports of a run beside its journal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2run.engine.journal import read_journal
from k2run.errors import OperatorError
from k2run.evidence.junit import report_junit
from k2run.evidence.rehearsed import last_rehearsal
from k2run.evidence.report_html import report_html
from k2run.evidence.report_markdown import report_markdown
from k2run.evidence.view import RunView, view_of
from k2run.whole_file import drafted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REPORTS: dict[str, Callable[[RunView, RunView | None], str]] = {
    "report.html": report_html,
    "report.md": report_markdown,
}
JUNIT = "junit.xml"


def write_reports(folder: Path, *, junit: bool = False) -> list[Path]:
    """Make the reports anew from the journal.

    Args:
        folder: The run's folder, with its journal.
        junit: Also junit.xml, for a server that builds and tests.

    Returns:
        The files, the one for people first.

    Raises:
        UsageError: There is no journal, or it cannot be read.
        OperatorError: A report cannot be written.
    """
    view = view_of(read_journal(folder))
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
            hint="the journal is complete; make room, then have the report made again",
        ) from error
    return path
