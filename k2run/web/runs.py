"""Past and present runs in a line each, read from the two ends of their journals."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from msgspec import Struct

from k2run.app.abort import process_of
from k2run.engine.events import RunFinished, RunStarted, Scored, SectionFinished, StepFinished
from k2run.engine.journal import JOURNAL, ends_of, newest_first, read_journal
from k2run.errors import UsageError
from k2run.evidence.view import tone_of, word_of
from k2run.files import LONGEST_RUN, name_objection

if TYPE_CHECKING:
    from pathlib import Path

    from k2run.engine.store import Store


class NotFound(UsageError):
    """No such run, runbook, stack or incident."""


class RunSummary(Struct, frozen=True, kw_only=True):
    """One run in a line.

    Attributes:
        state: `running`, `died`, or the outcome with which it ended.
        word: GO, NO-GO, PASSED, FAILED …, in capitals; empty while it runs.
        light: `good`, `warn`, `bad` or `quiet`.
    """

    id: str
    name: str
    title: str
    kind: str
    stack: str
    at: str
    by: str = ""
    state: str = ""
    word: str = ""
    verdict: str = ""
    light: str = "quiet"
    score: float | None = None
    seconds: float = 0.0


class Runs:
    """The runs of a k2run home; what has ended is read once.

    Args:
        store: The k2run home.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, tuple[int, RunSummary]] = {}

    def folder(self, run: str) -> Path:
        """The folder of a run, by its whole id; nothing else is looked up by what a browser sends.

        Raises:
            NotFound: There is no such run.
        """
        if not name_objection(run, LONGEST_RUN):
            folder = self._store.home / "runs" / run
            if (folder / JOURNAL).is_file():
                return folder
        raise NotFound("run not found", hint="the Runs page lists all runs")

    def newest(self, count: int, before: int = 0) -> tuple[list[RunSummary], int]:
        """Some runs, newest first, and how many there are in all.

        Args:
            count: How many at most.
            before: How many of the newest to leave out.
        """
        folders = self._store.runs()[::-1]
        briefs = (self.brief(folder) for folder in folders[before : before + count])
        return [brief for brief in briefs if brief is not None], len(folders)

    def open(self) -> list[RunSummary]:
        """The runs that are running, or died and left faults."""
        folders = [self._store.open_run(stack) for stack in self._store.open_stacks()]
        briefs = [self.brief(folder) for folder in folders if folder is not None]
        return [brief for brief in briefs if brief is not None]

    def last_of(self, count: int = 400) -> dict[str, RunSummary]:
        """The newest run of each runbook, by the runbook's name."""
        found: dict[str, RunSummary] = {}
        for brief in self.newest(count)[0]:
            found.setdefault(brief.name, brief)
        return found

    def brief(self, folder: Path) -> RunSummary | None:
        """A run in a line; None when it has not started."""
        size = (folder / JOURNAL).stat().st_size
        known = self._known.get(folder.name)
        if known is not None and known[0] == size and known[1].state not in {"running", "died"}:
            return known[1]
        begun, over = ends_of(folder)
        if begun is None:
            return None
        brief = _brief(begun, over, folder, state="" if over else self._state(folder))
        self._known[folder.name] = (size, brief)
        return brief

    def _state(self, folder: Path) -> str:
        return "running" if process_of(self._store, folder.name, read_journal(folder)) else "died"


def _brief(begun: RunStarted, over: RunFinished | None, folder: Path, state: str) -> RunSummary:
    after_steps = takewhile(lambda event: not isinstance(event, StepFinished | SectionFinished), newest_first(folder))
    scored = next((event for event in after_steps if isinstance(event, Scored)), None) if over else None
    last = over or next(newest_first(folder), begun)
    return RunSummary(
        id=begun.run,
        name=begun.name,
        title=begun.title or begun.name,
        kind=begun.kind,
        stack=begun.stack,
        at=begun.at,
        by=begun.by,
        state=over.outcome.value if over else state,
        word=word_of(over, scored) if over else "",
        verdict=over.verdict if over else "",
        light=tone_of(over) if over else ("bad" if state == "died" else "live"),
        score=scored.score if scored and over else None,
        seconds=over.seconds if over else last.t,
    )
