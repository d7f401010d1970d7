"""What a document's template may ask: figures, runs, runbooks, the stack. Whatever it prints is a quote."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from k2run.engine.journal import read_journal
from k2run.errors import K2runError, UsageError
from k2run.evidence.declared_quotes import KnownRunbook, StackQuotes
from k2run.evidence.quotes import RunQuotes, Source, Value
from k2run.evidence.view import view_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from k2run.evidence.footnotes import Footnotes
    from k2run.evidence.history import History
    from k2run.evidence.view import RunView
    from k2run.language.model import Runbook
    from k2run.stack.stack import Stack

NEWEST = 50
"""So many runs of a runbook are searched for one that ended and was whole."""
COMMANDS = {"backup": "k2run backup"}
"""What runs a runbook, where that is a command of its own."""
RECOVERY = "recovery"
DRILL = "k2run drill --every"
"""What measures every recovery that the runbook `drill` has a fault for."""


class Sources:
    """What templates ask. A figure is that of a named runbook's last whole run, never one of any run.

    Args:
        history: All past runs.
        runs: The folder of their journals.
        runbooks: Those that can be found.
        notes: Collects what is quoted; its stack is the one that the document is about.
        stack: That stack, read; None when it cannot be.
    """

    def __init__(
        self, history: History, runs: Path, runbooks: Sequence[Runbook], notes: Footnotes, stack: Stack | None = None
    ) -> None:
        self._history, self._runs, self._runbooks, self._notes = history, runs, runbooks, notes
        self._views: dict[str, RunView | None] = {}
        steps = (
            step for each in runbooks if each.name == "drill" for section in each.sections for step in section.steps
        )
        self._drilled = {PurePath(step.recovery).stem for step in steps if step.recovery}
        self.stack = StackQuotes(stack, notes)

    def figure(self, metric: str, form: str = "number", *, runbook: str = "", section: str = "") -> Value:
        """A figure of a section of the last run of a runbook.

        Raises:
            UsageError: Runbook or section is not named.
        """
        if not (runbook and section):
            raise UsageError(
                f"figure({metric!r}) does not say whose", hint="name both: figure(METRIC, FORM, runbook=…, section=…)"
            )
        return self.last(runbook).figure(metric, form, section=section)

    def last(self, runbook: str, kind: str = "") -> RunQuotes:
        """The newest whole run of a runbook that has ended, on this stack or else on any; false when there is none.

        Args:
            runbook: Its name.
            kind: Its kind, where runbooks of two kinds have that name.
        """
        found = next(self._whole(runbook, kind, self._notes.stack), None)
        if found is None and self._notes.stack:
            found = next(self._whole(runbook, kind, ""), None)
        return self._quotes(found, runbook, kind)

    def runs(self, runbook: str, last: int = 8) -> list[RunQuotes]:
        """The newest whole runs of a runbook on this stack that have ended, newest first."""
        found = self._whole(runbook, "", self._notes.stack)
        return [self._quotes(view, runbook, "") for view, _ in zip(found, range(last), strict=False)]

    def known(self, *kinds: str) -> list[KnownRunbook]:
        """The runbooks of these kinds that can be found."""
        return [self._known(each) for each in self._runbooks if each.kind.value in kinds]

    def runbook(self, name: str) -> KnownRunbook | None:
        """A runbook by its name; None when there is none."""
        return next((self._known(each) for each in self._runbooks if each.name == name), None)

    def services(self) -> list[dict[str, object]]:
        """The services of this stack that have an address."""
        return self.stack.services

    def ask(self, what: str, command: str = "") -> str:
        """A remark that something is not measured, and a problem of the document."""
        return self._notes.missing(what, command)

    def _known(self, runbook: Runbook) -> KnownRunbook:
        last = self.last(runbook.name, runbook.kind.value)
        return KnownRunbook(runbook, last, self._notes, self.stack.absent(runbook))

    def _quotes(self, view: RunView | None, runbook: str, kind: str) -> RunQuotes:
        kinds = {each.kind.value for each in self._runbooks if each.name == runbook}
        recovery = (kind or next(iter(kinds), "")) == RECOVERY
        drill = DRILL if runbook in self._drilled else ""  # run where nothing is broken, it would measure nothing
        command = drill if recovery else COMMANDS.get(runbook, f"k2run run {runbook}")
        return RunQuotes(Source(view=view, name=runbook, command=command, notes=self._notes))

    def _whole(self, runbook: str, kind: str, stack: str) -> Iterator[RunView]:
        """The runs that ended and were not of a part of the runbook only, newest first."""
        for run in reversed(self._history.runs(name=runbook, stack=stack, last=NEWEST)):
            fits = run.outcome not in {"", "interrupted"} and kind in {"", run.kind}
            view = self._view(run.run) if fits else None
            if view is not None and view.finished is not None and not view.finished.partial:
                yield view

    def _view(self, run: str) -> RunView | None:
        if run not in self._views:
            try:
                self._views[run] = view_of(read_journal(self._runs / run))
            except K2runError:
                self._views[run] = None
        return self._views[run]
